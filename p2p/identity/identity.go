// Package identity holds the keys, names and signed envelopes of the market's parties. It needs only the
// standard library and base58, so that the customer's command line stays small; what it writes is what
// libp2p reads, and its tests compare the two.
//
// # Keys and IDs
//
// Every party has one Ed25519 key. Its [ID] is the libp2p peer id: base58 (Bitcoin alphabet) of the identity
// multihash of the libp2p PublicKey message, so every ID starts with "12D3KooW":
//
//	00 24  08 01 12 20  PUBLIC(32)
//
// Other key types and other spellings of the same id are refused: one party has one name.
//
// A key file is a PKCS #8 "PRIVATE KEY" block in PEM, mode 0600.
//
// # Envelopes
//
// An envelope is a libp2p signed envelope (RFC 0002) in its one canonical encoding:
//
//	0a 24  08 01 12 20  PUBLIC(32)   field 1, the signer's key
//	12 LEN DOMAIN                    field 2, the payload type: here the domain itself
//	1a LEN PAYLOAD                   field 3, present even when empty
//	2a 40  SIGNATURE(64)             field 5, Ed25519
//
// LEN is a minimal unsigned varint. The signature covers LEN DOMAIN LEN DOMAIN LEN PAYLOAD: the domain once as
// the domain and once as the payload type. A signature made for one domain therefore never passes in another,
// and since no other byte string decodes to the same envelope, two different envelopes never mean the same.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mr-tron/base58"
)

// ErrInvalid reports an ID, key file or envelope that is malformed or whose signature does not hold.
var ErrInvalid = errors.New("invalid")

// ID names a party: the libp2p peer id of its Ed25519 key. The zero ID names nobody.
type ID string

// publicKeyPrefix starts the libp2p PublicKey message: type 1 (Ed25519), then 32 bytes of data.
const publicKeyPrefix = "\x08\x01\x12\x20"

// idPrefix is the identity multihash header of a PublicKey message of 36 bytes.
const idPrefix = "\x00\x24" + publicKeyPrefix

// maxIDText bounds what is given to the base58 decoder, whose cost grows with the square of the length.
// An Ed25519 peer id takes 52 characters.
const maxIDText = 64

// ParseID reads a peer id and refuses all but the canonical text of an Ed25519 one.
func ParseID(s string) (ID, error) {
	if _, err := ID(s).publicKey(); err != nil {
		return "", err
	}
	return ID(s), nil
}

func idOf(public ed25519.PublicKey) ID {
	return ID(base58.Encode(append([]byte(idPrefix), public...)))
}

func (id ID) publicKey() (ed25519.PublicKey, error) {
	if len(id) > maxIDText {
		return nil, fmt.Errorf("peer id of %d characters: %w", len(id), ErrInvalid)
	}
	b, err := base58.Decode(string(id))
	if err != nil || len(b) != len(idPrefix)+ed25519.PublicKeySize || string(b[:len(idPrefix)]) != idPrefix {
		return nil, fmt.Errorf("peer id %q: want that of an Ed25519 key, 12D3KooW…: %w", string(id), ErrInvalid)
	}
	public := ed25519.PublicKey(b[len(idPrefix):])
	if idOf(public) != id {
		return nil, fmt.Errorf("peer id %q: not canonical: %w", string(id), ErrInvalid)
	}
	return public, nil
}

// Key is a party's private key. It prints as "redacted". The zero Key is invalid.
type Key struct {
	id ID
	// A function, because fmt prints what unexported fields hold and point to, past any String method.
	private func() ed25519.PrivateKey
}

// Generate makes a fresh key from the operating system's random source.
func Generate() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("generate identity: %w", err)
	}
	return newKey(private), nil
}

func newKey(private ed25519.PrivateKey) Key {
	public := ed25519.PublicKey(private[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	return Key{id: idOf(public), private: func() ed25519.PrivateKey { return private }}
}

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k.private == nil }

// ID returns the name of k's party; that of the zero Key is empty.
func (k Key) ID() ID { return k.id }

// Private returns the private key for a transport that must sign with it, and nil for the zero Key.
// Never print or log the result; do not change it.
func (k Key) Private() ed25519.PrivateKey {
	if k.IsZero() {
		return nil
	}
	return k.private()
}

// String hides the key.
func (Key) String() string { return "redacted" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "redacted" }

// LogValue hides the key from logs.
func (Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// MarshalText hides the key from encoders.
func (Key) MarshalText() ([]byte, error) { return []byte("redacted"), nil }
