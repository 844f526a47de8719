package blocks

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestReadGobench(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	text := `goos: linux
BenchmarkFetch/rtt=0s/fast-2   1   1330365911 ns/op   403.55 MB/s   2.567 CPU-s/GB
BenchmarkFetch/rtt=0s/fast-2   1   1159367782 ns/op   463.07 MB/s   1.976 CPU-s/GB
BenchmarkSwarm-2   1   227 ns/op   1.207 origin/size
PASS
`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := readGobench(name)
	if err != nil {
		t.Fatal(err)
	}
	if v, other, ok := g.best("BenchmarkFetch/rtt=0s/fast", "MB/s", false, "CPU-s/GB"); !ok || v != 463.07 || other != 1.976 {
		t.Errorf("highest: got %v, %v, %v", v, other, ok)
	}
	if v, _, ok := g.best("BenchmarkFetch/rtt=0s/fast", "MB/s", true, ""); !ok || v != 403.55 {
		t.Errorf("lowest: got %v, %v", v, ok)
	}
	if _, _, ok := g.best("BenchmarkPut/store", "MB/s", false, ""); ok {
		t.Error("a benchmark that did not run has a result")
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	r.figure("mount_ms", "mount", 2.19712, "")
	r.figure("put_mbps", "put", 700, "")
	r.absent(errNoBench, "put_mbps", "rss_mb")
	r.absent(nil, "zipf_local_ratio")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if got, want := lines[len(lines)-1], `{"mount_ms":2.197,"put_mbps":700}`; got != want {
		t.Errorf("last line: got %s, want %s", got, want)
	}
	for _, want := range []string{"target <= 5.00, met", "target >= 800, MISSED", "no rss_mb: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "zipf") || strings.Contains(out.String(), "no put") {
		t.Errorf("table names what is not missing:\n%s", out.String())
	}
}

// TestRebuilt checks that inputs depend on the seed alone, and that the next build is mostly the one before.
func TestRebuilt(t *testing.T) {
	text := corpus(seed)
	files := pythonFiles(seed, "site", 3000, 1)
	if !reflect.DeepEqual(files, pythonFiles(seed, "site", 3000, 1)) {
		t.Error("equal seeds, other files")
	}
	next := rebuilt(seed, files)
	if !reflect.DeepEqual(next, rebuilt(seed, files)) {
		t.Error("equal seeds, another build")
	}
	a, err := build(files, text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := build(next, text)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[any]int)
	for ref := range a.Refs() {
		have[ref.CID] = ref.Size
	}
	fresh, all := 0, 0
	for ref := range b.Refs() {
		all += ref.Size
		if _, old := have[ref.CID]; !old {
			fresh += ref.Size
		}
	}
	if fresh == 0 || fresh > all/4 {
		t.Errorf("%d of %d bytes are new", fresh, all)
	}
}
