package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ProbeVerb is the first argument of a process that serves a probe. It is a process of its own, because one that is
// killed while it waits for an answer of its own never ends: the kernel waits for the answer before it lets go of what
// would answer.
const ProbeVerb = "probe"

// probe serves a file at a mount point until its standard input ends: args are the mount point, the file with the data,
// and the offset from which on it cannot be read. It says so when it has begun.
func probe(args []string, in io.Reader, out io.Writer) (err error) {
	if len(args) != 3 {
		return errors.New("usage: probe AT DATA LIMIT (started by the agent)")
	}
	at := args[0]
	data, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	limit, err := strconv.ParseUint(args[2], 10, 63)
	if err != nil || limit > uint64(len(data)) {
		return fmt.Errorf("impossible limit %q", args[2])
	}
	s, err := fuse.NewServer(&probeFS{fuse.NewDefaultRawFileSystem(), data, limit}, at, mountOptions())
	if err != nil {
		return err
	}
	go s.Serve() // ends with the process
	defer func() { err = errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)) }()
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// probeFS is one file, which gives an error behind its limit; by a second name, it is not cached.
type probeFS struct {
	fuse.RawFileSystem
	data  []byte
	limit uint64
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
	if end > p.limit {
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(p.data[in.Offset:end]), fuse.OK
}
