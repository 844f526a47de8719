package tunnel

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
)

// Key is a WireGuard public key (X25519). The zero Key is invalid.
type Key [32]byte

// PrivateKey is a WireGuard private key. It prints as "redacted".
type PrivateKey [32]byte

var errSecret = errors.New("tunnel key: a private key is not marshalled; use Base64")

// NewPrivateKey makes a fresh key from the operating system's random source.
func NewPrivateKey() (PrivateKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("new tunnel key: %w", err)
	}
	return PrivateKey(k.Bytes()), nil
}

// Public returns the public half.
func (k PrivateKey) Public() (Key, error) {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return Key{}, fmt.Errorf("tunnel key: %w", err)
	}
	return Key(p.PublicKey().Bytes()), nil
}

// String hides the key.
func (PrivateKey) String() string { return "redacted" }

// Format hides the key from every verb.
func (PrivateKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, "redacted") }

// LogValue hides the key from logs.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue("redacted") }

// MarshalText keeps the key out of JSON: who has to store it calls Base64, on purpose.
func (PrivateKey) MarshalText() ([]byte, error) { return nil, errSecret }

// Base64 returns the key as WireGuard's tools write it. Never log the result.
func (k PrivateKey) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k is the zero key.
func (k Key) IsZero() bool { return k == Key{} }

// String returns the key as WireGuard's tools write it.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(text []byte) error {
	p, err := ParseKey(string(text))
	if err != nil {
		return err
	}
	*k = p
	return nil
}

// ParseKey reads a public key in standard base64, 44 characters.
func ParseKey(s string) (Key, error) {
	b, err := parse32(s)
	return Key(b), err
}

// ParsePrivateKey reads a private key in standard base64, 44 characters.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parse32(s)
	return PrivateKey(b), err
}

func parse32(s string) ([32]byte, error) {
	var k [32]byte
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) || len(s) != base64.StdEncoding.EncodedLen(len(k)) {
		return k, fmt.Errorf("tunnel key: want 32 bytes in base64")
	}
	copy(k[:], b)
	return k, nil
}
