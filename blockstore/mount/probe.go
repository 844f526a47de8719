package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs"
)

// Capabilities is what this kernel and this user can do. Each error is nil, or says why not.
type Capabilities struct {
	FUSE       error // a FUSE file system
	FileBacked error // EROFS from files: the sealed tier
	Device     error // EROFS from files with data on a FUSE file: the lazy tier
	ShortReads error // an I/O error, and not zeros, where such an EROFS reads past what its device can give
	Loop       error // EROFS from loop devices, one of them over a FUSE file
	Overlay    error // an overlay on EROFS, for what wants to write

	probed bool // else the zero value would mean that all works
}

// Lazy returns the best tier for trees whose blocks are not all here, or why there is none.
func (c Capabilities) Lazy() (Tier, error) {
	switch {
	case c.Device == nil:
		return Lazy, nil
	case c.Loop == nil:
		return Loop, nil
	case c.FUSE == nil:
		return FUSE, nil
	}
	return "", c.FUSE
}

// String names what works and what does not.
func (c Capabilities) String() string {
	var b bytes.Buffer
	for _, x := range []struct {
		name string
		err  error
	}{
		{"fuse", c.FUSE},
		{"erofs from files", c.FileBacked},
		{"erofs on fuse", c.Device},
		{"short reads", c.ShortReads},
		{"loop", c.Loop},
		{"overlay", c.Overlay},
	} {
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		if x.err == nil {
			b.WriteString(x.name + ": yes")
		} else {
			fmt.Fprintf(&b, "%s: no (%v)", x.name, x.err)
		}
	}
	return b.String()
}

// The probe's files: one is whole, and half of the other cannot be read.
const (
	probeWhole = 4 * blockstore.Page
	probeTorn  = 8 * blockstore.Page
	probeLimit = probeWhole + probeTorn/2
)

// Probe finds out by trying, in a new directory in dir, which it removes, as it does what a Probe left that was killed.
// It takes some milliseconds. No other one may be trying in dir.
func Probe(ctx context.Context, dir string) (Capabilities, error) {
	if err := sweepProbes(dir); err != nil {
		return Capabilities{}, err
	}
	work, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return Capabilities{}, err
	}
	p := probe{dir: work}
	c := p.run(ctx)
	return c, errors.Join(append(p.failed, os.RemoveAll(work))...)
}

// sweepProbes removes what is left of earlier probes, innermost mounts first.
func sweepProbes(dir string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	prefix := filepath.Join(dir, "probe-")
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(points))) {
		if strings.HasPrefix(at, prefix) {
			if err := detach(at); err != nil {
				return err
			}
		}
	}
	left, err := filepath.Glob(prefix + "*")
	if err != nil {
		return err
	}
	for _, old := range left {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	return nil
}

type probe struct {
	dir    string
	failed []error // to clean up
}

func (p *probe) run(ctx context.Context) Capabilities {
	c := Capabilities{probed: true}
	data := bytes.Repeat([]byte{0xa5}, probeWhole+probeTorn)
	meta, device, err := p.files(data)
	if err != nil {
		return Capabilities{err, err, err, err, err, err, true}
	}
	c.FileBacked = p.try("file", func(at string) error { return mountFile(at, meta, []string{device}) }, func(at string) error {
		c.Overlay = p.overlay(at)
		return readsAs(filepath.Join(at, "whole"), data[:probeWhole])
	})
	if c.FileBacked != nil {
		c.Overlay = fmt.Errorf("not tried: %w", c.FileBacked)
	}
	served, end, err := p.serve(ctx, data)
	if end != nil {
		defer end()
	}
	if c.FUSE = err; err != nil {
		none := fmt.Errorf("needs FUSE: %w", err)
		c.Device, c.ShortReads, c.Loop = none, none, none
		return c
	}
	c.Device = p.try("device", func(at string) error { return mountFile(at, meta, []string{served}) }, func(at string) error {
		c.ShortReads = tornIsError(filepath.Join(at, "torn"))
		return readsAs(filepath.Join(at, "whole"), data[:probeWhole])
	})
	if c.Device != nil {
		c.ShortReads = fmt.Errorf("not tried: %w", c.Device)
	}
	c.Loop = p.try("loop", func(at string) error { return mountLoop(at, meta, []string{served + ".direct"}) }, func(at string) error {
		if c.Overlay != nil {
			c.Overlay = p.overlay(at)
		}
		return readsAs(filepath.Join(at, "whole"), data[:probeWhole])
	})
	return c
}

