package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"testing"
)

func TestDerive(t *testing.T) {
	k := newKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)))
	first, err := k.Derive("a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.Derive("a")
	if err != nil || again.ID() != first.ID() {
		t.Errorf("the second time: %s, %v; want %s", again.ID(), err, first.ID())
	}
	for _, purpose := range []string{"", "b", "a\x00"} {
		other, err := k.Derive(purpose)
		if err != nil || other.ID() == first.ID() || other.ID() == k.ID() {
			t.Errorf("purpose %q: %s, %v; want another key", purpose, other.ID(), err)
		}
	}
	if _, err := (Key{}).Derive("a"); err == nil {
		t.Error("the zero key derives one")
	}
}

// TestSecretIsHKDF holds the derivation to what is written down: changing it would change every customer's key.
// The wanted value is `openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:0707… -kdfopt info:test HKDF`.
func TestSecretIsHKDF(t *testing.T) {
	k := newKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)))
	got, err := k.Secret("test")
	if err != nil {
		t.Fatal(err)
	}
	if want := "9cd923b2a7b612b525b1f93415466f7ca72c780713d5344eb74f4cc229ca5919"; hex.EncodeToString(got[:]) != want {
		t.Errorf("secret %x, want %s", got, want)
	}
}
