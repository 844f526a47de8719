package blockstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// MaxBlock is the most bytes in a block.
const MaxBlock = 1 << 20

// What a caller decides on.
var (
	ErrNotFound = errors.New("no such block")
	ErrMismatch = errors.New("bytes do not hash to the block's name")
	ErrNoSpace  = errors.New("no space for blocks")
	ErrSize     = errors.New("a block has 1 byte to 1 MiB")
	ErrOffset   = errors.New("offset before the block's first byte")
)

// BlockError says which block an operation failed for.
type BlockError struct {
	Op  string
	CID CID
	Err error
}

func (e *BlockError) Error() string { return e.Op + " " + e.CID.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *BlockError) Unwrap() error { return e.Err }

// Block is bytes that are known to hash to their name. Who makes a Block gives the bytes away.
// The zero value is no block.
type Block struct {
	cid  CID
	data []byte
}

// NewBlock hashes p, which the caller must not change any more.
func NewBlock(p []byte) (Block, error) {
	if len(p) == 0 || len(p) > MaxBlock {
		return Block{}, fmt.Errorf("%d bytes: %w", len(p), ErrSize)
	}
	return Block{cid: sha256.Sum256(p), data: p}, nil
}

// Verify returns p as the block c, or ErrMismatch. The caller must not change p any more.
func Verify(c CID, p []byte) (Block, error) {
	b, err := NewBlock(p)
	if err != nil {
		return Block{}, &BlockError{Op: "verify", CID: c, Err: err}
	}
	if b.cid != c {
		return Block{}, &BlockError{Op: "verify", CID: c, Err: ErrMismatch}
	}
	return b, nil
}

// CID returns the block's name.
func (b Block) CID() CID { return b.cid }

// Data returns the bytes, which must not be changed.
func (b Block) Data() []byte { return b.data }

// Size returns the number of bytes.
func (b Block) Size() int { return len(b.data) }

// Ref returns the block's name and size.
func (b Block) Ref() Ref { return Ref{CID: b.cid, Size: len(b.data)} }

// Ref names a block and says how long it is.
type Ref struct {
	CID  CID
	Size int
}

// Getter reads blocks. It is safe for concurrent use.
type Getter interface {
	// Get returns a verified block, or ErrNotFound.
	Get(ctx context.Context, c CID) (Block, error)
}

// Store keeps blocks. Methods are safe for concurrent use.
type Store interface {
	Getter
	// Has reports whether the block is here. Its bytes may still turn out to be damaged on Get.
	Has(ctx context.Context, c CID) (bool, error)
	// Size returns a block's length without reading it, or ErrNotFound.
	Size(ctx context.Context, c CID) (int, error)
	// ReadAt reads len(p) bytes of a block from off on and returns how many it read, as io.ReaderAt does:
	// fewer than len(p) come with an error, which is io.EOF at the block's end and from there on. Only
	// bytes that are as they were put count; p beyond them may have been overwritten. A block that is not
	// here is ErrNotFound whatever off is, a negative off is ErrOffset.
	ReadAt(ctx context.Context, c CID, p []byte, off int) (int, error)
	// Put keeps blocks; when it returns nil they outlive a power cut, if the store outlives the process
	// at all. Blocks that are here already are skipped. ErrNoSpace leaves the store as it was.
	Put(ctx context.Context, blocks ...Block) error
	// Delete forgets blocks. Names that are not here are skipped.
	Delete(ctx context.Context, cids ...CID) error
}

// ReadAt is Store.ReadAt by way of the whole block, for stores that have no cheaper way.
func ReadAt(ctx context.Context, from Getter, c CID, p []byte, off int) (int, error) {
	b, err := from.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	switch {
	case off < 0:
		return 0, &BlockError{Op: "read", CID: c, Err: ErrOffset}
	case off >= b.Size():
		return 0, io.EOF
	}
	n := copy(p, b.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
