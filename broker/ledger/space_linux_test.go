package ledger_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/broker/ledger"
)

func TestSpaceGuard(t *testing.T) {
	var free atomic.Uint64
	free.Store(10 << 30)
	s, err := ledger.Open(t.Context(), ledger.Config{
		Dir: t.TempDir(), MinFree: 4 << 30, Free: func(string) (uint64, error) { return free.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	apply := func(id string) error {
		_, err := s.Apply(t.Context(), epoch, id, []ledger.Mutation{{Key: id, Value: []byte("v")}})
		return err
	}
	if err := errors.Join(s.Room(), apply("a")); err != nil {
		t.Errorf("with room: %v", err)
	}
	free.Store(3 << 30)
	if err := s.Room(); !errors.Is(err, ledger.ErrNoSpace) {
		t.Errorf("below the limit: %v, want ErrNoSpace", err)
	}
	if err := apply("b"); err != nil {
		t.Errorf("work under way below the limit: %v", err)
	}
	free.Store(1 << 30)
	if err := apply("c"); !errors.Is(err, ledger.ErrNoSpace) {
		t.Errorf("below half of the limit: %v, want ErrNoSpace", err)
	}
	free.Store(10 << 30)
	if err := apply("c"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

const (
	fullDir  = "RIALTO_LEDGER_FULL"
	refused  = "REFUSED"
	diskSize = 96 << 20
)

// small is the configuration for a disk of diskSize.
func small(dir string) ledger.Config {
	return ledger.Config{Dir: dir, MinFree: 64 << 20, Ballast: 8 << 20}
}

// writeUntilRefused writes batches, acknowledges each on w, says why it was refused, and waits to be killed.
func writeUntilRefused(dir string, w io.Writer) error {
	ctx := context.Background()
	s, err := ledger.Open(ctx, small(dir))
	if err != nil {
		return err
	}
	epoch, err := s.Campaign(ctx)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprint("full", i)
		seq, err := s.Apply(ctx, epoch, id, []ledger.Mutation{{Key: "last", Value: []byte(id)}})
		if err != nil {
			if _, err := fmt.Fprintln(w, refused, errors.Is(err, ledger.ErrNoSpace)); err != nil {
				return err
			}
			select {}
		}
		if _, err := fmt.Fprintln(w, seq, id); err != nil {
			return err
		}
	}
}

// TestFullDisk fills the disk under a writer to the last byte and kills it: it was refused before it could
// come to harm, what was acknowledged is there after the next open, and with room again it goes on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("rialto-test", dir, "tmpfs", 0, fmt.Sprint("size=", diskSize)); err != nil {
		t.Skipf("needs root to mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	store, others := filepath.Join(dir, "ledger"), filepath.Join(dir, "others")
	acked := fillUnderWriter(t, store, others)

	s, err := ledger.Open(t.Context(), small(store))
	if err != nil {
		t.Fatalf("open on a full disk: %v", err)
	}
	if got, err := s.Get(t.Context(), "last"); err != nil || string(got) != fmt.Sprint("full", acked-1) {
		t.Errorf("newest value %q, %v; %d batches were acknowledged", got, err, acked)
	}
	if got := digest(t, s); !strings.HasPrefix(got, fmt.Sprint(acked, " ")) {
		t.Errorf("history %s, %d batches were acknowledged", got, acked)
	}
	if _, err := s.Campaign(t.Context()); !errors.Is(err, ledger.ErrNoSpace) {
		t.Errorf("campaign on a full disk: %v, want ErrNoSpace", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(store, "BALLAST")
	if _, err := os.Stat(ballast); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ballast on a full disk: %v", err)
	}
	allocate(t, others, 0) // takes what the ballast gave
	if _, err := ledger.Open(t.Context(), small(store)); !errors.Is(err, ledger.ErrNoSpace) {
		t.Errorf("open without any room: %v, want ErrNoSpace", err)
	}

	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	if s, err = ledger.Open(t.Context(), small(store)); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := os.Stat(ballast); err != nil || info.Size() != 8<<20 {
		t.Errorf("the ballast was not made again: %v", err)
	}
	epoch, err := s.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if seq, err := s.Apply(t.Context(), epoch, "next", []ledger.Mutation{{Key: "k"}}); err != nil || seq != acked+1 {
		t.Errorf("with room again: batch %d, %v; want %d", seq, err, acked+1)
	}
}

// fillUnderWriter starts a writer, fills the disk until it is refused and then to the end, kills the
// writer, and returns how many batches were acknowledged.
func fillUnderWriter(t *testing.T, store, others string) (acked uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), fullDir+"="+store)
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	typed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if why, ended := strings.CutPrefix(lines.Text(), refused+" "); ended {
			typed = why == "true"
			allocate(t, others, 0)
			if err := child.Process.Kill(); err != nil {
				t.Error(err)
			}
		} else if acked++; acked == 20 {
			allocate(t, others, 16<<20) // the writer is at work: far from the end
		}
	}
	if err := child.Wait(); child.ProcessState.Exited() {
		t.Fatalf("the writer ended by itself: %v: %s", err, stderr.String())
	}
	if !typed || acked < 20 {
		t.Fatalf("after %d batches: refused with ErrNoSpace: %t", acked, typed)
	}
	return acked
}

// allocate grows a file until no more than leave bytes of the disk are free.
func allocate(t *testing.T, path string, leave uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		var disk unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &disk); err != nil {
			t.Fatal(err)
		}
		if disk.Bavail*uint64(disk.Bsize) <= leave {
			return
		}
		if _, err := f.Write(page); err != nil {
			t.Fatal(err)
		}
	}
}
