package mount_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount"
	"rialto/blockstore/mount/internal/wire"
)

func TestProbeSaysWhatThisHostCan(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 { // what a probe left that was killed
		at := filepath.Join(dir, "probe-1", "file")
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	can, err := mount.Probe(t.Context(), dir, os.Args[0], serverVerb)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(can)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	nothingLeft(t, dir)
}

// A probe that is killed while its server mounts leaves nothing that the next one stumbles over.
func TestProbeAfterOneThatWasKilled(t *testing.T) {
	const dirOfVictim = "RIALTO_TEST_PROBE_DIR"
	if dir := os.Getenv(dirOfVictim); dir != "" {
		for t.Context().Err() == nil {
			if _, err := mount.Probe(t.Context(), dir, os.Args[0], serverVerb); err != nil {
				t.Fatal(err)
			}
		}
	}
	needMounts(t)
	dir := t.TempDir()
	t.Cleanup(func() { nothingLeft(t, dir) })
	for range 60 {
		victim := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
		victim.Env = append(os.Environ(), dirOfVictim+"="+dir)
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15*time.Millisecond + rand.N(40*time.Millisecond))
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = victim.Wait() // killed
		if _, err := mount.Probe(t.Context(), dir, os.Args[0], serverVerb); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTraceIsTheOrderOfFirstReads(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	r := newRig(t, t.TempDir(), newStore(t, t.TempDir(), files, false), nil)
	m := r.mount(t, files, mount.Lazy)
	var want []int
	for _, p := range []string{large, "link/b", "size/1048576"} {
		n := find(t, files, p)
		if n.Kind == blockstore.Link {
			n = &files.Tree.Nodes[n.Link]
		}
		want = append(want, n.Block)
		f, err := os.Open(filepath.Join(m.Path, p))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	trace, err := r.Trace(t.Context(), m.Root)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for i, x := range trace {
		if slices.Contains(want, x.Block) {
			got = append(got, x.Block)
		}
		if x.After <= 0 || i > 0 && x.After < trace[i-1].After {
			t.Errorf("touch %d after %s", i, x.After)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("trace has blocks in the order %v, want %v", got, want)
	}
}

// TestOverlay writes above a mount, and goes on with it after the mount is taken away.
func TestOverlay(t *testing.T) {
	can := needMounts(t)
	if can.Overlay != nil {
		t.Skip("needs an overlay: ", can.Overlay)
	}
	files := erofstest.Corners(t)
	r := newRig(t, t.TempDir(), newStore(t, t.TempDir(), files, false), nil)
	m := r.mount(t, files, mount.Lazy)
	dir := t.TempDir()
	at := filepath.Join(dir, "at")
	for _, d := range []string{"upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+m.Path+",upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := r.Unmount(m.Root); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(at, large), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(at, large))
	if want := append(files.Content(find(t, files, large)), "more"...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d others", len(got), err, len(want))
	}
}

// TestNextAgentFindsWhatIsMounted, takes it away, and removes what is left of mounts that are none.
func TestNextAgentFindsWhatIsMounted(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	src := newStore(t, t.TempDir(), files, false)
	dir := t.TempDir()
	first := newRig(t, dir, src, nil)
	lazy, sealed := first.mount(t, files, mount.Lazy), first.mount(t, files, mount.Sealed)
	first.stop()
	rest := filepath.Join(dir, "mounts", "lazy-rest", "root")
	half := filepath.Join(dir, "tables", "half.slots.new")
	if err := errors.Join(os.MkdirAll(rest, 0o755), os.WriteFile(half, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	next := newRig(t, dir, src, nil)
	all, err := next.List(t.Context())
	if err != nil || len(all) != 2 || all[0].ID != lazy.ID || all[1].ID != sealed.ID || all[0].Lost || all[1].Path != sealed.Path {
		t.Errorf("%+v, %v", all, err)
	}
	for _, gone := range []string{rest, half} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	next.mount(t, files, mount.Lazy) // only says where blocks come from
	erofstest.Compare(t, lazy.Path, files)
	open, err := os.Open(filepath.Join(lazy.Path, large))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for range 2 { // the second time there is none
		if err := next.Unmount(lazy.Root); err != nil {
			t.Error(err)
		}
	}
	if got, err := io.ReadAll(open); err != nil || !bytes.Equal(got, files.Content(find(t, files, large))) {
		t.Errorf("who has a file open reads %d bytes, %v", len(got), err)
	}
	if all, err = next.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestMountIsSealedOnceItCanBe, and nothing of a tree is kept that is forgotten.
func TestMountIsSealedOnceItCanBe(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	src := newStore(t, t.TempDir(), files, false)
	dir := t.TempDir()
	r := newRig(t, dir, src, nil)
	root := rootOf(files)
	show := func() string {
		t.Helper()
		at, err := r.Mount(t.Context(), root, files.Tree, src)
		if err != nil {
			t.Fatal(err)
		}
		erofstest.Compare(t, at, files)
		return at
	}
	first := show()
	if err := r.Seal(t.Context(), root, files.Tree, src); err != nil {
		t.Fatal(err)
	}
	second := show()
	if all, err := r.List(t.Context()); err != nil || len(all) != 2 || all[1].Path != second || all[1].Tier != mount.Sealed {
		t.Errorf("mounted %+v, %v", all, err)
	}
	if err := r.Forget(root); err != nil { // does nothing: it is mounted
		t.Fatal(err)
	}
	if err := r.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if third := show(); third != second {
		t.Errorf("mounted at %s, want %s", third, second)
	}
	// A block that is elsewhere now: what was sealed is not right any more.
	if err := r.Unmount(root); err != nil {
		t.Fatal(err)
	}
	b := find(t, files, large).Block
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.WriteFile(moved, files.Data[b], 0o600); err != nil {
		t.Fatal(err)
	}
	src.move(files.Tree.Blocks[b].CID, mount.Place{Path: moved})
	if fourth := show(); fourth != first {
		t.Errorf("mounted at %s, want %s", fourth, first)
	}
	if err := r.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(root); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"meta", "tables", "sealed", "mounts"} {
		if left, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(left) > 0 {
			t.Errorf("%s has %v, %v", d, left, err)
		}
	}
}

func TestSealedIsCheckedBeforeItIsUsedAgain(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	packs, dir := t.TempDir(), t.TempDir()
	src := newStore(t, packs, files, false)
	base := filepath.Join(dir, "sealed", rootOf(files).String())
	record := func() string {
		b, err := os.ReadFile(filepath.Join(base, "seal.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	newRig(t, dir, src, nil).mount(t, files, mount.Sealed)
	first := record()
	for _, name := range []string{"", "small", "meta.erofs", "seal.json"} {
		before, err := os.Stat(filepath.Join(base, "small"))
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, dir, src, nil)
		all, err := r.List(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		if err := r.Unmount(all[0].Root); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			f, err := os.OpenFile(filepath.Join(base, name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{0x99}, 1); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		erofstest.Compare(t, r.mount(t, files, mount.Sealed).Path, files)
		after, err := os.Stat(filepath.Join(base, "small"))
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(before, after) != (name == "") {
			t.Errorf("%q damaged: sealed anew: %v", name, !os.SameFile(before, after))
		}
		if got := record(); got != first {
			t.Errorf("record is %s, was %s", got, first)
		}
	}
}

func TestSealedNeedsEveryBlock(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	src := newStore(t, t.TempDir(), files, false)
	dir := t.TempDir()
	r := newRig(t, dir, src, nil)
	for what, block := range map[string]int{"leaf": find(t, files, large).Block + 3, "pack": find(t, files, "link/a").Block} {
		c := files.Tree.Blocks[block].CID
		right := src.places[c]
		src.move(c, src.places[files.Tree.Blocks[block+1].CID])
		if _, err := r.MountAs(t.Context(), rootOf(files), files.Tree, src, mount.Sealed); err == nil {
			t.Errorf("%s: mounted with another block's bytes", what)
		}
		src.move(c, right)
		src.never[c] = true
		if _, err := r.MountAs(t.Context(), rootOf(files), files.Tree, src, mount.Sealed); !errors.Is(err, mount.ErrIncomplete) {
			t.Errorf("%s: error %v, want ErrIncomplete", what, err)
		}
		src.never[c] = false
	}
	if left, err := os.ReadDir(filepath.Join(dir, "mounts")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	erofstest.Compare(t, r.mount(t, files, mount.Sealed).Path, files)
}

// TestSealedCopiesWhatCannotBeMounted: leaves at odd places, or with something behind them on their last page.
func TestSealedCopiesWhatCannotBeMounted(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	packs := t.TempDir()
	src := newStore(t, packs, files, false)
	n := find(t, files, large)
	odd, dirty := files.Tree.Blocks[n.Block], files.Tree.Blocks[n.Block+5]
	moved := filepath.Join(packs, "odd")
	if err := os.WriteFile(moved, append([]byte("odd"), files.Data[n.Block]...), 0o600); err != nil {
		t.Fatal(err)
	}
	src.places[odd.CID] = mount.Place{Path: moved, Offset: 3}
	end := filepath.Join(packs, "end")
	if err := os.WriteFile(end, append(slices.Clip(files.Data[n.Block+5]), "dirt"...), 0o600); err != nil {
		t.Fatal(err)
	}
	src.places[dirty.CID] = mount.Place{Path: end}
	dir := t.TempDir()
	r := newRig(t, dir, src, nil)
	for range 2 { // made, and used again
		m := r.mount(t, files, mount.Sealed)
		erofstest.Compare(t, m.Path, files)
		if err := r.Unmount(m.Root); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "sealed", rootOf(files).String(), "seal.json"))
	var s struct{ Copied []int }
	if err != nil || json.Unmarshal(b, &s) != nil || !slices.Equal(s.Copied, []int{n.Block, n.Block + 5}) {
		t.Errorf("record %s, %v", b, err)
	}
}

// TestServerRefusesOtherVersions: an agent of another version is greeted, so that it knows, and heard no further.
func TestServerRefusesOtherVersions(t *testing.T) {
	needMounts(t)
	files := erofstest.Corners(t)
	dir := t.TempDir()
	r := newRig(t, dir, newStore(t, t.TempDir(), files, true), nil)
	r.mount(t, files, mount.Lazy)
	t.Chdir(filepath.Join(dir, "server-1")) // a socket's path may have 107 bytes
	for name, hello := range map[string]wire.Message{
		"version": &wire.Hello{Version: 99, Purpose: wire.Feed}, "no greeting": &wire.Call{Body: []byte("{}")},
	} {
		c, err := net.Dial("unix", "control")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := wire.Write(c, hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	erofstest.Compare(t, r.mount(t, files, mount.Lazy).Path, files)
}

// TestTreesShareBlocks: two trees with the same blocks, of which one goes.
func TestTreesShareBlocks(t *testing.T) {
	needMounts(t)
	var b, c erofstest.Builder
	for _, x := range []*erofstest.Builder{&b, &c} {
		x.Add("same", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, erofstest.Random(1, 3<<20))
	}
	c.Add("zother", blockstore.Node{Kind: blockstore.File, Mode: 0o644}, erofstest.Random(2, 1<<20))
	one, two := b.Build(), c.Build()
	r := newRig(t, t.TempDir(), newStore(t, t.TempDir(), two, false), nil)
	first, second := r.mount(t, one, mount.Lazy), r.mount(t, two, mount.Lazy)
	erofstest.Compare(t, first.Path, one)
	if err := r.Unmount(first.Root); err != nil {
		t.Fatal(err)
	}
	erofstest.Compare(t, second.Path, two)
	erofstest.Compare(t, r.mount(t, one, mount.Lazy).Path, one)
}
