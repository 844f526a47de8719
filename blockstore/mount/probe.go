package mount

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs"
	"rialto/blockstore/mount/internal/server"
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

// probePrefix is what the names of Probe's directories begin with.
const probePrefix = "probe-"

// Probe finds out by trying, in a new directory in dir, which it removes, together with those that processes left
// which died in here. It takes some milliseconds.
//
// args are the command line of this program that has it call ServerMain, as in [Config].
func Probe(ctx context.Context, dir string, args ...string) (Capabilities, error) {
	if len(args) == 0 {
		return Capabilities{}, errors.New("a probe needs a server's command line")
	}
	turn, err := os.Open(dir)
	if err != nil {
		return Capabilities{}, err
	}
	defer turn.Close()
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return Capabilities{}, &fs.PathError{Op: "lock", Path: dir, Err: err}
	}
	if err := sweepProbes(dir); err != nil {
		return Capabilities{}, err
	}
	work, err := os.MkdirTemp(dir, probePrefix)
	if err != nil {
		return Capabilities{}, err
	}
	p := probe{dir: work, args: args, turn: turn}
	c := p.run(ctx)
	return c, errors.Join(append(p.failed, os.RemoveAll(work))...)
}

// sweepProbes removes probes that are under way no more.
func sweepProbes(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), probePrefix) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		for at := range points {
			if strings.HasPrefix(at, name+"/") {
				if err := detach(at); err != nil {
					return err
				}
			}
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

type probe struct {
	dir    string
	args   []string // of the server
	turn   *os.File // locked
	failed []error  // to clean up
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
	served, end, err := p.serve(ctx, device)
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

// serve serves the data by FUSE, in a process that ends with this one at the latest.
func (p *probe) serve(ctx context.Context, data string) (path string, end func(), err error) {
	at := filepath.Join(p.dir, "fuse")
	if err := os.Mkdir(at, 0o755); err != nil {
		return "", nil, err
	}
	// A read that hangs would hang the probe: without its server it fails.
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append(slices.Clone(p.args), server.ProbeVerb, at, data, strconv.Itoa(probeLimit))
	// It holds the turn, too: when this process is killed, the next probe sweeps once nothing can be mounted here any more.
	cmd.ExtraFiles = []*os.File{p.turn}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	end = func() {
		_ = in.Close() // it ends then
		_ = cmd.Wait() // with nothing to say that matters now
		p.undo(at)     // it was killed, perhaps
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		end()
		return "", nil, fmt.Errorf("server of the probe: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return filepath.Join(at, "data"), end, nil
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
