package mount_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

// mode is a way to mount a tree whose blocks are served.
type mode struct {
	tier   mount.Tier
	change func(*mount.Config)
}

func modes() map[string]mode {
	return map[string]mode{
		"cached": {mount.Lazy, func(*mount.Config) {}},
		"direct": {mount.Lazy, func(c *mount.Config) { c.Can.ShortReads = errors.New("test") }},
		"loop":   {mount.Loop, func(*mount.Config) {}},
		"fuse":   {mount.FUSE, func(*mount.Config) {}},
	}
}

// anyRight reads a file in all sorts of pieces. What is read must be right; it reports whether all was read.
func anyRight(tb testing.TB, path string, want []byte) bool {
	tb.Helper()
	whole := true
	for _, size := range []int{1 << 20, 100_000, 4096} {
		f, err := os.Open(path)
		if err != nil {
			return false
		}
		buf := make([]byte, size)
		for at := int64(0); at < int64(len(want)); at += int64(size) {
			n, err := f.ReadAt(buf, at)
			if !bytes.Equal(buf[:n], want[at:at+int64(n)]) {
				tb.Errorf("%s: wrong bytes in %d from %d on (zeros: %v)", path, n, at, len(bytes.Trim(buf[:n], "\x00")) < n)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				whole = false
			}
		}
		f.Close()
	}
	return whole
}

func find(tb testing.TB, f *erofstest.Files, path string) *blockstore.Node {
	tb.Helper()
	for i := range f.Tree.Nodes {
		if f.Tree.Path(i) == path {
			return &f.Tree.Nodes[i]
		}
	}
	tb.Fatal("no " + path)
	return nil
}

// large is five leaves long.
const large = "size/5242887"

func TestAbsentBlockIsAnErrorThatSaysWhy(t *testing.T) {
	files := erofstest.Corners(t)
	n := find(t, files, large)
	gone := files.Tree.Blocks[n.Block+2].CID
	for name, mode := range modes() {
		t.Run(name, func(t *testing.T) {
			src := newStore(t, t.TempDir(), files, true)
			src.never[gone] = true
			r := newRig(t, t.TempDir(), src, func(c *mount.Config) {
				c.Deadline = 500 * time.Millisecond
				mode.change(c)
			})
			m := r.mount(t, files, mode.tier)
			if anyRight(t, filepath.Join(m.Path, large), files.Content(n)) {
				t.Error("read all of a file with an absent block")
			}
			f, err := os.Open(filepath.Join(m.Path, large))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			buf := make([]byte, 1<<20)
			for leaf := range 5 {
				if _, err := f.ReadAt(buf, int64(leaf)<<20); leaf == 2 != errors.Is(err, unix.EIO) || leaf != 2 && err != nil {
					t.Errorf("leaf %d: %v", leaf, err)
				}
			}
			failures, err := r.Failures(t.Context())
			if err != nil || len(failures) == 0 {
				t.Fatal("no failure is known: ", err)
			}
			for _, f := range failures {
				if f.CID != gone || !strings.Contains(f.Reason, "12D3KooWone") || f.Root != rootOf(files) {
					t.Errorf("failure %+v", f)
				}
			}
			log, err := os.ReadFile(filepath.Join(r.dir, "server-1", "log"))
			if err != nil || !strings.Contains(string(log), gone.String()) || !strings.Contains(string(log), "12D3KooWtwo") {
				t.Errorf("log says %q, %v", log, err)
			}
			// It comes back once somebody has it, without another mount.
			src.mu.Lock()
			src.never[gone] = false
			src.mu.Unlock()
			for _, err := f.ReadAt(buf, 2<<20); err != nil; _, err = f.ReadAt(buf, 2<<20) {
				if t.Context().Err() != nil {
					t.Fatal("does not come back")
				}
			}
		})
	}
}

// TestLyingSourceIsNotBelieved: bytes are compared with their name before the server hears of them.
func TestLyingSourceIsNotBelieved(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	n := find(t, files, large)
	src := newStore(t, t.TempDir(), files, false)
	src.lie[files.Tree.Blocks[n.Block].CID] = src.places[files.Tree.Blocks[n.Block+1].CID]
	r := newRig(t, t.TempDir(), src, nil)
	m := r.mount(t, files, mount.Lazy)
	if anyRight(t, filepath.Join(m.Path, large), files.Content(n)) {
		t.Error("read all of a file with a block that is another")
	}
	failures, err := r.Failures(t.Context())
	if err != nil || len(failures) == 0 || !strings.Contains(failures[0].Reason, blockstore.ErrMismatch.Error()) {
		t.Errorf("failures %+v, %v", failures, err)
	}
}

// TestPackThatShrinksIsAnError: the server reads all of a block or nothing of it.
func TestPackThatShrinksIsAnError(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	n := find(t, files, large)
	src := newStore(t, t.TempDir(), files, true)
	r := newRig(t, t.TempDir(), src, func(c *mount.Config) { c.Deadline = time.Second })
	m := r.mount(t, files, mount.Lazy)
	p := src.places[files.Tree.Blocks[n.Block].CID]
	if err := os.Truncate(p.Path, p.Offset+1000); err != nil {
		t.Fatal(err)
	}
	if anyRight(t, filepath.Join(m.Path, large), files.Content(n)) {
		t.Error("read all of a file whose pack is shorter")
	}
}

const agentVerb = "agent"

// stingy is a source that answers some questions, says so, and is silent from then on.
type stingy struct {
	Places map[blockstore.CID]mount.Place
	Left   int64
}

func (s *stingy) Locate(context.Context, blockstore.Ref) (mount.Place, error) {
	return mount.Place{}, blockstore.ErrNotFound
}

