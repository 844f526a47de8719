package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxEnvelope bounds an envelope. The largest message of the market, an offer set of a big host, takes about
// 100 KiB; 1 MiB leaves room and still bounds what a stranger can make us hash.
const MaxEnvelope = 1 << 20

// maxDomain bounds a domain to what a one-byte length can say.
const maxDomain = 127

// The parts of an envelope between its variable fields.
const (
	keyField       = "\x0a\x24" + publicKeyPrefix
	typeField      = "\x12"
	payloadField   = "\x1a"
	signatureField = "\x2a\x40"
)

// Seal signs payload for the given domain and returns the envelope.
func Seal(k Key, domain string, payload []byte) ([]byte, error) {
	if k.IsZero() {
		return nil, errors.New("seal envelope: no key")
	}
	if domain == "" || len(domain) > maxDomain {
		return nil, fmt.Errorf("seal envelope: domain of %d bytes, want 1 to %d", len(domain), maxDomain)
	}
	private := k.private()
	e := make([]byte, 0, len(payload)+2*len(domain)+160)
	e = append(e, keyField...)
	e = append(e, private[ed25519.PrivateKeySize-ed25519.PublicKeySize:]...)
	e = append(e, typeField...)
	e = appendBytes(e, []byte(domain))
	e = append(e, payloadField...)
	e = appendBytes(e, payload)
	e = append(e, signatureField...)
	e = append(e, ed25519.Sign(private, signed(domain, payload))...)
	if len(e) > MaxEnvelope {
		return nil, fmt.Errorf("seal envelope: %d bytes, at most %d", len(e), MaxEnvelope)
	}
	return e, nil
}

// Open checks that envelope was sealed for domain and returns its payload and signer. Whether that signer may
// say what it says is the caller's to decide. The payload shares memory with the envelope.
func Open(domain string, envelope []byte) (payload []byte, signer ID, err error) {
	payload, public, signature, err := split(domain, envelope)
	if err != nil {
		return nil, "", err
	}
	if !ed25519.Verify(public, signed(domain, payload), signature) {
		return nil, "", fmt.Errorf("open envelope: signature does not hold: %w", ErrInvalid)
	}
	return payload, idOf(public), nil
}

// Reopen is [Open] for an envelope that was opened before and has been kept where its bytes cannot have changed
// unnoticed: it does not check the signature again, which is nearly all of the work. The signer is only who is named.
func Reopen(domain string, envelope []byte) (payload []byte, signer ID, err error) {
	payload, public, _, err := split(domain, envelope)
	if err != nil {
		return nil, "", err
	}
	return payload, idOf(public), nil
}

// split takes an envelope apart.
func split(domain string, envelope []byte) (payload []byte, public ed25519.PublicKey, signature []byte, err error) {
	if len(envelope) > MaxEnvelope {
		return nil, nil, nil, fmt.Errorf("open envelope: %d bytes, at most %d: %w", len(envelope), MaxEnvelope, ErrInvalid)
	}
	rest, ok := bytes.CutPrefix(envelope, []byte(keyField))
	if !ok || len(rest) < ed25519.PublicKeySize {
		return nil, nil, nil, fmt.Errorf("open envelope: no Ed25519 key: %w", ErrInvalid)
	}
	public = ed25519.PublicKey(rest[:ed25519.PublicKeySize])
	kind, rest, err := cutBytes(rest[ed25519.PublicKeySize:], typeField)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open envelope: payload type: %w", err)
	}
	if string(kind) != domain {
		return nil, nil, nil, fmt.Errorf("open envelope: sealed for %.64q, want %q: %w", kind, domain, ErrInvalid)
	}
	payload, rest, err = cutBytes(rest, payloadField)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open envelope: payload: %w", err)
	}
	signature, ok = bytes.CutPrefix(rest, []byte(signatureField))
	if !ok || len(signature) != ed25519.SignatureSize {
		return nil, nil, nil, fmt.Errorf("open envelope: no Ed25519 signature: %w", ErrInvalid)
	}
	return payload, public, signature, nil
}

// signed returns the bytes that the signature covers.
func signed(domain string, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+2*len(domain)+16)
	b = appendBytes(b, []byte(domain))
	b = appendBytes(b, []byte(domain))
	return appendBytes(b, payload)
}

func appendBytes(b, field []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(field))), field...)
}

// cutBytes takes one length-delimited field with the given tag off b.
func cutBytes(b []byte, tag string) (field, rest []byte, err error) {
	b, ok := bytes.CutPrefix(b, []byte(tag))
	if !ok {
		return nil, nil, fmt.Errorf("missing: %w", ErrInvalid)
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, fmt.Errorf("cut short: %w", ErrInvalid)
	}
	if len(binary.AppendUvarint(nil, size)) != n {
		return nil, nil, fmt.Errorf("length not minimal: %w", ErrInvalid)
	}
	return b[n : n+int(size)], b[n+int(size):], nil
}
