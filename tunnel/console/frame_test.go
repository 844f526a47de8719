package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, kindStdout, []byte("hello")))
	f.Add(appendFrame(appendFrame(nil, kindBeat, nil), kindStdin, nil))
	f.Add(exitFrame(Exit{Code: 137, Reason: "deadline"}))
	f.Add(exitFrame(Exit{Code: -1}))
	f.Add(resizeFrame(Size{Rows: 24, Cols: 80}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{3, 0, 0, 0, 4, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		buf := make([]byte, MaxPayload)
		var again []byte
		for {
			before := len(data) - r.Len()
			k, p, err := readFrame(r, buf)
			if err != nil {
				if errors.Is(err, io.EOF) && before != len(data) {
					t.Errorf("clean end within a frame, %d of %d bytes", before, len(data))
				}
				break
			}
			again = appendFrame(again, k, p)
			if !bytes.HasPrefix(data, again) {
				t.Fatalf("frames %x are written back as %x", data, again)
			}
			switch k {
			case kindExit:
				if e, err := parseExit(p); err == nil && !bytes.Equal(exitFrame(e), appendFrame(nil, k, p)) {
					t.Errorf("exit %v is written otherwise than %x", e, p)
				}
			case kindResize:
				if s, err := parseResize(p); err != nil || !bytes.Equal(resizeFrame(s), appendFrame(nil, k, p)) {
					t.Errorf("resize %v, %v is written otherwise than %x", s, err, p)
				}
			default:
			}
		}
	})
}

func FuzzExecRequest(f *testing.F) {
	for _, s := range []string{
		`{"args":["sh","-c","ls"],"env":["A=b"],"workdir":"/","tty":true,"rows":24,"cols":80,"stdin":true}`,
		`{"args":[]}`, `{"args":["a"]}x`, `{"args":["a"],"rows":65536}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseExec(data)
		if err != nil {
			return
		}
		if len(r.Args) == 0 || len(r.Args) > maxWords || strings.ContainsRune(strings.Join(r.Args, ""), 0) {
			t.Errorf("accepted %q", data)
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseExec(out); err != nil || !reflect.DeepEqual(trim(again), trim(r)) {
			t.Errorf("%+v comes back as %+v, %v", r, again, err)
		}
	})
}

// trim forgets the difference between no env and an empty one.
func trim(r execRequest) execRequest {
	if len(r.Env) == 0 {
		r.Env = nil
	}
	return r
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", maxText+5), strings.Repeat("€", maxText), strings.Repeat("x", maxText-1) + "€", "\xff"} {
		if got := clip(s); len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid %t", len(got), utf8.ValidString(got))
		}
	}
}
