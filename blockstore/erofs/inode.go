package erofs

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"strings"

	"rialto/blockstore"
)

// Types, as they stand in a mode and in a directory's record.
const (
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000

	typeFile    = 1
	typeDir     = 2
	typeSymlink = 7
)

// chunkIndexes says that a file's tail has entries of 8 bytes, with device numbers.
const chunkIndexes = 1 << 5

const xattrHeader = 12

// Numbers of the prefixes of attributes' names.
const (
	xattrUser     = 1
	xattrSecurity = 6
)

// inode writes an inode, its attributes and its tail.
func (pl *plan) inode(o *output, i int) {
	n := &pl.tree.Nodes[i]
	le := binary.LittleEndian
	var b [inodeSize]byte
	mode, size, format := uint16(modeFile), n.Size, uint16(layoutChunked)
	var chunk int64
	switch {
	case n.Kind == blockstore.File && n.Size == 0:
		format = layoutPlain
	case n.Kind == blockstore.File:
		chunk, pl.places = pl.placement.Chunks(n, pl.places[:0])
		le.PutUint16(b[16:], uint16(bits.TrailingZeros64(uint64(chunk/blockSize)))|chunkIndexes)
	default:
		mode, size, format = modeDir, pl.size(i), layoutInline
		if n.Kind == blockstore.Symlink {
			mode = modeSymlink
		}
		if pl.blockOf[i] > 0 {
			format = layoutPlain
			le.PutUint32(b[16:], pl.blockOf[i])
		}
	}
	le.PutUint16(b[0:], format)
	if x := xattrSize(n); x > 0 {
		le.PutUint16(b[2:], uint16((x-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], mode|n.Mode)
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[20:], uint32(i+1)) // the number that 32-bit programs see
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Sec))
	le.PutUint32(b[40:], n.Nsec)
	le.PutUint32(b[44:], pl.links[i])
	o.write(b[:])
	o.xattrs(n)
	switch format {
	case layoutChunked:
		o.pad(roundUp(o.at, chunkSize))
		for _, p := range pl.places {
			var e [chunkSize]byte
			le.PutUint16(e[2:], uint16(p.Device))
			le.PutUint32(e[4:], uint32(p.Addr/blockSize))
			o.write(e[:])
		}
	case layoutInline:
		pl.content(o, i)
	}
}

// xattrSize returns the bytes of a node's attributes as they stand behind its inode.
func xattrSize(n *blockstore.Node) int {
	if len(n.Xattrs) == 0 {
		return 0
	}
	size := xattrHeader
	for _, x := range n.Xattrs {
		_, suffix := splitXattr(x.Name)
		size += (4 + len(suffix) + len(x.Value) + 3) &^ 3
	}
	return size
}

func splitXattr(name string) (prefix byte, suffix string) {
	if s, ok := strings.CutPrefix(name, "security."); ok {
		return xattrSecurity, s
	}
	return xattrUser, strings.TrimPrefix(name, "user.")
}

func (o *output) xattrs(n *blockstore.Node) {
	if len(n.Xattrs) == 0 {
		return
	}
	b := append(o.buf[:0], make([]byte, xattrHeader)...) // no shared attributes
	for _, x := range n.Xattrs {
		prefix, suffix := splitXattr(x.Name)
		b = append(b, byte(len(suffix)), prefix)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
		b = append(b, suffix...)
		b = append(b, x.Value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	o.write(b)
	o.buf = b
}

// entries yields the names in a directory, sorted by their bytes, with the node of each.
func (pl *plan) entries(dir int) iter.Seq2[int, string] {
	nodes := pl.tree.Nodes
	return func(yield func(int, string) bool) {
		special := []string{".", ".."}
		flush := func(before string) bool {
			for len(special) > 0 && (before == "" || special[0] < before) {
				i := dir
				if special[0] == ".." {
					i = nodes[dir].Parent
				}
				if !yield(i, special[0]) {
					return false
				}
				special = special[1:]
			}
			return true
		}
		for _, c := range pl.children[pl.first[dir]:pl.first[dir+1]] {
			if !flush(nodes[c].Name) || !yield(int(c), nodes[c].Name) {
				return
			}
		}
		flush("")
	}
}

// content writes a symlink's target or a directory's records.
func (pl *plan) content(o *output, i int) {
	if n := &pl.tree.Nodes[i]; n.Kind == blockstore.Symlink {
		o.write([]byte(n.Target))
		return
	}
	b := direntBlock{}
	for node, name := range pl.entries(i) {
		if !b.fits(name) {
			o.write(b.bytes())
			o.pad(roundUp(o.at, blockSize))
			b.reset()
		}
		b.add(pl.nid(node), pl.fileType(node), name)
	}
	o.write(b.bytes())
}

func (pl *plan) fileType(i int) byte {
	n := &pl.tree.Nodes[i]
	if n.Kind == blockstore.Link {
		n = &pl.tree.Nodes[n.Link]
	}
	switch n.Kind {
	case blockstore.Dir:
		return typeDir
	case blockstore.Symlink:
		return typeSymlink
	default:
		return typeFile
	}
}

// direntBlock is one block of a directory.
type direntBlock struct {
	records []byte
	names   []byte
}

func (b *direntBlock) fits(name string) bool {
	return len(b.records)+direntSize+len(b.names)+len(name) <= blockSize
}

func (b *direntBlock) reset() { b.records, b.names = b.records[:0], b.names[:0] }

// add adds a record. Where its name begins is known when all records are.
func (b *direntBlock) add(nid uint64, kind byte, name string) {
	b.records = binary.LittleEndian.AppendUint64(b.records, nid)
	b.records = binary.LittleEndian.AppendUint16(b.records, uint16(len(b.names)))
	b.records = append(b.records, kind, 0)
	b.names = append(b.names, name...)
}

func (b *direntBlock) bytes() []byte {
	for at := 8; at < len(b.records); at += direntSize {
		f := b.records[at : at+2]
		binary.LittleEndian.PutUint16(f, binary.LittleEndian.Uint16(f)+uint16(len(b.records)))
	}
	return append(b.records, b.names...)
}
