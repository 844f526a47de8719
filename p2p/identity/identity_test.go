package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/mr-tron/base58"
)

func generate(tb testing.TB) Key {
	tb.Helper()
	k, err := Generate()
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func TestIDIsLibp2pPeerID(t *testing.T) {
	k := generate(t)
	private, err := crypto.UnmarshalEd25519PrivateKey(k.Private())
	if err != nil {
		t.Fatal(err)
	}
	want, err := peer.IDFromPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(k.ID()); got != want.String() {
		t.Errorf("ID() = %s, want %s", got, want)
	}
	if got, err := ParseID(want.String()); err != nil || got != k.ID() {
		t.Errorf("ParseID(%s) = %s, %v", want, got, err)
	}
}

func TestParseIDRefuses(t *testing.T) {
	id := string(generate(t).ID())
	for name, s := range map[string]string{
		"empty":         "",
		"cut":           id[:len(id)-1],
		"leading zero":  "1" + id,
		"not base58":    "0" + id[1:],
		"an RSA id":     "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
		"secp256k1":     base58.Encode(append([]byte("\x00\x25\x08\x02\x12\x21"), make([]byte, 33)...)),
		"a CID":         "bafzaajaiaejca4syrpdu6gdx4wsdnokxkprgzxf4wrstuc34gxw5k5jrag2so5gk",
		"very long":     strings.Repeat("z", 1<<20),
		"trailing byte": base58.Encode(append([]byte(idPrefix), make([]byte, 33)...)),
	} {
		if got, err := ParseID(s); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("%s: ParseID = %q, %v, want ErrInvalid", name, got, err)
		}
	}
}

func TestKeyIsRedacted(t *testing.T) {
	k := generate(t)
	type nested struct{ key Key }
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", k)
	text, err := json.Marshal(map[string]any{"key": k})
	if err != nil {
		t.Fatal(err)
	}
	outputs := []string{log.String(), string(text)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		outputs = append(outputs, fmt.Sprintf(verb, k), fmt.Sprintf(verb, nested{k}), fmt.Sprintf(verb, &k))
	}
	seed := k.Private().Seed()
	for _, out := range outputs {
		for _, leak := range []string{
			fmt.Sprintf("%x", seed[:8]), strings.Trim(fmt.Sprintf("%d", seed[:8]), "[]"), string(seed[:8]),
			strings.Trim(fmt.Sprintf("%#v", seed[:4]), "[]byte{}"),
		} {
			if strings.Contains(out, leak) {
				t.Errorf("private key in %q", out)
			}
		}
	}
}

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "identity.pem")
	first, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreate(path)
	if err != nil || again.ID() != first.ID() {
		t.Fatalf("second LoadOrCreate = %s, %v, want %s", again.ID(), err, first.ID())
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("folder holds %v, %v, want the key alone", entries, err)
	}
	if runtime.GOOS == "windows" {
		t.Skip("windows has no file modes")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreate(path); !errors.Is(err, ErrInvalid) {
		t.Errorf("readable by the group: %v, want ErrInvalid", err)
	}
}

func TestLoadOrCreateRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	var wg sync.WaitGroup
	ids := make([]ID, 8)
	for i := range ids {
		wg.Go(func() {
			k, err := LoadOrCreate(path)
			if err != nil {
				t.Error(err)
			}
			ids[i] = k.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("racing processes got different identities: %v", ids)
		}
	}
}

func TestLoadRefusesBadFiles(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"not pem":    "hello",
		"bad pkcs8":  "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"other type": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	} {
		path := filepath.Join(t.TempDir(), "identity.pem")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreate(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%s: the file was overwritten", name)
		}
	}
}

const testDomain = "rialto/1/test"

func TestEnvelope(t *testing.T) {
	k := generate(t)
	for _, payload := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("ab"), 5000)} {
		e, err := Seal(k, testDomain, payload)
		if err != nil {
			t.Fatal(err)
		}
		got, signer, err := Open(testDomain, e)
		if err != nil || !bytes.Equal(got, payload) || signer != k.ID() {
			t.Errorf("Open = %d bytes, %s, %v", len(got), signer, err)
		}
		if _, _, err := Open("rialto/1/other", e); !errors.Is(err, ErrInvalid) {
			t.Errorf("other domain: %v, want ErrInvalid", err)
		}
	}
	if _, err := Seal(Key{}, testDomain, nil); err == nil {
		t.Error("sealed without a key")
	}
	if _, err := Seal(k, "", nil); err == nil {
		t.Error("sealed without a domain")
	}
	if _, err := Seal(k, testDomain, make([]byte, MaxEnvelope)); err == nil {
		t.Error("sealed too much")
	}
	if _, _, err := Open(testDomain, make([]byte, MaxEnvelope+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too long: %v, want ErrInvalid", err)
	}
}

