package blockstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
)

const (
	privateTreeFrame  = frame("rialto private tree 1\n")
	privateImageFrame = frame("rialto private image 1\n")
)

// ErrKey reports a key that does not open what it was tried on.
var ErrKey = errors.New("the key does not open it")

// Encrypter turns an import's blocks into private ones. It is safe for concurrent use.
type Encrypter struct {
	salt Salt
	put  func(context.Context, Block) error

	mu     sync.Mutex
	blocks map[CID]encrypted // by the name of the plain block
}

// encrypted is what became of a block.
type encrypted struct {
	cid CID
	key Key
}

// NewEncrypter returns an Encrypter that hands encrypted blocks to put, from the goroutines that call Put.
func NewEncrypter(s Salt, put func(context.Context, Block) error) *Encrypter {
	return &Encrypter{salt: s, put: put, blocks: make(map[CID]encrypted)}
}

// Put encrypts a block of plain data and hands it on.
func (e *Encrypter) Put(ctx context.Context, b Block) error {
	key := e.salt.keyOf(b.cid) // the name is the hash
	p := slices.Clone(b.data)
	key.Crypt(p, 0)
	c, err := NewBlock(p)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.blocks[b.cid] = encrypted{c.cid, key}
	e.mu.Unlock()
	return e.put(ctx, c)
}

// Tree returns the private tree that a tree of plain blocks stands for, all of which went through Put.
func (e *Encrypter) Tree(t *Tree) (*Tree, error) {
	private := &Tree{Nodes: t.Nodes, Blocks: make([]Ref, len(t.Blocks)), Keys: make([]Key, len(t.Blocks))}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, r := range t.Blocks {
		c, ok := e.blocks[r.CID]
		if !ok {
			return nil, &BlockError{Op: "encrypt", CID: r.CID, Err: ErrNotFound}
		}
		private.Blocks[i], private.Keys[i] = Ref{CID: c.cid, Size: r.Size}, c.key
	}
	return private, nil
}

// EncodePrivate returns a private tree's own blocks, the root first, and the root's key.
func (t *Tree) EncodePrivate(s Salt) ([]Block, Key, error) {
	if err := t.check(); err != nil {
		return nil, Key{}, err
	}
	if !t.Private() {
		return nil, Key{}, fmt.Errorf("%w: without keys it is public", ErrTree)
	}
	secret := t.appendNodes([]byte(treeFrame))
	for _, k := range t.Keys {
		secret = append(secret, k[:]...)
	}
	return privateTreeFrame.lock(s, t.appendRefs(nil), secret)
}

// lock encodes what everybody may read and what needs a key.
func (f frame) lock(s Salt, open, secret []byte) ([]Block, Key, error) {
	key := s.Key(secret)
	key.Crypt(secret, 0)
	blocks, err := f.blocks(append(open, secret...))
	return blocks, key, err
}

// unlock returns the fields that lock encrypted, of a kind that is a frame by itself.
func (f frame) unlock(k Key, secret []byte) (decoder, error) {
	p := slices.Clone(secret)
	k.Crypt(p, 0)
	rest, ok := bytes.CutPrefix(p, []byte(f))
	if !ok {
		return decoder{}, ErrKey
	}
	return decoder{rest: rest}, nil
}

// LockedTree is a private tree as everybody may know it: its blocks, which any host can keep, compare with their names
// and hand on, and the rest, encrypted.
type LockedTree struct {
	Blocks []Ref
	secret []byte
}

// LoadLockedTree reads the private tree under a root.
func LoadLockedTree(ctx context.Context, root CID, from Getter) (*LockedTree, error) {
	body, err := privateTreeFrame.load(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return decodeLockedTree(body)
}

func decodeLockedTree(body []byte) (*LockedTree, error) {
	d := decoder{rest: body}
	l := &LockedTree{Blocks: d.refs()}
	if d.bad || len(l.Blocks) > maxTreeBlock {
		return nil, fmt.Errorf("%w: list of blocks is truncated, not minimal, or too long", ErrTree)
	}
	l.secret = d.rest
	return l, checkRefs(l.Blocks)
}

// Open returns the tree, or ErrKey.
func (l *LockedTree) Open(k Key) (*Tree, error) {
	d, err := treeFrame.unlock(k, l.secret)
	if err != nil {
		return nil, fmt.Errorf("private tree: %w", err)
	}
	t := &Tree{Nodes: d.nodes(), Blocks: l.Blocks, Keys: make([]Key, len(l.Blocks))}
	for i := range t.Keys {
		copy(t.Keys[i][:], d.bytes(len(Key{})))
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrTree)
	}
	return t, t.check()
}

// LoadBlocks lists the blocks of the tree under a root, private or not, in the tree's order.
func LoadBlocks(ctx context.Context, root CID, from Getter) ([]Ref, error) {
	b, err := from.Get(ctx, root)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b.data, []byte(privateTreeFrame)) {
		l, err := LoadLockedTree(ctx, root, from)
		if err != nil {
			return nil, err
		}
		return l.Blocks, nil
	}
	t, err := LoadTree(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return t.Blocks, nil
}

// EncodePrivate returns a private image's own blocks, the root first, and the root's key.
func (m *Image) EncodePrivate(s Salt) ([]Block, Key, error) {
	if err := m.check(); err != nil {
		return nil, Key{}, err
	}
	if m.TreeKey.IsZero() {
		return nil, Key{}, fmt.Errorf("%w: without its tree's key it is public", ErrImage)
	}
	secret := append(m.appendOCI([]byte(imageFrame)), m.TreeKey[:]...)
	return privateImageFrame.lock(s, m.Tree[:], secret)
}

// LockedImage is a private image as everybody may know it.
type LockedImage struct {
	Tree   CID // a private tree's root
	secret []byte
}

// LoadLockedImage reads the private image under a root, without its tree.
func LoadLockedImage(ctx context.Context, root CID, from Getter) (*LockedImage, error) {
	body, err := privateImageFrame.load(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return decodeLockedImage(body)
}

func decodeLockedImage(body []byte) (*LockedImage, error) {
	d := decoder{rest: body}
	var l LockedImage
	copy(l.Tree[:], d.bytes(sha256.Size))
	if d.bad || l.Tree.IsZero() {
		return nil, fmt.Errorf("%w: no tree", ErrImage)
	}
	l.secret = d.rest
	return &l, nil
}

// Open returns the image with its tree's key, or ErrKey.
func (l *LockedImage) Open(k Key) (*Image, error) {
	d, err := imageFrame.unlock(k, l.secret)
	if err != nil {
		return nil, fmt.Errorf("private image: %w", err)
	}
	m := &Image{OCI: d.short(MaxOCI), Config: d.short(MaxOCI), Tree: l.Tree}
	copy(m.TreeKey[:], d.bytes(len(m.TreeKey)))
	if d.bad || len(d.rest) > 0 || m.TreeKey.IsZero() {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrImage)
	}
	return m, m.check()
}
