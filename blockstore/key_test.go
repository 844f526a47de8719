package blockstore_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

// counting is the salt of the known answers: 0, 1, … 31.
func counting() blockstore.Salt {
	var s blockstore.Salt
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

// TestKeyKnownAnswers compares with what Python's hmac and `openssl enc -aes-256-ctr` give.
func TestKeyKnownAnswers(t *testing.T) {
	large := make([]byte, blockstore.MaxBlock)
	for i := range large {
		large[i] = byte(i*i + i>>8)
	}
	for _, c := range []struct {
		plain     []byte
		key, tail string // in hex; the last bytes of what was encrypted
		cid       string
	}{
		{
			[]byte("three tokens here\n"), "a28bc337e61556de4cb551fb3caf53378233ab5c5e3fc3d7d5abe621b97cf477",
			"073e84328e8424f6dd96644696237ba936cc", "bafkreia7gymvcgk5xm4sfn2vqv4tzv6jfsqezveavytbmvvl3gco6c2m2u",
		},
		{
			large, "5d77ac131a6aa7f18b7eaa395f6d64934c698e40278d6d36ced88c2b3650dd69",
			"dd01e31b9c51d01e", "bafkreid3l3lasf5ory4swurizegnxgno6w2bufo2hdgggql56ymnygl5la",
		},
	} {
		k := counting().Key(c.plain)
		if got := hex.EncodeToString(k[:]); got != c.key {
			t.Errorf("key of %d bytes: got %s, want %s", len(c.plain), got, c.key)
		}
		p := bytes.Clone(c.plain)
		k.Crypt(p, 0)
		if got := hex.EncodeToString(p[len(p)-len(c.tail)/2:]); got != c.tail {
			t.Errorf("%d bytes encrypted: they end with %s, want %s", len(p), got, c.tail)
		}
		if got := blockstore.Sum(p).String(); got != c.cid {
			t.Errorf("name of %d bytes: got %s, want %s", len(p), got, c.cid)
		}
	}
}

func TestCryptSeeks(t *testing.T) {
	plain := random(9, 3*4096+5)
	whole := bytes.Clone(plain)
	k := counting().Key(plain)
	k.Crypt(whole, 0)
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(0, len(plain)).Draw(t, "from")
		to := rapid.IntRange(from, len(plain)).Draw(t, "to")
		part := bytes.Clone(whole[from:to])
		k.Crypt(part, int64(from))
		if !bytes.Equal(part, plain[from:to]) {
			t.Fatalf("bytes %d to %d are not what was encrypted", from, to)
		}
	})
}

func TestSecretsAreNotPrinted(t *testing.T) {
	salt := counting()
	key := salt.Key([]byte("x"))
	secrets := []string{key.Base64(), salt.Base64(), hex.EncodeToString(key[:]), hex.EncodeToString(salt[:]), "\x00\x01\x02", "[0 1 2", "0x0, 0x1"}
	var out bytes.Buffer
	tree := blockstore.Tree{Keys: []blockstore.Key{key}}
	image := blockstore.Image{TreeKey: key}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+verb+"\n", key, salt, &key, tree, image)
	}
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Info("key", "key", key, "salt", salt, "tree", tree)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", key, "salt", salt)
	for _, s := range secrets {
		if strings.Contains(out.String(), s) {
			t.Errorf("%q was printed", s)
		}
	}
	if !strings.Contains(out.String(), "redacted") {
		t.Errorf("got %s, want redacted", out.String())
	}
	if b, err := json.Marshal(map[string]any{"key": key}); err == nil {
		t.Errorf("a key became JSON: %s", b)
	}
	if b, err := json.Marshal(salt); err == nil {
		t.Errorf("a salt became JSON: %s", b)
	}
}

func TestSecretsAsText(t *testing.T) {
	salt := blockstore.NewSalt()
	if got, err := blockstore.ParseSalt(salt.Base64()); err != nil || got != salt {
		t.Errorf("salt: %v", err)
	}
	key := salt.Key([]byte("x"))
	if got, err := blockstore.ParseKey(key.Base64()); err != nil || got != key {
		t.Errorf("key: %v", err)
	}
	if salt == blockstore.NewSalt() {
		t.Error("two salts are equal")
	}
	text := key.Base64()
	for _, bad := range []string{"", text[:43], text + "=", text[:42] + "!=", "\n" + text, strings.Repeat("A", 43) + "="} {
		for what, err := range map[string]error{"key": second(blockstore.ParseKey(bad)), "salt": second(blockstore.ParseSalt(bad))} {
			if err == nil || bad != "" && strings.Contains(err.Error(), bad) {
				t.Errorf("%s %q: got %v, want an error without it", what, bad, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkCrypt(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			p, k := random(1, size), counting().Key(nil)
			b.SetBytes(int64(size))
			for b.Loop() {
				k.Crypt(p, 4096)
			}
		})
	}
}
