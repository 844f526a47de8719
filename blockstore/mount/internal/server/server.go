// Package server is the process that serves the virtual devices of mounted trees. It outlives the agent: what was
// announced is read on, and what was not is waited for until an agent connects or the read's deadline is over.
//
// It decides nothing. The agent tells it which trees there are and where the verified bytes of each block lie; it
// only reads there. If it dies, the kernel gives errors to whoever reads what is not cached.
package server

import (
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

// socketFD is the listening socket, which the agent made.
const socketFD = 3

const (
	maxRead    = 1 << 20
	background = 512
)

// entry is a tree that is served.
type entry struct {
	tree   *tree
	number uint64
	open   int
	wanted bool // by the agent; else it goes with the last one who has it open
}

type server struct {
	dir    string
	linger time.Duration
	log    *slog.Logger
	store  *blocks

	mu      sync.Mutex
	roots   map[blockstore.CID]*entry
	numbers map[uint64]*entry
	known   map[blockstore.CID]uint64 // numbers that roots ever had: what the kernel cached of one stays right
	calls   int                       // connections
	ending  bool                      // the agent asked for it
	idle    *time.Timer
	trees   sync.WaitGroup // file systems of trees
	done    chan struct{}
}

// Main is the process: args are its directory and how long it stays when nobody needs it. It returns the exit code.
func Main(args []string) int {
	if len(args) > 0 && args[0] == ProbeVerb {
		if err := probe(args[1:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	err := errors.New("usage: mount-server DIR LINGER (started by the agent)")
	if len(args) == 2 {
		var linger time.Duration
		if linger, err = time.ParseDuration(args[1]); err == nil {
			err = run(args[0], linger)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(dir string, linger time.Duration) error {
	// A service manager that stops the agent may signal us too: outlive it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	debug.SetGCPercent(50)
	// Who dies here takes containers with it. Only root may ask to be spared, and nothing depends on it.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-800"), 0)
	f := os.NewFile(socketFD, wire.SocketFile)
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("inherited socket: %w", err)
	}
	defer l.Close()
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("inherited socket is not a unix socket")
	}
	logFile, err := os.OpenFile(filepath.Join(dir, wire.LogFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	logger := slog.New(slog.NewTextHandler(&capped{f: logFile}, nil))
	s := &server{
		dir: dir, linger: linger, log: logger, store: newBlocks(logger),
		roots: make(map[blockstore.CID]*entry), numbers: make(map[uint64]*entry), known: make(map[blockstore.CID]uint64), done: make(chan struct{}),
	}
	s.idle = time.AfterFunc(linger+patient, s.expire) // the agent connects first
	at := filepath.Join(dir, wire.DeviceDir)
	device, err := fuse.NewServer(newDevices(s), at, mountOptions())
	if err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	var serving sync.WaitGroup
	serving.Go(device.Serve)
	readAhead(at)
	serving.Go(func() { s.accept(listener) })
	<-s.done
	_ = listener.Close() // only so that accept ends
	// Detached if somebody looks at it: nothing is served, so nothing is lost.
	err = unix.Unmount(at, unix.MNT_DETACH)
	if err == nil {
		serving.Wait()
	}
	s.trees.Wait() // none is mounted
	return err
}

// mountOptions are those of all file systems that are served here.
func mountOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		FsName: "rialto", Name: "rialto", DirectMount: true,
		MaxWrite: maxRead, MaxReadAhead: maxRead, MaxBackground: background,
		DisableSplice: true, // a copy is as fast, and its pipes are one page short of the largest read
		Logger:        log.New(io.Discard, "", 0),
	}
}

// readAhead lets the kernel read 1 MiB ahead, which it grants by this way only. Without it, it reads 128 KiB.
func readAhead(at string) {
	var st unix.Stat_t
	if unix.Stat(at, &st) == nil {
		path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
		_ = os.WriteFile(path, fmt.Appendf(nil, "%d", maxRead>>10), 0) // slower without, but right
	}
}

func (s *server) accept(l *net.UnixListener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return // closed at the end
		}
		s.mu.Lock()
		s.calls++
		s.mu.Unlock()
		conns.Go(func() {
			s.serve(c)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.calls--
			s.look()
		})
	}
}

// look ends the server a while after nobody needs it. s.mu is held.
func (s *server) look() {
	if s.ending && s.free() {
		s.idle.Reset(0)
		return
	}
	s.idle.Reset(s.linger)
}

// free reports whether nothing is open and nobody is connected. s.mu is held.
func (s *server) free() bool {
	if s.calls > 0 {
		return false
	}
	for _, e := range s.roots {
		if e.open > 0 {
			return false
		}
	}
	return true
}

func (s *server) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.free() {
		return // whoever makes it free looks again
	}
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}

func (s *server) byRoot(root blockstore.CID) (uint64, *tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.roots[root]; e != nil {
		return e.number, e.tree
	}
	return 0, nil
}

func (s *server) byNumber(n uint64) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.numbers[n]; e != nil {
		return e.tree
	}
	return nil
}

func (s *server) opened(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.numbers[n]
	if e != nil {
		e.open++
	}
	return e != nil
}

func (s *server) released(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.numbers[n]; e != nil {
		e.open--
		s.tidy(e)
	}
	s.look()
}

// tidy forgets a tree that nobody has open and the agent does not want. s.mu is held.
func (s *server) tidy(e *entry) {
	if e.open > 0 || e.wanted {
		return
	}
	delete(s.roots, e.tree.root)
	delete(s.numbers, e.number)
	s.store.drop(e.tree.blocks)
}

func (s *server) list() []wire.Served {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]wire.Served, 0, len(s.roots))
	for root, e := range s.roots {
		all = append(all, wire.Served{Root: root, Open: e.open})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Root.String() < all[j].Root.String() })
	return all
}

// capped is a log that starts again when it is large.
type capped struct {
	mu sync.Mutex
	f  *os.File
}

func (c *capped) Write(p []byte) (int, error) {
	const limit = 4 << 20
	c.mu.Lock()
	defer c.mu.Unlock()
	if st, err := c.f.Stat(); err == nil && st.Size() > limit {
		if err := c.f.Truncate(0); err != nil {
			return 0, err
		}
	}
	return c.f.Write(p)
}