// A relabelled envelope passes the comparison of the payload type and must fall to the signature.
func TestEnvelopeRelabelled(t *testing.T) {
	e, err := Seal(generate(t), "rialto/1/hold", []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	e = bytes.Replace(e, []byte("rialto/1/hold"), []byte("rialto/1/bold"), 1)
	if _, _, err := Open("rialto/1/bold", e); !errors.Is(err, ErrInvalid) {
		t.Errorf("relabelled: %v, want ErrInvalid", err)
	}
}

// The signature does not cover how the lengths are written, so only one way may pass.
func TestEnvelopeHasOneEncoding(t *testing.T) {
	e, err := Seal(generate(t), testDomain, []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{typeField + "\x0d" + testDomain, payloadField + "\x07payload"} {
		long := field[:1] + string([]byte{field[1] | 0x80, 0}) + field[2:]
		changed := bytes.Replace(e, []byte(field), []byte(long), 1)
		if len(changed) != len(e)+1 {
			t.Fatalf("no %q in %x", field, e)
		}
		if _, _, err := Open(testDomain, changed); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", long, err)
		}
	}
}

func TestEnvelopeEveryBitFlip(t *testing.T) {
	e, err := Seal(generate(t), testDomain, []byte("some payload"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(e) * 8 {
		e[i/8] ^= 1 << (i % 8)
		if _, _, err := Open(testDomain, e); err == nil {
			t.Errorf("bit %d flipped, and the envelope still opens", i)
		}
		e[i/8] ^= 1 << (i % 8)
	}
	for i := range e {
		if _, _, err := Open(testDomain, e[:i]); err == nil {
			t.Errorf("cut to %d bytes, and the envelope still opens", i)
		}
	}
	if _, _, err := Open(testDomain, append(e, 0)); err == nil {
		t.Error("a byte too many, and the envelope still opens")
	}
}

// TestReopen: all that Open checks but the signature.
func TestReopen(t *testing.T) {
	k := generate(t)
	e, err := Seal(k, testDomain, []byte("some payload"))
	if err != nil {
		t.Fatal(err)
	}
	e[len(e)-1] ^= 1
	if payload, signer, err := Reopen(testDomain, e); err != nil || string(payload) != "some payload" || signer != k.ID() {
		t.Errorf("reopened %q of %s, %v", payload, signer, err)
	}
	if _, _, err := Open(testDomain, e); !errors.Is(err, ErrInvalid) {
		t.Errorf("open: %v, want ErrInvalid", err)
	}
	if _, _, err := Reopen(testDomain+"2", e); !errors.Is(err, ErrInvalid) {
		t.Errorf("reopen for another domain: %v, want ErrInvalid", err)
	}
	for i := range e {
		if _, _, err := Reopen(testDomain, e[:i]); !errors.Is(err, ErrInvalid) {
			t.Errorf("cut to %d bytes: %v, want ErrInvalid", i, err)
		}
	}
}

// libp2pRecord is a payload as libp2p's own envelope code wants it.
type libp2pRecord struct{ payload []byte }

func (*libp2pRecord) Domain() string                   { return testDomain }
func (*libp2pRecord) Codec() []byte                    { return []byte(testDomain) }
func (r *libp2pRecord) MarshalRecord() ([]byte, error) { return r.payload, nil }
func (r *libp2pRecord) UnmarshalRecord(b []byte) error { r.payload = b; return nil }

func TestEnvelopeIsLibp2ps(t *testing.T) {
	k := generate(t)
	private, err := crypto.UnmarshalEd25519PrivateKey(k.Private())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := record.Seal(&libp2pRecord{[]byte("payload")}, private)
	if err != nil {
		t.Fatal(err)
	}
	want, err := theirs.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Seal(k, testDomain, []byte("payload"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Seal = %x, %v\nlibp2p's: %x", got, err, want)
	}
	var rec libp2pRecord
	if _, err := record.ConsumeTypedEnvelope(got, &rec); err != nil || string(rec.payload) != "payload" {
		t.Errorf("libp2p reads %q, %v", rec.payload, err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	e, err := Seal(k, testDomain, []byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e)
	f.Add([]byte(keyField))
	f.Fuzz(func(t *testing.T, e []byte) {
		payload, signer, err := Open(testDomain, e)
		if err != nil {
			return
		}
		if _, err := ParseID(string(signer)); err != nil {
			t.Errorf("signer %q: %v", signer, err)
		}
		if signer == k.ID() {
			if again, err := Seal(k, testDomain, payload); err != nil || !bytes.Equal(again, e) {
				t.Errorf("two envelopes for one payload:\n%x\n%x", e, again)
			}
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
	f.Add("1")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		public, err := id.publicKey()
		if err != nil || idOf(public) != id || string(id) != s {
			t.Errorf("ParseID(%q) = %q, %v", s, id, err)
		}
	})
}
