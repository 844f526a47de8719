package blockstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
)

// Key opens one private block or list. The key of a root opens all that the root stands for. It prints as "redacted".
type Key [32]byte

// Salt makes private blocks one customer's own: without it nobody can tell what a block holds by encrypting what it
// might hold. It prints as "redacted".
type Salt [32]byte

// keyDomain tells the use of a salt here from any other.
const keyDomain = "rialto private 1\n"

var (
	errSecret = errors.New("a key or a salt is not marshalled; use Base64")
	errKey    = errors.New("want 32 bytes in base64")
)

// NewSalt makes a salt from the operating system's random source.
func NewSalt() Salt {
	var s Salt
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Key returns the key of what has these plain bytes.
//
// This is convergent encryption (Douceur et al., "Reclaiming Space from Duplicate Files in a Serverless Distributed File
// System", ICDCS 2002) behind a secret: HMAC-SHA256(salt, domain ‖ SHA-256(plain)). Equal bytes of one customer have
// equal keys, those of two customers never.
func (s Salt) Key(plain []byte) Key {
	sum := sha256.Sum256(plain)
	return s.keyOf(sum)
}

func (s Salt) keyOf(sum [sha256.Size]byte) Key {
	h := hmac.New(sha256.New, s[:])
	h.Write([]byte(keyDomain))
	h.Write(sum[:])
	return Key(h.Sum(nil))
}

// Crypt encrypts or decrypts in place p, which is what lies at an offset of what the key opens, from 0 on.
//
// It is AES-256 in counter mode that begins at zero. A fixed beginning is sound because a key stands for one plaintext:
// NIST SP 800-38A, appendix B, asks that no counter block is used twice under one key for different messages. Counter
// mode does not notice a change; the block's name does, which is the hash of the encrypted bytes.
func (k Key) Crypt(p []byte, off int64) {
	c, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // of a key's length, which is right
	}
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(off/aes.BlockSize)) //nolint:gosec // an offset is not negative
	stream := cipher.NewCTR(c, counter[:])
	if skip := off % aes.BlockSize; skip > 0 {
		var unused [aes.BlockSize]byte
		stream.XORKeyStream(unused[:skip], unused[:skip])
	}
	stream.XORKeyStream(p, p)
}

// IsZero reports whether k opens nothing.
func (k Key) IsZero() bool { return k == Key{} }

// String hides the key.
func (Key) String() string { return "redacted" }

// String hides the salt.
func (Salt) String() string { return "redacted" }

// Format hides the key from every verb.
func (Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, "redacted") }

// Format hides the salt from every verb.
func (Salt) Format(s fmt.State, _ rune) { fmt.Fprint(s, "redacted") }

// LogValue hides the key from logs.
func (Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// LogValue hides the salt from logs.
func (Salt) LogValue() slog.Value { return slog.StringValue("redacted") }

// MarshalText keeps the key out of JSON: who has to store it calls Base64, on purpose.
func (Key) MarshalText() ([]byte, error) { return nil, errSecret }

// MarshalText keeps the salt out of JSON: who has to store it calls Base64, on purpose.
func (Salt) MarshalText() ([]byte, error) { return nil, errSecret }

// Base64 returns the key as text. Never log the result.
func (k Key) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Base64 returns the salt as text. Never log the result.
func (s Salt) Base64() string { return base64.StdEncoding.EncodeToString(s[:]) }

// ParseKey reads what Base64 wrote. Its error does not repeat the text.
func ParseKey(s string) (Key, error) {
	k, err := parseSecret(s)
	if err != nil || k == [32]byte{} {
		return Key{}, fmt.Errorf("key of private blocks: %w", errKey)
	}
	return k, nil
}

// ParseSalt reads what Base64 wrote. Its error does not repeat the text.
func ParseSalt(s string) (Salt, error) {
	salt, err := parseSecret(s)
	if err != nil || salt == [32]byte{} {
		return Salt{}, fmt.Errorf("salt of private blocks: %w", errKey)
	}
	return salt, nil
}

func parseSecret(s string) (secret [32]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(secret) || len(s) != base64.StdEncoding.EncodedLen(len(secret)) {
		return secret, errKey
	}
	copy(secret[:], b)
	return secret, nil
}
