package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rialto/provider"
)

func read(t *testing.T, r *logReader) string {
	t.Helper()
	var all bytes.Buffer
	if err := r.drain(func(_ provider.Stream, p []byte) error { all.Write(p); return nil }); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func write(t *testing.T, w *LogWriter, text string) {
	t.Helper()
	if err := w.CopyFrom(provider.Stdout, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func TestLogIsReadWhileItIsWritten(t *testing.T) {
	w, r := NewLogWriter(t.TempDir(), 1<<20), &logReader{}
	r.dir = w.dir
	defer r.close()
	if got := read(t, r); got != "" {
		t.Errorf("empty log reads %q", got)
	}
	for _, text := range []string{"one", "two", strings.Repeat("x", 3*maxFrame), "end"} {
		write(t, w, text)
		if got := read(t, r); got != text {
			t.Errorf("got %.20q…, want %.20q…", got, text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReaderThatIsLeftBehindSaysSo(t *testing.T) {
	w := NewLogWriter(t.TempDir(), 0) // two segments of the least size
	r := &logReader{dir: w.dir}
	defer r.close()
	write(t, w, "first\n")
	if got := read(t, r); got != "first\n" {
		t.Fatalf("got %q", got)
	}
	line := strings.Repeat("y", 999) + "\n"
	for range 200 {
		write(t, w, line)
	}
	got := read(t, r)
	var missing int
	at := strings.Index(got, "[rialto: ")
	if at < 0 {
		t.Fatalf("no note in %d bytes", len(got))
	}
	if _, err := fmt.Sscanf(got[at:], "[rialto: %d bytes", &missing); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(got[at:], "]\n")
	if kept := at + len(after); kept+missing != 200*1000 {
		t.Errorf("kept %d + missing %d", kept, missing)
	}
	if entries, err := os.ReadDir(w.dir); err != nil || len(entries) != segmentsKept {
		t.Errorf("%d segments, %v", len(entries), err)
	}
}

// TestTornFrame is a disk that filled up in the middle of a frame.
func TestTornFrame(t *testing.T) {
	w := NewLogWriter(t.TempDir(), 1<<20)
	r := &logReader{dir: w.dir}
	defer r.close()
	write(t, w, "whole\n")
	if _, err := w.f.Write([]byte{1, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, r); got != "whole\n" {
		t.Errorf("got %q", got)
	}
	w.f.Close() // the next write fails
	write(t, w, "lost\n")
	write(t, w, "after\n")
	if got, want := read(t, r), "[rialto: 5 bytes of output are missing here: the log's limit was reached]\nafter\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzLog reads any bytes as a segment: no panic, no frame beyond the limits.
func FuzzLog(f *testing.F) {
	whole := "RLG1\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02ab\x02\x00\x00\x00\x01c"
	for _, s := range []string{"", "RLG1", whole, whole[:len(whole)-1], whole + "\x03\x00\x00\x00\x01x", whole + "\x01\xff\xff\xff\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(segmentPath(dir, 1), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &logReader{dir: dir}
		defer r.close()
		total := 0
		err := r.drain(func(stream provider.Stream, p []byte) error {
			if stream != provider.Stdout && stream != provider.Stderr || len(p) == 0 || len(p) > maxFrame {
				t.Errorf("frame of stream %d, %d bytes", stream, len(p))
			}
			total += len(p)
			return nil
		})
		if err == nil && total > len(b)+200 {
			t.Errorf("%d bytes out of %d", total, len(b))
		}
	})
}

func TestExitIsReadBack(t *testing.T) {
	dir := t.TempDir()
	if _, recorded, err := ReadExit(dir); recorded || err != nil {
		t.Errorf("recorded %v, %v", recorded, err)
	}
	if err := writeDurable(dir, exitFile, []byte(`{"Code":3,"Reason":"x"}`)); err != nil {
		t.Fatal(err)
	}
	got, recorded, err := ReadExit(dir)
	if want := (provider.Exit{Code: 3, Reason: "x"}); !recorded || err != nil || got != want {
		t.Errorf("got %+v %v %v", got, recorded, err)
	}
}

func TestLastError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	content := `{"level":"warning","msg":"w"}
{"level":"error","msg":"runc run failed: unable to start container process: error during container init: exec: \"x\": not found"}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, ok := lastError(path); !ok || got != `exec: "x": not found` {
		t.Errorf("got %q, %v", got, ok)
	}
	if _, ok := lastError(path + "absent"); ok {
		t.Error("an error from no file")
	}
}
