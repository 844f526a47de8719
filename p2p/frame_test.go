package p2p

import (
	"bytes"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x'}, uint16(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(9))
	f.Add([]byte{0, 0, 0, 9, 'x'}, uint16(9))
	f.Fuzz(func(t *testing.T, in []byte, limit uint16) {
		b, err := readFrame(bytes.NewReader(in), int(limit))
		if err != nil {
			return
		}
		if len(b) > int(limit) || !bytes.HasPrefix(in, appendFrame(nil, b)) {
			t.Errorf("read %x, limit %d", b, limit)
		}
	})
}

func FuzzParseAddr(f *testing.F) {
	f.Add("/ip4/127.0.0.1/udp/7071/quic-v1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
	f.Add("/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
	f.Fuzz(func(t *testing.T, s string) {
		info, id, err := parseAddr(s)
		if err == nil && info.ID.String() != string(id) {
			t.Errorf("parseAddr(%q) = %v, %s", s, info, id)
		}
	})
}

func FuzzCleanError(f *testing.F) {
	f.Add("no\x1b[2J\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := cleanError(s)
		if len(got) > maxError || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %U", got, r)
			}
		}
	})
}
