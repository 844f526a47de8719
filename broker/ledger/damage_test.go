package ledger_test

import (
	"bytes"
	"encoding/binary"
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
	fillConfigured(t, ledger.Config{Dir: dir, Free: plenty}, n)
}

func fillConfigured(t *testing.T, c ledger.Config, n int) {
	t.Helper()
	s, err := ledger.Open(t.Context(), c)
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

// editJournal changes the records of the oldest journal; each begins with its length.
func editJournal(t *testing.T, dir string, change func(records [][]byte) [][]byte) {
	t.Helper()
	path := must(filepath.Glob(filepath.Join(dir, "*.journal")))(t)[0]
	var records [][]byte
	for p := must(os.ReadFile(path))(t); len(p) > 0; {
		n := 4 + binary.BigEndian.Uint32(p)
		records, p = append(records, p[:n:n]), p[n:]
	}
	if err := os.WriteFile(path, slices.Concat(change(records)...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsFound changes one thing at a time; opening or auditing the store must notice each.
func TestDamageIsFound(t *testing.T) {
	flip := func(at int) func(*badger.Txn, []byte, []byte) error {
		return func(txn *badger.Txn, key, value []byte) error {
			value[(at%len(value)+len(value))%len(value)] ^= 0x20
			return txn.Set(key, value)
		}
	}
	drop := func(txn *badger.Txn, key, _ []byte) error { return txn.Delete(key) }
	database := func(prefix string, n int, change func(*badger.Txn, []byte, []byte) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			edit(t, dir, prefix, n, change)
		}
	}
	journal := func(change func(records [][]byte) [][]byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			editJournal(t, dir, change)
		}
	}
	flipped := func(record, at int) func(*testing.T, string) {
		return journal(func(records [][]byte) [][]byte {
			p := records[record]
			p[(at+len(p))%len(p)] ^= 0x20
			return records
		})
	}
	tests := map[string]func(*testing.T, string){
		"length of a record":         flipped(3, 3),
		"large length of a record":   flipped(3, 0),
		"early in a record":          flipped(3, 11),
		"hash before a record":       flipped(3, 40),
		"hash of a record":           flipped(3, 70),
		"late in a record":           flipped(3, -20),
		"end of a record":            flipped(3, -1),
		"end of the first record":    flipped(0, -1),
		"end of the last record":     flipped(19, -1),
		"a record gone":              journal(func(r [][]byte) [][]byte { return slices.Delete(r, 5, 6) }),
		"the first record gone":      journal(func(r [][]byte) [][]byte { return r[1:] }),
		"the last record gone":       journal(func(r [][]byte) [][]byte { return r[:19] }),
		"the last record cut":        journal(func(r [][]byte) [][]byte { r[19] = r[19][:50]; return r }),
		"the last record zeros":      journal(func(r [][]byte) [][]byte { clear(r[19]); return r }),
		"records swapped":            journal(func(r [][]byte) [][]byte { r[4], r[5] = r[5], r[4]; return r }),
		"a record twice":             journal(func(r [][]byte) [][]byte { return append(r, r[19]) }),
		"all records gone":           journal(func([][]byte) [][]byte { return nil }),
		"byte of the state":          database("skey/", 3, flip(5)),
		"state entry gone":           database("sonce/", 2, drop),
		"hash of the head":           database("m/head", 0, flip(-1)),
		"number of the head":         database("m/head", 0, flip(7)),
		"a state key out of nothing": database("skey/", 0, func(txn *badger.Txn, _, v []byte) error { return txn.Set([]byte("sextra"), v) }),
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 20)
			damage(t, dir)
			s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
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

// TestLostHeadIsMended: without the mark of the last checkpoint all of the journal is read again.
func TestLostHeadIsMended(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 20)
	for _, prefix := range []string{"m/head", "skey/", "b"} {
		edit(t, dir, prefix, 0, func(txn *badger.Txn, key, _ []byte) error { return txn.Delete(key) })
	}
	s := openBadger(t, dir)
	if got := digest(t, s); !strings.HasPrefix(got, "20 ") {
		t.Errorf("history %s, want 20 batches", got)
	}
}

// TestCutRecord leaves what a write leaves that was interrupted: nobody was told of it, and the store goes on without.
func TestCutRecord(t *testing.T) {
	tests := map[string]func(next []byte) []byte{
		"a part of the length":   func(next []byte) []byte { return next[:3] },
		"a part of the record":   func(next []byte) []byte { return next[:len(next)-1] },
		"zeros at the end of it": func(next []byte) []byte { clear(next[len(next)/2:]); return next },
		"only zeros":             func(next []byte) []byte { clear(next); return next },
	}
	for name, cut := range tests {
		t.Run(name, func(t *testing.T) {
			killed, dir := t.TempDir(), filepath.Join(t.TempDir(), "db")
			fill(t, killed, 3)
			head := must(os.ReadFile(filepath.Join(killed, "HEAD")))(t)
			fill2(t, killed)
			if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
				t.Fatal(err)
			}
			editJournal(t, dir, func(r [][]byte) [][]byte { r[3] = cut(r[3]); return r })
			if _, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty}); !errors.Is(err, ledger.ErrCorrupt) {
				t.Fatalf("open of a store whose acknowledged end is cut: %v, want ErrCorrupt", err)
			}
			if err := os.WriteFile(filepath.Join(dir, "HEAD"), head, 0o600); err != nil {
				t.Fatal(err)
			}
			s := openBadger(t, dir)
			if got := digest(t, s); !strings.HasPrefix(got, "3 ") {
				t.Errorf("history %s, want the 3 batches that were acknowledged", got)
			}
			epoch, err := s.Campaign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if seq, err := s.Apply(t.Context(), epoch, "one more", []ledger.Mutation{{Key: "k", Value: []byte("other")}}); err != nil || seq != 4 {
				t.Errorf("batch %d, %v; want 4", seq, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := digest(t, openBadger(t, dir)); !strings.HasPrefix(got, "4 ") {
				t.Errorf("history %s, want 4 batches", got)
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

// TestBegunJournal leaves what a kill between making a journal and writing to it leaves, or one while its first record was
// written, with more to save than makes a checkpoint.
func TestBegunJournal(t *testing.T) {
	for _, begun := range []string{"", "\x00\x00"} {
		killed, dir := t.TempDir(), filepath.Join(t.TempDir(), "db")
		fill(t, killed, 3)
		fill2(t, killed)
		if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d.journal", 5)), []byte(begun), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openConfigured(t, ledger.Config{Dir: dir, Free: plenty, Checkpoint: 1})
		epoch, err := s.Campaign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seq, err := s.Apply(t.Context(), epoch, "next", []ledger.Mutation{{Key: "k", Value: []byte("w")}}); err != nil || seq != 5 {
			t.Errorf("journal begun with %q: batch %d, %v; want 5", begun, seq, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := digest(t, openBadger(t, dir)); !strings.HasPrefix(got, "5 ") {
			t.Errorf("journal begun with %q: history %s, want 5 batches", begun, got)
		}
	}
}

// fill2 writes one batch more, of which only the journal knows until the test ends.
func fill2(t *testing.T, dir string) {
	t.Helper()
	s := openBadger(t, dir)
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), epoch, "one more", []ledger.Mutation{{Key: "k", Value: bytes.Repeat([]byte("v"), 1000)}}); err != nil {
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
