package flat

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"rialto/blockstore"
)

// listMagic begins the list of a layer. The list is for the host that wrote it: another version reads layers again.
const listMagic = "rialto layer 1\n"

var errList = errors.New("not the list of a layer")

// Contents is where the data of a layer's files may be already. Its methods are called from one goroutine.
type Contents interface {
	// Has reports whether a block is here.
	Has(ctx context.Context, c blockstore.CID) (bool, error)
	// Small returns the data of a small file by its sha256, or nil.
	Small(ctx context.Context, sum [sha256.Size]byte) ([]byte, error)
}

// List encodes what a layer says, without its data. Integers are unsigned varints (u), s is u(length) and the bytes,
// z is the zigzag form.
//
//	list  = "rialto layer 1\n" u(skipped) u(entries) entry…
//	entry = s(name) type(1) s(hard link's target) u(mode) u(uid) u(gid) z(seconds) u(nanoseconds)
//	        u(xattrs) { s(name) s(value) } s(symlink's target) u(size)
//	        file: up to 64 KiB sha256 of the data, unless it is empty; else u(leaves) { cid u(size) }
func (l *Layer) List() []byte {
	b := append([]byte(listMagic), binary.AppendUvarint(nil, uint64(l.skipped))...) //nolint:gosec // never negative
	b = binary.AppendUvarint(b, uint64(len(l.entries)))
	for _, e := range l.entries {
		b = e.append(b)
	}
	return b
}

//nolint:gosec // nothing here is negative, but for the time
func (e *entry) append(b []byte) []byte {
	n := e.inode
	b = append(appendString(b, e.name), e.kind)
	b = appendString(b, e.link)
	for _, v := range []uint64{uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Sec<<1 ^ n.Sec>>63), uint64(n.Nsec), uint64(len(n.Xattrs))} {
		b = binary.AppendUvarint(b, v)
	}
	for name, value := range n.Xattrs {
		b = appendString(appendString(b, name), string(value))
	}
	b = appendString(b, n.Target)
	b = binary.AppendUvarint(b, uint64(n.Size))
	switch {
	case n.Size == 0:
	case n.Size < blockstore.LargeFile:
		b = append(b, e.sum[:]...)
	default:
		b = binary.AppendUvarint(b, uint64(len(n.Leaves)))
		for _, r := range n.Leaves {
			b = binary.AppendUvarint(append(b, r.CID[:]...), uint64(r.Size))
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Recall returns the layer of a list, if all its data is here: small files go on the spool, as Read puts them there. It
// returns nil if some is missing.
func Recall(ctx context.Context, list []byte, from Contents, spool *Spool, budget *Budget) (*Layer, error) {
	l, err := decodeList(list)
	if err != nil {
		return nil, err
	}
	for i := range l.entries {
		e := &l.entries[i]
		if here, err := e.here(ctx, from, spool); err != nil || !here {
			return nil, err
		}
	}
	for i := range l.entries {
		if err := budget.spend(1, l.entries[i].inode.Size); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (e *entry) here(ctx context.Context, from Contents, spool *Spool) (bool, error) {
	n := e.inode
	if n.Size > 0 && n.Size < blockstore.LargeFile {
		p, err := from.Small(ctx, e.sum)
		if err != nil || int64(len(p)) != n.Size {
			return false, err
		}
		n.Data, err = spool.add(p)
		return true, err
	}
	for _, r := range n.Leaves {
		if ok, err := from.Has(ctx, r.CID); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

func decodeList(p []byte) (*Layer, error) {
	d := reader{rest: p}
	if string(d.bytes(len(listMagic))) != listMagic {
		return nil, errList
	}
	const least = 12 // bytes of an entry
	l := &Layer{skipped: int(d.uvarint(1 << 40))}
	l.entries = make([]entry, d.uvarint(uint64(len(p)/least)))
	for i := range l.entries {
		if l.entries[i].decode(&d); d.bad {
			break
		}
	}
	if d.bad || len(d.rest) > 0 {
		return nil, errList
	}
	return l, nil
}

//nolint:gosec // the limits keep every number in its type
func (e *entry) decode(d *reader) {
	n := new(blockstore.Inode)
	e.inode, e.name = n, string(d.short(maxPath+1))
	if kind := d.bytes(1); kind != nil {
		e.kind = kind[0]
	}
	switch e.kind {
	case tar.TypeDir:
		n.Kind = blockstore.Dir
	case tar.TypeSymlink:
		n.Kind = blockstore.Symlink
	case tar.TypeReg:
		n.Kind = blockstore.File
	}
	e.link = string(d.short(1 << 20))
	n.Mode, n.UID, n.GID = uint16(d.uvarint(0o7777)), uint32(d.uvarint(1<<32-1)), uint32(d.uvarint(1<<32-1))
	sec := d.uvarint(1<<64 - 1)
	n.Sec, n.Nsec = int64(sec>>1)^-int64(sec&1), uint32(d.uvarint(1e9-1))
	for range d.uvarint(blockstore.MaxXattrSize) {
		if n.Xattrs == nil {
			n.Xattrs = make(map[string][]byte)
		}
		name := string(d.short(blockstore.MaxName))
		n.Xattrs[name] = d.short(1 << 30)
		if d.bad {
			return
		}
	}
	n.Target = string(d.short(blockstore.MaxTarget))
	n.Size = int64(d.uvarint(blockstore.MaxFile))
	switch {
	case n.Size == 0:
	case n.Size < blockstore.LargeFile:
		copy(e.sum[:], d.bytes(len(e.sum)))
	default:
		rest := n.Size
		for range d.uvarint(uint64(len(d.rest) / sha256.Size)) {
			var r blockstore.Ref
			copy(r.CID[:], d.bytes(len(r.CID)))
			r.Size = int(d.uvarint(blockstore.MaxBlock))
			n.Leaves = append(n.Leaves, r)
			rest -= int64(r.Size)
		}
		if rest != 0 {
			d.bad = true
		}
	}
}

// reader reads fields; after the first bad one it yields zeros.
type reader struct {
	rest []byte
	bad  bool
}

func (d *reader) bytes(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	p := d.rest[:n:n]
	d.rest = d.rest[n:]
	return p
}

func (d *reader) short(limit uint64) []byte { return d.bytes(int(d.uvarint(limit))) } //nolint:gosec // limits are small

func (d *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || v > limit {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
