package server

import (
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

// Numbers of the device directory's nodes: tree number n is 2n with the kernel's cache and 2n+1 without.
const rootNode = fuse.FUSE_ROOT_ID

// forever is how long the kernel may keep what never changes.
const forever = 24 * time.Hour

// devices is the file system with one file for each tree.
type devices struct {
	fuse.RawFileSystem
	server *server
}

func newDevices(s *server) *devices {
	return &devices{RawFileSystem: fuse.NewDefaultRawFileSystem(), server: s}
}

func (d *devices) String() string { return "rialto" }

func attributes(node uint64, t *tree, out *fuse.Attr) {
	out.Ino, out.Nlink = node, 1
	out.Mode = fuse.S_IFREG | 0o400
	out.Size, out.Blksize = uint64(t.table.Size), 4096
	out.Blocks = (out.Size + 511) / 512
}

func (d *devices) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	name, direct := strings.CutSuffix(name, wire.Direct)
	root, err := blockstore.ParseCID(name)
	if err != nil || in.NodeId != rootNode {
		return fuse.ENOENT
	}
	number, t := d.server.byRoot(root)
	if t == nil {
		return fuse.ENOENT
	}
	out.NodeId = 2 * number
	if direct {
		out.NodeId++
	}
	attributes(out.NodeId, t, &out.Attr)
	out.SetAttrTimeout(forever) // but not the entry: the tree may go
	return fuse.OK
}

func (d *devices) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	if in.NodeId == rootNode {
		out.Attr = fuse.Attr{Ino: rootNode, Mode: fuse.S_IFDIR | 0o500, Nlink: 2}
		return fuse.OK
	}
	t := d.server.byNumber(in.NodeId / 2)
	if t == nil {
		return fuse.ENOENT
	}
	attributes(in.NodeId, t, &out.Attr)
	return fuse.OK
}

func (d *devices) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&fuse.O_ANYWRITE != 0 {
		return fuse.EROFS
	}
	if !d.server.opened(in.NodeId / 2) {
		return fuse.ENOENT
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if in.NodeId%2 == 1 {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

func (d *devices) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { d.server.released(in.NodeId / 2) }

func (d *devices) Read(interrupted <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	t := d.server.byNumber(in.NodeId / 2)
	if t == nil {
		return nil, fuse.EIO
	}
	return readDevice(t, interrupted, in, buf, 0, t.table.Size)
}

// readDevice answers a read of a file that is size bytes of the device from addr on.
func readDevice(t *tree, interrupted <-chan struct{}, in *fuse.ReadIn, buf []byte, addr, size int64) (fuse.ReadResult, fuse.Status) {
	if in.Offset >= uint64(size) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	at := int64(in.Offset)
	buf = buf[:min(int64(len(buf)), size-at)]
	if err := t.read(buf, addr+at, in.Pid, interrupted); err != nil {
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(buf), fuse.OK
}

func (d *devices) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

func (d *devices) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for i, s := range d.server.list() {
		if uint64(i) >= in.Offset && !out.AddDirEntry(fuse.DirEntry{Name: s.Root.String(), Mode: fuse.S_IFREG, Off: uint64(i) + 1}) {
			break
		}
	}
	return fuse.OK
}

func (d *devices) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.NameLen = 4096, 255
	return fuse.OK
}
