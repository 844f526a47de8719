package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"rialto/broker/ledger"
)

// fill writes n batches and closes the store.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		batch := []ledger.Mutation{
			{Key: fmt.Sprint("key/", i%7), Value: []byte(strings.Repeat(fmt.Sprint(i), 40))},
			{Key: fmt.Sprint("once/", i), Value: []byte("v"), New: true},
		}
		if _, err := s.Apply(t.Context(), epoch, fmt.Sprint("b", i), batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// edit changes a raw record of the database behind the ledger's back.
func edit(t *testing.T, dir string, prefix string, n int, change func(txn *badger.Txn, key, value []byte) error) {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = []byte(prefix)
		it := txn.NewIterator(o)
		defer it.Close()
		i := 0
		for it.Rewind(); it.Valid(); it.Next() {
			if i++; i <= n {
				continue
			}
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			return change(txn, it.Item().KeyCopy(nil), value)
		}
		return fmt.Errorf("no record %d with prefix %q", n, prefix)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsFound changes records one at a time; opening or auditing the store must notice each.
func TestDamageIsFound(t *testing.T) {
	flip := func(at int) func(*badger.Txn, []byte, []byte) error {
		return func(txn *badger.Txn, key, value []byte) error {
			value[(at%len(value)+len(value))%len(value)] ^= 0x20
			return txn.Set(key, value)
		}
	}
	drop := func(txn *badger.Txn, key, _ []byte) error { return txn.Delete(key) }
	tests := map[string]struct {
		prefix string
		n      int
		change func(*badger.Txn, []byte, []byte) error
	}{
		"byte of a journal head":     {"j", 0, flip(10)},
		"epoch of a journal head":    {"j", 3, flip(0)},
		"id of a journal head":       {"j", 3, flip(-1)},
		"value in the journal":       {"j", 4, flip(-1)},
		"key in the journal":         {"j", 5, flip(4)},
		"journal entry gone":         {"j", 5, drop},
		"journal head gone":          {"j", 6, drop},
		"newest journal entry gone":  {"j", 59, drop},
		"first journal entry gone":   {"j", 0, drop},
		"byte of the state":          {"skey/", 3, flip(5)},
		"state entry gone":           {"sonce/", 2, drop},
		"hash of the head":           {"m/head", 0, flip(-1)},
		"number of the head":         {"m/head", 0, flip(7)},
		"head gone":                  {"m/head", 0, drop},
		"a state key out of nothing": {"skey/", 0, func(txn *badger.Txn, _, v []byte) error { return txn.Set([]byte("sextra"), v) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 20)
			edit(t, dir, tt.prefix, tt.n, tt.change)
			s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty, VerifyTail: 5})
			if err == nil {
				_, err = ledger.Audit(t.Context(), s)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if !errors.Is(err, ledger.ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
		})
	}
}

const probeDir = "RIALTO_LEDGER_PROBE"

// TestProbe is the child of TestFlippedByte: it opens a damaged store and says what it sees.
func TestProbe(t *testing.T) {
	dir := os.Getenv(probeDir)
	if dir == "" {
		t.Skip("only runs as the child of TestFlippedByte")
	}
	s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Audit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	fmt.Println("DIGEST", digest(t, s))
}

func digest(t *testing.T, s ledger.Store) string {
	t.Helper()
	r, err := ledger.Audit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %x", r.Batches, r.Head)
}

// TestFlippedByte flips random bytes of the files that a killed process leaves, write-ahead log and tables.
// Each is opened in a process of its own, because a damaged database may also crash: that is noticed, too.
// What must not happen is a wrong or shorter history.
func TestFlippedByte(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 60) // closed: in a table
	s := openBadger(t, dir)
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 { // in the write-ahead log
		id := fmt.Sprint("wal", i)
		if _, err := s.Apply(t.Context(), epoch, id, []ledger.Mutation{{Key: id, Value: []byte(strings.Repeat(id, 30))}}); err != nil {
			t.Fatal(err)
		}
	}
	want := digest(t, s)
	type file struct {
		used []byte // without the zeros at the end: logs are sparse
		size int64
	}
	files := map[string]file{}
	for _, path := range must(filepath.Glob(filepath.Join(dir, "*")))(t) {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(path); len(p) > 0 && name != "LOCK" && len(bytes.Trim(p, "\x00")) > 0 {
			files[name] = file{bytes.TrimRight(p, "\x00"), int64(len(p))}
		}
	}
	names := slices.Sorted(maps.Keys(files))
	found := 0
	for i := range len(names) + 3 {
		copied := t.TempDir()
		name := names[i%len(names)]
		for n, f := range files {
			p := slices.Clone(f.used)
			if n == name {
				p[rand.IntN(len(p))] ^= 1 << rand.IntN(8)
			}
			path := filepath.Join(copied, n)
			if err := errors.Join(os.WriteFile(path, p, 0o600), os.Truncate(path, f.size)); err != nil {
				t.Fatal(err)
			}
		}
		child := exec.Command(os.Args[0], "-test.run", "^TestProbe$", "-test.v")
		child.Env = append(os.Environ(), probeDir+"="+copied)
		out, err := child.CombinedOutput()
		_, got, seen := strings.Cut(string(out), "DIGEST ")
		switch got, _, _ = strings.Cut(got, "\n"); {
		case err != nil:
			found++
			t.Logf("%s: noticed", name)
		case seen && got != want:
			t.Errorf("a flipped byte in %s was not noticed: %s, want %s", name, got, want)
		}
	}
	if found == 0 {
		t.Error("no flip was noticed: the test tests nothing")
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestCutLogIsFound: Badger drops the end of a damaged write-ahead log without an error; the head file
// remembers that more was acknowledged.
func TestCutLogIsFound(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 10)
	older := t.TempDir()
	if err := os.CopyFS(filepath.Join(older, "db"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	fill2(t, dir)
	head, err := os.ReadFile(filepath.Join(dir, "HEAD"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(older, "db", "HEAD"), head, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), ledger.Config{Dir: filepath.Join(older, "db"), Free: plenty}); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("open of a store that lost its end: %v, want ErrCorrupt", err)
	}
}

func fill2(t *testing.T, dir string) {
	t.Helper()
	s := openBadger(t, dir)
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), epoch, "one more", []ledger.Mutation{{Key: "k", Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
}

// TestEmptyLogIsRetried leaves what a kill between creating and sizing a log file leaves.
func TestEmptyLogIsRetried(t *testing.T) {
	for _, name := range []string{"00077.mem", "000077.vlog"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 3)
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !strings.Contains(log.String(), "retrying open") {
				t.Error("the first attempt did not fail: the test tests nothing")
			}
			if got := digest(t, s); !strings.HasPrefix(got, "3 ") {
				t.Errorf("history %s, want 3 batches", got)
			}
		})
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	openBadger(t, dir)
	if _, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty}); err == nil {
		t.Error("a directory in use was opened")
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 5)
	s := openBadger(t, dir)
	epoch, err := s.Campaign(t.Context())
	if err != nil || epoch != 2 {
		t.Errorf("epoch %d, %v; want 2", epoch, err)
	}
	if _, err := s.Apply(t.Context(), 1, "late", []ledger.Mutation{{Key: "k", Value: nil}}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("apply by the writer before: %v, want ErrFenced", err)
	}
	if seq, err := s.Apply(t.Context(), epoch, "next", []ledger.Mutation{{Key: "k", Value: nil}}); err != nil || seq != 6 {
		t.Errorf("batch %d, %v; want 6", seq, err)
	}
}

// TestVerifiedTailIsBoundedByBytes damages a batch: open notices it among the newest bytes, and leaves it to the audit behind
// them.
func TestVerifiedTailIsBoundedByBytes(t *testing.T) {
	for _, tt := range []struct {
		bytes int64
		found bool
	}{{1 << 10, false}, {1 << 20, true}} {
		dir := t.TempDir()
		fill(t, dir, 50)
		edit(t, dir, string(append([]byte("j"), 0, 0, 0, 0, 0, 0, 0, 10)), 1, func(txn *badger.Txn, key, value []byte) error {
			value[len(value)-1] ^= 1
			return txn.Set(key, value)
		})
		s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty, VerifyBytes: tt.bytes})
		if found := errors.Is(err, ledger.ErrCorrupt); found != tt.found {
			t.Errorf("%d bytes: open %v, want noticed %v", tt.bytes, err, tt.found)
		}
		if err != nil {
			continue
		}
		if _, err := ledger.Audit(t.Context(), s); !errors.Is(err, ledger.ErrCorrupt) {
			t.Errorf("audit: %v, want ErrCorrupt", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
