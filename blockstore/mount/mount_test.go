package mount_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
)

const serverVerb = "mount-server"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case serverVerb:
			os.Exit(mount.ServerMain(os.Args[2:]))
		case agentVerb:
			os.Exit(agentMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// store is a double of the block store: blocks in pack files, each at a multiple of a page. Blocks that are absent
// come when somebody asks, or never.
type store struct {
	mu      sync.Mutex
	places  map[blockstore.CID]mount.Place
	absent  []blockstore.CID                 // that come
	never   map[blockstore.CID]bool          // that do not
	asked   map[blockstore.CID]chan struct{} // closed when somebody asks
	arrived map[blockstore.CID]chan struct{} // closed when the block is there
	lie     map[blockstore.CID]mount.Place   // in place of the right one
	random  *rand.Rand
}

func newStore(tb testing.TB, dir string, f *erofstest.Files, verified bool) *store {
	tb.Helper()
	s := &store{
		places: make(map[blockstore.CID]mount.Place), never: make(map[blockstore.CID]bool),
		asked: make(map[blockstore.CID]chan struct{}), arrived: make(map[blockstore.CID]chan struct{}),
		lie: make(map[blockstore.CID]mount.Place), random: rand.New(rand.NewPCG(1, 2)),
	}
	var pack *os.File
	size := int64(0)
	for i, p := range f.Data {
		if pack == nil || size > 4<<20 {
			var err error
			if pack, err = os.Create(filepath.Join(dir, fmt.Sprintf("pack%03d", i))); err != nil {
				tb.Fatal(err)
			}
			defer pack.Close()
			size = 0
		}
		c := f.Tree.Blocks[i].CID
		if _, ok := s.places[c]; ok {
			continue
		}
		padded := append(slices.Clip(p), make([]byte, -len(p)&(blockstore.Page-1))...)
		if _, err := pack.WriteAt(padded, size); err != nil {
			tb.Fatal(err)
		}
		s.places[c] = mount.Place{Path: pack.Name(), Offset: size, Verified: verified}
		size += int64(len(padded))
	}
	return s
}

// hide makes all blocks come only when they are asked for, in an order of chance.
func (s *store) hide() {
	s.absent = slices.SortedFunc(maps.Keys(s.places), func(a, b blockstore.CID) int { return strings.Compare(string(a[:]), string(b[:])) })
	s.random.Shuffle(len(s.absent), func(i, k int) { s.absent[i], s.absent[k] = s.absent[k], s.absent[i] })
	for _, c := range s.absent {
		s.arrived[c] = make(chan struct{})
	}
}

// move has a block lie elsewhere.
func (s *store) move(c blockstore.CID, p mount.Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places[c] = p
}

func (s *store) Locate(_ context.Context, ref blockstore.Ref) (mount.Place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.places[ref.CID]
	if ch := s.arrived[ref.CID]; ch != nil {
		select {
		case <-ch:
		default:
			ok = false
		}
	}
	if !ok || s.never[ref.CID] {
		return mount.Place{}, blockstore.ErrNotFound
	}
	return p, nil
}

func (s *store) Block(ctx context.Context, ref blockstore.Ref) (mount.Place, error) {
	s.mu.Lock()
	if ch := s.asked[ref.CID]; ch != nil {
		close(ch)
		delete(s.asked, ref.CID)
	}
	lie, lies := s.lie[ref.CID]
	never := s.never[ref.CID]
	wait := s.arrived[ref.CID]
	if len(s.absent) > 0 && !never { // each question brings one block, seldom the one
		close(s.arrived[s.absent[0]])
		s.absent = s.absent[1:]
	}
	for wait != nil && !never { // and more, until it is there
		select {
		case <-wait:
			wait = nil
			continue
		default:
		}
		close(s.arrived[s.absent[0]])
		s.absent = s.absent[1:]
	}
	s.mu.Unlock()
	if lies {
		return lie, nil
	}
	if never {
		<-ctx.Done()
		return mount.Place{}, errors.New("no answer from peers 12D3KooWone, 12D3KooWtwo")
	}
	return s.Locate(ctx, ref)
}

// rig is a directory with mounts whose Run runs.
type rig struct {
	*mount.Mounts
	src  mount.Source
	dir  string
	stop func() // ends Run
}

func needMounts(tb testing.TB) mount.Capabilities {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root to mount")
	}
	can, err := mount.Probe(tb.Context(), tb.TempDir(), os.Args[0], serverVerb)
	if err != nil {
		tb.Fatal(err)
	}
	return can
}

func newRig(tb testing.TB, dir string, src mount.Source, change func(*mount.Config)) *rig {
	tb.Helper()
	cfg := mount.Config{
		Dir: dir, Can: needMounts(tb), Args: []string{os.Args[0], serverVerb},
		Deadline: 30 * time.Second, Linger: 10 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	m, err := mount.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			tb.Error("run: ", err)
		}
	}()
	r := &rig{m, src, dir, func() { cancel(); <-done }}
	tb.Cleanup(func() {
		r.stop()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			tb.Error("close: ", err)
		}
		nothingLeft(tb, dir)
	})
	return r
}

// nothingLeft looks for mounts, loop devices and processes of a directory.
func nothingLeft(tb testing.TB, dir string) {
	tb.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if strings.Contains(line, dir) {
			tb.Errorf("still mounted: %s", line)
			_ = unix.Unmount(strings.Fields(line)[4], unix.MNT_DETACH) // so that it is not
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if file, err := os.ReadFile(l); err == nil && strings.Contains(string(file), dir) {
			tb.Errorf("still attached: %s %s", l, file)
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		if args, err := os.ReadFile(c); err == nil && strings.Contains(string(args), dir) && strings.Contains(string(args), serverVerb) {
			tb.Errorf("still running: %s %q", c, args)
		}
	}
}

func rootOf(f *erofstest.Files) blockstore.CID {
	own, err := f.Tree.Encode()
	if err != nil {
		panic(err) // a test made a tree that is none
	}
	return own[0].CID()
}

func (r *rig) mount(tb testing.TB, f *erofstest.Files, tier mount.Tier) mount.Mounted {
	tb.Helper()
	m, err := r.MountAs(tb.Context(), rootOf(f), f.Tree, r.src, tier)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// TestTiers compares what each tier mounts with the tree, while blocks come late and in no order.
func TestTiers(t *testing.T) {
	can := needMounts(t)
	files := erofstest.Corners(t)
	for _, c := range []struct {
		tier   mount.Tier
		needs  error
		change func(*mount.Config)
	}{
		{mount.Lazy, can.Device, nil},
		{mount.Lazy, can.Device, func(c *mount.Config) { c.Can.ShortReads = errors.New("test") }},
		{mount.Loop, can.Loop, nil},
		{mount.FUSE, can.FUSE, nil},
		{mount.Sealed, can.FileBacked, nil},
		{mount.Sealed, can.Loop, func(c *mount.Config) { c.Can.FileBacked = errors.New("test") }},
	} {
		t.Run(string(c.tier), func(t *testing.T) {
			if c.needs != nil {
				t.Skip("needs a kernel that can: ", c.needs)
			}
			src := newStore(t, t.TempDir(), files, false)
			if c.tier != mount.Sealed {
				src.hide()
			}
			r := newRig(t, t.TempDir(), src, c.change)
			m := r.mount(t, files, c.tier)
			t.Logf("mounted in %s", m.Took)
			erofstest.Compare(t, m.Path, files)
			if again := r.mount(t, files, c.tier); again.Path != m.Path {
				t.Errorf("mounted again at %s", again.Path)
			}
		})
	}
}
