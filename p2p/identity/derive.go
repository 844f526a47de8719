package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// Derive returns the key that belongs to a purpose, the same one each time: an Ed25519 key whose seed is [Key.Secret] of
// the purpose. Keys of different purposes tell nothing about each other or about k.
func (k Key) Derive(purpose string) (Key, error) {
	seed, err := k.Secret(purpose)
	if err != nil {
		return Key{}, err
	}
	return newKey(ed25519.NewKeyFromSeed(seed[:])), nil
}

// Secret returns 32 bytes that only who has k can know, the same ones each time: HKDF-SHA-256 (RFC 5869) over k's seed
// without salt, with the purpose as info. Never print or log the result.
func (k Key) Secret(purpose string) ([32]byte, error) {
	if k.IsZero() {
		return [32]byte{}, fmt.Errorf("secret for %q: of the zero key: %w", purpose, ErrInvalid)
	}
	b, err := hkdf.Key(sha256.New, k.private().Seed(), nil, purpose, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("secret for %q: %w", purpose, err)
	}
	return [32]byte(b), nil
}