func (s *stingy) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	if atomic.AddInt64(&s.Left, -1) < 0 {
		fmt.Println("silent")
		<-ctx.Done()
		return mount.Place{}, ctx.Err()
	}
	return s.Places[ref.CID], nil
}

// agentMain is an agent that takes over what is mounted.
func agentMain(args []string) int {
	var s stingy
	if err := gob.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return 1
	}
	can, err := mount.Probe(context.Background(), args[0], os.Args[0], serverVerb)
	if err != nil {
		return 1
	}
	m, err := mount.New(mount.Config{Dir: args[0], Can: can, Args: []string{os.Args[0], serverVerb}})
	if err != nil {
		return 1
	}
	all, err := m.List(context.Background())
	if err != nil || len(all) != 1 {
		return 1
	}
	if _, err := m.MountAs(context.Background(), all[0].Root, &blockstore.Tree{}, &s, all[0].Tier); err != nil {
		return 1
	}
	if m.Run(context.Background()) != nil {
		return 1
	}
	return 0
}

// TestAgentIsKilled kills agents while somebody reads. The reader waits, and gets everything.
func TestAgentIsKilled(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	src := newStore(t, t.TempDir(), files, false)
	dir := t.TempDir()
	r := newRig(t, dir, src, nil)
	m := r.mount(t, files, mount.Lazy)
	r.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		erofstest.Compare(t, m.Path, files)
	}()
	for range 3 {
		killStingyAgent(t, dir, &stingy{Places: src.places, Left: 2})
	}
	newRig(t, dir, src, nil).mount(t, files, mount.Lazy)
	<-done
}

func killStingyAgent(t *testing.T, dir string, s *stingy) {
	t.Helper()
	var in bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(s); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], agentVerb, dir)
	cmd.Stdin = &in
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !bufio.NewScanner(out).Scan() {
		t.Error("agent ended")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
}

func serverPID(t *testing.T, dir string) int {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if args, err := os.ReadFile(c); err == nil && strings.Contains(string(args), serverVerb+"\x00"+dir) {
			pid, err := strconv.Atoi(strings.Split(c, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no server of " + dir)
	return 0
}

// ended waits for the end of a process.
func ended(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
		if err == nil && n == 0 {
			t.Fatalf("process %d does not end", pid)
		}
		if err == nil {
			return
		}
	}
}

// TestServerIsKilled: readers get what is cached, or an error, and never zeros. The next mount works.
func TestServerIsKilled(t *testing.T) {
	files := erofstest.Corners(t)
	for name, mode := range modes() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := newRig(t, dir, newStore(t, t.TempDir(), files, true), mode.change)
			m := r.mount(t, files, mode.tier)
			// Some of it is cached, here and there.
			for i := range files.Tree.Nodes {
				n := &files.Tree.Nodes[i]
				if n.Kind != blockstore.File || n.Size == 0 || i%2 == 0 && !n.Large() {
					continue
				}
				f, err := os.Open(filepath.Join(m.Path, files.Tree.Path(i)))
				if err != nil {
					t.Fatal(err)
				}
				for at := int64(0); at < n.Size; at += 300_000 {
					if _, err := f.ReadAt(make([]byte, 1), at); err != nil {
						t.Fatal(err)
					}
				}
				f.Close()
			}
			pid := serverPID(t, dir)
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			ended(t, pid)
			whole, torn := 0, 0
			for i := range files.Tree.Nodes {
				if n := &files.Tree.Nodes[i]; n.Kind == blockstore.File && n.Size > 0 {
					if anyRight(t, filepath.Join(m.Path, files.Tree.Path(i)), files.Content(n)) {
						whole++
					} else {
						torn++
					}
				}
			}
			t.Logf("%d files were cached, %d give errors", whole, torn)
			if torn == 0 {
				t.Error("no read failed")
			}
			all, err := r.List(t.Context())
			if err != nil || len(all) != 1 || !all[0].Lost {
				t.Errorf("mounted: %+v, %v", all, err)
			}
			erofstest.Compare(t, r.mount(t, files, mode.tier).Path, files)
		})
	}
}

// TestDyingReaderDoesNotWait kills who waits for a block that does not come.
func TestDyingReaderDoesNotWait(t *testing.T) {
	files := erofstest.Corners(t)
	n := find(t, files, "size/1048576")
	gone := files.Tree.Blocks[n.Block].CID
	for name, mode := range modes() {
		t.Run(name, func(t *testing.T) {
			src := newStore(t, t.TempDir(), files, true)
			src.never[gone] = true
			asked := make(chan struct{})
			src.asked[gone] = asked
			r := newRig(t, t.TempDir(), src, mode.change)
			m := r.mount(t, files, mode.tier)
			cmd := exec.CommandContext(t.Context(), "cat", filepath.Join(m.Path, "size/1048576"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
			// Had it waited for the deadline, there would be a failure.
			if failures, err := r.Failures(t.Context()); err != nil || len(failures) > 0 {
				t.Errorf("failures %+v, %v", failures, err)
			}
		})
	}
}

// TestServerEndsByItself when no agent is there and nothing is open.
func TestServerEndsByItself(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	dir := t.TempDir()
	r := newRig(t, dir, newStore(t, t.TempDir(), files, true), func(c *mount.Config) { c.Linger = 300 * time.Millisecond })
	m := r.mount(t, files, mount.Lazy)
	pid := serverPID(t, dir)
	r.stop()
	if err := unix.Unmount(m.Path, 0); err != nil { // not by the agent, which is gone
		t.Fatal(err)
	}
	ended(t, pid)
	nothingLeft(t, dir)
}
