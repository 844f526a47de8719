package blockstore

import "slices"

// SecretOf returns what the key of a private tree hides.
func SecretOf(t *Tree) []byte {
	b := t.appendNodes([]byte(treeFrame))
	for _, k := range t.Keys {
		b = append(b, k[:]...)
	}
	return b
}

// Locked makes a private tree of whatever bytes.
func Locked(blocks []Ref, secret []byte, k Key) *LockedTree {
	p := slices.Clone(secret)
	k.Crypt(p, 0)
	return &LockedTree{Blocks: blocks, secret: p}
}

// EncodeLocked returns a private tree's own blocks, the root first.
func EncodeLocked(l *LockedTree) ([]Block, error) {
	return privateTreeFrame.blocks(append((&Tree{Blocks: l.Blocks}).appendRefs(nil), l.secret...))
}
