package server

import (
	"math"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"rialto/blockstore"
)

// treeFS is a tree as a file system, for hosts that have no EROFS. A node's number is its index and one.
type treeFS struct {
	fuse.RawFileSystem
	nodes    []blockstore.Node
	layout   *blockstore.Layout
	data     *tree
	first    []int32 // of a directory: where its children begin in children
	children []int32
	links    []uint32
}

func newTreeFS(t *blockstore.Tree, data *tree) *treeFS {
	f := &treeFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: t.Nodes, layout: t.Layout(), data: data,
		first: make([]int32, len(t.Nodes)+1), children: make([]int32, len(t.Nodes)-1), links: make([]uint32, len(t.Nodes)),
	}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		switch n.Kind {
		case blockstore.Dir:
			f.links[i] += 2
			if i > 0 {
				f.links[n.Parent]++
			}
		case blockstore.Link:
			f.links[n.Link]++
		default:
			f.links[i]++
		}
		if i > 0 {
			f.first[n.Parent+1]++
		}
	}
	for i := range t.Nodes {
		f.first[i+1] += f.first[i]
	}
	next := slices.Clone(f.first)
	for i := 1; i < len(t.Nodes); i++ {
		p := t.Nodes[i].Parent
		f.children[next[p]] = int32(i)
		next[p]++
	}
	return f
}

func (f *treeFS) String() string { return "rialto" }

// node returns the node with a number, or nil.
func (f *treeFS) node(id uint64) *blockstore.Node {
	if id < 1 || id > uint64(len(f.nodes)) {
		return nil
	}
	return &f.nodes[id-1]
}

func (f *treeFS) in(dir uint64) []int32 { return f.children[f.first[dir-1]:f.first[dir]] }

func (f *treeFS) attributes(i int, out *fuse.Attr) {
	n := &f.nodes[i]
	kinds := map[blockstore.Kind]uint32{blockstore.Dir: fuse.S_IFDIR, blockstore.File: fuse.S_IFREG, blockstore.Symlink: fuse.S_IFLNK}
	size := uint64(n.Size)
	switch n.Kind {
	case blockstore.Symlink:
		size = uint64(len(n.Target))
	case blockstore.Dir:
		size = blockstore.Page
	case blockstore.File, blockstore.Link:
	}
	*out = fuse.Attr{
		Ino: uint64(i) + 1, Mode: kinds[n.Kind] | uint32(n.Mode), Size: size, Blocks: (size + 511) / 512, Blksize: blockstore.Page,
		Nlink: f.links[i], Owner: fuse.Owner{Uid: n.UID, Gid: n.GID},
		Mtime: uint64(n.Sec), Mtimensec: n.Nsec, Ctime: uint64(n.Sec), Ctimensec: n.Nsec, Atime: uint64(n.Sec), Atimensec: n.Nsec,
	}
}

// entry fills in what the kernel learns of a node by a name.
func (f *treeFS) entry(i int, out *fuse.EntryOut) {
	if f.nodes[i].Kind == blockstore.Link {
		i = f.nodes[i].Link
	}
	out.NodeId = uint64(i) + 1
	f.attributes(i, &out.Attr)
	out.SetAttrTimeout(forever)
	out.SetEntryTimeout(forever)
}

func (f *treeFS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if n := f.node(in.NodeId); n == nil || n.Kind != blockstore.Dir {
		return fuse.ENOTDIR
	}
	all := f.in(in.NodeId)
	k, found := slices.BinarySearchFunc(all, name, func(i int32, name string) int { return strings.Compare(f.nodes[i].Name, name) })
	if !found {
		out.SetEntryTimeout(forever) // number zero: there is none, and there will be none
		return fuse.OK
	}
	f.entry(int(all[k]), out)
	return fuse.OK
}

func (f *treeFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if f.node(in.NodeId) == nil {
		return fuse.ENOENT
	}
	f.attributes(int(in.NodeId-1), &out.Attr)
	out.SetTimeout(forever)
	return fuse.OK
}

func (f *treeFS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := f.node(in.NodeId)
	if n == nil || n.Kind != blockstore.Symlink {
		return nil, fuse.EINVAL
	}
	return []byte(n.Target), fuse.OK
}

// Open says that there is nothing to do, and that the kernel need not ask again. It then keeps what it has cached.
func (f *treeFS) Open(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (f *treeFS) Read(interrupted <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := f.node(in.NodeId)
	if n == nil || n.Kind != blockstore.File {
		return nil, fuse.EINVAL
	}
	if n.Size == 0 {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return readDevice(f.data, interrupted, in, buf, f.layout.File(n), n.Size)
}

// noOpenDir has the kernel take ENOSYS for an answer to the opening of directories, too.
const noOpenDir = 1 << 24

// OpenDir is like Open.
func (f *treeFS) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// Flush says that closing a file is nobody's business.
func (f *treeFS) Flush(_ <-chan struct{}, _ *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (f *treeFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, _ int) bool { return out.AddDirEntry(e) })
}

func (f *treeFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, i int) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && i >= 0 {
			f.entry(i, entry)
		}
		return entry != nil
	})
}

// list gives the entries of a directory to add, from the offset on and until it returns false: ".", ".." (both without
// a node), and the children.
func (f *treeFS) list(in *fuse.ReadIn, add func(fuse.DirEntry, int) bool) fuse.Status {
	n := f.node(in.NodeId)
	if n == nil || n.Kind != blockstore.Dir {
		return fuse.ENOTDIR
	}
	special := []fuse.DirEntry{{Name: ".", Ino: in.NodeId}, {Name: "..", Ino: uint64(n.Parent) + 1}}
	all := f.in(in.NodeId)
	for k := in.Offset; k < uint64(len(all)+2); k++ {
		node, e := -1, fuse.DirEntry{}
		if k < 2 {
			e = special[k]
			e.Mode = fuse.S_IFDIR
		} else {
			node = int(all[k-2])
			var out fuse.EntryOut
			f.entry(node, &out)
			e = fuse.DirEntry{Name: f.nodes[node].Name, Ino: out.NodeId, Mode: out.Mode}
		}
		e.Off = k + 1
		if !add(e, node) {
			break
		}
	}
	return fuse.OK
}

func (f *treeFS) xattrs(id uint64) []blockstore.Xattr {
	if n := f.node(id); n != nil {
		return n.Xattrs
	}
	return nil
}

func (f *treeFS) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, buf []byte) (uint32, fuse.Status) {
	for _, x := range f.xattrs(in.NodeId) {
		if x.Name == name {
			return reply(buf, x.Value)
		}
	}
	return 0, fuse.ENOATTR
}

func (f *treeFS) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, buf []byte) (uint32, fuse.Status) {
	var names []byte
	for _, x := range f.xattrs(in.NodeId) {
		names = append(append(names, x.Name...), 0)
	}
	return reply(buf, names)
}

// reply copies an answer, or says how long it is.
func reply(buf, answer []byte) (uint32, fuse.Status) {
	if len(answer) > len(buf) {
		return uint32(min(len(answer), math.MaxInt32)), fuse.ERANGE
	}
	return uint32(copy(buf, answer)), fuse.OK
}

func (f *treeFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.NameLen, out.Files = blockstore.Page, blockstore.MaxName, uint64(len(f.nodes))
	out.Blocks = uint64(f.layout.Size / blockstore.Page)
	return fuse.OK
}
