package blockstore

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// CID names a block by its content: CIDv1, codec raw, hash sha2-256. The zero value names nothing.
type CID [sha256.Size]byte

// Digest is a sha256 of anything, in OCI's notation. The zero value is invalid.
type Digest [sha256.Size]byte

// The bytes before the hash in a binary CID: version 1, codec raw, sha2-256, 32 bytes of hash.
const cidPrefix = "\x01\x55\x12\x20"

const digestPrefix = "sha256:"

var (
	errCID    = errors.New("not a CIDv1 of raw data with sha2-256 in base32")
	errDigest = errors.New("not a sha256 digest")
)

// Sum returns the CID of p.
func Sum(p []byte) CID { return sha256.Sum256(p) }

// ParseCID reads the text form of a CID, "bafkrei…".
func ParseCID(s string) (CID, error) {
	var c CID
	// 36 bytes in base32 are 58 digits, behind the multibase letter.
	if len(s) != 59 || s[0] != 'b' {
		return CID{}, fmt.Errorf("parse %q: %w", clip(s), errCID)
	}
	raw, err := lowerBase32.DecodeString(s[1:])
	if err != nil || len(raw) != len(cidPrefix)+len(c) || string(raw[:len(cidPrefix)]) != cidPrefix {
		return CID{}, fmt.Errorf("parse %q: %w", s, errCID)
	}
	copy(c[:], raw[len(cidPrefix):])
	if c.IsZero() || c.String() != s { // the last digit has two bits to spare
		return CID{}, fmt.Errorf("parse %q: %w", s, errCID)
	}
	return c, nil
}

// IsZero reports whether c names nothing.
func (c CID) IsZero() bool { return c == CID{} }

// String returns the text form, "bafkrei…".
func (c CID) String() string {
	return "b" + lowerBase32.EncodeToString(append([]byte(cidPrefix), c[:]...))
}

// Digest returns the same hash in OCI's notation.
func (c CID) Digest() Digest { return Digest(c) }

// MarshalText returns the text form.
func (c CID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the text form.
func (c *CID) UnmarshalText(p []byte) error {
	parsed, err := ParseCID(string(p))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

// ParseDigest reads "sha256:" and 64 lower-case hex digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	digits, found := strings.CutPrefix(s, digestPrefix)
	raw, err := hex.DecodeString(digits)
	if !found || err != nil || len(raw) != len(d) || strings.ToLower(digits) != digits {
		return Digest{}, fmt.Errorf("parse %q: %w", clip(s), errDigest)
	}
	copy(d[:], raw)
	if d.IsZero() {
		return Digest{}, fmt.Errorf("parse %q: %w", s, errDigest)
	}
	return d, nil
}

// IsZero reports whether d is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns "sha256:" and the hex digits.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// CID returns the name of the block whose content has this digest.
func (d Digest) CID() CID { return CID(d) }

// MarshalText returns the text form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *Digest) UnmarshalText(p []byte) error {
	parsed, err := ParseDigest(string(p))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

//nolint:gochecknoglobals // a constant table that the language cannot write as a constant
var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// clip keeps an error about a hostile string readable.
func clip(s string) string {
	return s[:min(len(s), 100)]
}
