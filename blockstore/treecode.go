package blockstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const treeFrame = frame("rialto tree 1\n")

// The least bytes of an encoded node and of an encoded reference: a count is believed only as far as bytes are
// there for it.
const (
	minNodeSize = 4
	minRefSize  = sha256.Size + 1
)

// Encode returns the tree's own blocks. The first one is the root; the others, if any, hold a long tree.
func (t *Tree) Encode() ([]Block, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.Private() {
		return nil, fmt.Errorf("%w: a private tree is encoded with a salt", ErrTree)
	}
	return treeFrame.blocks(t.appendRefs(t.appendNodes(nil)))
}

func (t *Tree) appendNodes(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.Nodes)))
	var open []int // the directories that the node before lies in, itself included
	for i := range t.Nodes {
		n := &t.Nodes[i]
		up := 0
		for len(open) > 0 && open[len(open)-1] != n.Parent {
			open = open[:len(open)-1]
			up++
		}
		b = binary.AppendUvarint(b, uint64(up))
		b = n.append(b, i)
		if n.Kind == Dir {
			open = append(open, i)
		}
	}
	return b
}

func (t *Tree) appendRefs(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.Blocks)))
	for _, r := range t.Blocks {
		b = append(b, r.CID[:]...)
		b = binary.AppendUvarint(b, uint64(r.Size)) //nolint:gosec // check has seen that it is not negative
	}
	return b
}

//nolint:gosec // check has seen that nothing is negative
func (n *Node) append(b []byte, i int) []byte {
	b = append(b, byte(n.Kind))
	b = appendString(b, n.Name)
	if n.Kind == Link {
		return binary.AppendUvarint(b, uint64(i-n.Link))
	}
	b = binary.AppendUvarint(b, uint64(n.Mode))
	b = binary.AppendUvarint(b, uint64(n.UID))
	b = binary.AppendUvarint(b, uint64(n.GID))
	b = binary.AppendUvarint(b, uint64(n.Sec<<1^n.Sec>>63))
	b = binary.AppendUvarint(b, uint64(n.Nsec))
	b = binary.AppendUvarint(b, uint64(len(n.Xattrs)))
	for _, x := range n.Xattrs {
		b = appendString(appendString(b, x.Name), string(x.Value))
	}
	switch n.Kind {
	case Symlink:
		b = appendString(b, n.Target)
	case File:
		b = binary.AppendUvarint(b, uint64(n.Size))
		if n.Size > 0 {
			b = binary.AppendUvarint(b, uint64(n.Block))
		}
		if n.Size > 0 && !n.Large() {
			b = binary.AppendUvarint(b, uint64(n.Offset))
		}
	case Dir, Link:
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// LoadTree reads the tree under a root. That it is the tree somebody meant is the caller's business.
func LoadTree(ctx context.Context, root CID, from Getter) (*Tree, error) {
	body, err := treeFrame.load(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return decodeTree(body)
}

func decodeTree(body []byte) (*Tree, error) {
	d := decoder{rest: body}
	t := &Tree{Nodes: d.nodes(), Blocks: d.refs()}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrTree)
	}
	return t, t.check()
}

func (d *decoder) nodes() []Node {
	nodes := make([]Node, d.uvarint(min(MaxNodes, len(d.rest)/minNodeSize)))
	parent := -1 // the directory that the node before lies in, or is
	for i := range nodes {
		for range d.uvarint(MaxDepth) {
			if parent <= 0 {
				d.bad = true
				break
			}
			parent = nodes[parent].Parent
		}
		n := &nodes[i]
		n.decode(d, i)
		if n.Parent = max(parent, 0); n.Kind == Dir {
			parent = i
		}
		if d.bad || parent < 0 {
			break
		}
	}
	return nodes
}

func (d *decoder) refs() []Ref {
	refs := make([]Ref, d.uvarint(len(d.rest)/minRefSize))
	for i := range refs {
		copy(refs[i].CID[:], d.bytes(sha256.Size))
		refs[i].Size = d.uvarint(MaxBlock)
	}
	return refs
}

//nolint:gosec // the limits keep every number in its type
func (n *Node) decode(d *decoder, i int) {
	if kind := d.bytes(1); kind != nil {
		n.Kind = Kind(kind[0])
	}
	n.Name = string(d.short(MaxName))
	if n.Kind == Link {
		n.Link = i - d.uvarint(i)
		return
	}
	n.Mode = uint16(d.uvarint(0o7777))
	n.UID = uint32(d.uvarint(1<<32 - 1))
	n.GID = uint32(d.uvarint(1<<32 - 1))
	sec := d.uvarint(2*maxSeconds + 1)
	n.Sec = int64(sec>>1) ^ -int64(sec&1)
	n.Nsec = uint32(d.uvarint(1e9 - 1))
	for range d.uvarint(MaxXattrs) {
		n.Xattrs = append(n.Xattrs, Xattr{string(d.short(MaxName)), d.short(MaxXattrSize)})
	}
	switch n.Kind {
	case Symlink:
		n.Target = string(d.short(MaxTarget))
	case File:
		n.Size = int64(d.uvarint(MaxFile))
		if n.Size > 0 {
			n.Block = d.uvarint(maxTreeBlock)
		}
		if n.Size > 0 && !n.Large() {
			n.Offset = d.uvarint(MaxBlock)
		}
	case Dir, Link:
	}
}