// files writes an image of two files, and their data.
func (p *probe) files(data []byte) (meta, device string, err error) {
	blocks := [][]byte{data[:probeWhole], data[probeWhole:]}
	t := &blockstore.Tree{Nodes: []blockstore.Node{
		{Kind: blockstore.Dir, Mode: 0o755},
		{Kind: blockstore.File, Name: "torn", Mode: 0o644, Size: probeTorn, Block: 1},
		{Kind: blockstore.File, Name: "whole", Mode: 0o644, Size: probeWhole},
	}}
	for _, b := range blocks {
		t.Blocks = append(t.Blocks, blockstore.Ref{CID: blockstore.Sum(b), Size: len(b)})
	}
	meta, device = filepath.Join(p.dir, "meta"), filepath.Join(p.dir, "data")
	if _, err = writeFile(meta, func(w io.Writer) error { return erofs.Write(w, t, virtual{t.Layout()}) }); err != nil {
		return "", "", err
	}
	return meta, device, os.WriteFile(device, data, 0o600)
}

// try mounts something, uses it, and unmounts it.
func (p *probe) try(name string, mount, use func(at string) error) error {
	at := filepath.Join(p.dir, name)
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := mount(at); err != nil {
		return err
	}
	defer p.undo(at)
	return use(at)
}

func (p *probe) undo(at string) { p.failed = append(p.failed, detach(at)) }

// serve serves the data by FUSE, in this process.
func (p *probe) serve(ctx context.Context, data []byte) (path string, end func(), err error) {
	at := filepath.Join(p.dir, "fuse")
	if err := os.Mkdir(at, 0o755); err != nil {
		return "", nil, err
	}
	s, err := fuse.NewServer(&probeFS{fuse.NewDefaultRawFileSystem(), data}, at, &fuse.MountOptions{
		Name: "rialto", DirectMount: true, DisableSplice: true, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		return "", nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve()
	}()
	// A file of ours that the runtime polls would have the kernel ask us while the runtime waits for the kernel. This
	// teaches it not to ask.
	waitErr := s.WaitMount()
	// A read that hangs would hang the probe: without its server it fails.
	stop := context.AfterFunc(ctx, func() { _ = unix.Unmount(at, unix.MNT_FORCE) })
	return filepath.Join(at, "data"), func() {
		stop()
		if err := s.Unmount(); err != nil {
			p.undo(at)
		}
		<-done
	}, waitErr
}

// overlay writes into an overlay on a mount.
func (p *probe) overlay(lower string) error {
	base := filepath.Join(p.dir, "overlay")
	dirs := []string{filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "at")}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	at := dirs[2]
	err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+dirs[0]+",workdir="+dirs[1])
	if err != nil {
		return os.NewSyscallError("mount overlay", err)
	}
	defer p.undo(at)
	return os.WriteFile(filepath.Join(at, "whole"), []byte("changed"), 0o600)
}

func readsAs(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: read other bytes than were written", filepath.Base(path))
	}
	return err
}

// tornIsError reads a file whose second half its device has not. Whatever is read must be data.
func tornIsError(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{probeTorn, blockstore.Page} {
		buf := make([]byte, size)
		for at := int64(0); at < probeTorn; at += int64(size) {
			n, err := f.ReadAt(buf, at)
			if slices.Contains(buf[:n], 0) || err == nil && at+int64(size) > probeTorn/2 {
				return errors.New("this kernel gives zeros where an EROFS on files reads past what it can get")
			}
		}
	}
	return nil
}

// probeFS is one file, which gives an error behind probeLimit; by a second name, it is not cached.
type probeFS struct {
	fuse.RawFileSystem
	data []byte
}

func (p *probeFS) String() string { return "rialto" }

func (p *probeFS) attr(node uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: node, Mode: fuse.S_IFREG | 0o400, Nlink: 1, Size: uint64(len(p.data))}
	if node == fuse.FUSE_ROOT_ID {
		out.Mode = fuse.S_IFDIR | 0o500
	}
}

func (p *probeFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if out.NodeId = uint64(2 + slices.Index([]string{"data", "data.direct"}, name)); out.NodeId < 2 {
		return fuse.ENOENT
	}
	p.attr(out.NodeId, &out.Attr)
	out.SetAttrTimeout(time.Minute)
	return fuse.OK
}

func (p *probeFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	p.attr(in.NodeId, &out.Attr)
	out.SetTimeout(time.Minute)
	return fuse.OK
}

func (p *probeFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == 3 {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

func (p *probeFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	end := in.Offset + uint64(len(buf))
	if end > probeLimit {
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(p.data[in.Offset:end]), fuse.OK
}
