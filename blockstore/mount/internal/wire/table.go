package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"rialto/blockstore"
)

// ErrTable reports bytes that are no table.
var ErrTable = errors.New("invalid table of slots")

const (
	tableMagic = "rialto slots 1\n\x00"
	refSize    = 36
	slotSize   = 12
)

// Table is what the server knows of a tree: the blocks, and where on the virtual device their parts lie. The agent
// writes it to a file, because it can be large.
//
//	"rialto slots 1\n\0"  u32(blocks) u32(slots)
//	blocks × { 32 bytes of hash, u32(size) }   slots × { u32(block) u32(offset) u32(size) }
//
// Addresses are not in it: each slot begins at the next multiple of a page behind the one before.
type Table struct {
	Blocks []blockstore.Ref
	Slots  []blockstore.Slot
	Size   int64 // of the device
}

// NewTable returns a tree's table.
func NewTable(t *blockstore.Tree, l *blockstore.Layout) *Table {
	return &Table{Blocks: t.Blocks, Slots: l.Slots, Size: l.Size}
}

// Encode returns the table's bytes.
func (t *Table) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, len(tableMagic)+8+len(t.Blocks)*refSize+len(t.Slots)*slotSize)
	b = append(b, tableMagic...)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(t.Blocks))), uint32(len(t.Slots)))
	for _, r := range t.Blocks {
		b = le.AppendUint32(append(b, r.CID[:]...), uint32(r.Size))
	}
	for _, s := range t.Slots {
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, uint32(s.Block)), uint32(s.Offset)), uint32(s.Size))
	}
	return b
}

// DecodeTable reads a table. It refuses slots that are not inside their blocks.
func DecodeTable(b []byte) (*Table, error) {
	le := binary.LittleEndian
	if len(b) < len(tableMagic)+8 || string(b[:len(tableMagic)]) != tableMagic {
		return nil, ErrTable
	}
	b = b[len(tableMagic):]
	blocks, slots := int64(le.Uint32(b)), int64(le.Uint32(b[4:]))
	b = b[8:]
	if int64(len(b)) != blocks*refSize+slots*slotSize {
		return nil, fmt.Errorf("%w: %d bytes for %d blocks and %d slots", ErrTable, len(b), blocks, slots)
	}
	t := &Table{Blocks: make([]blockstore.Ref, blocks), Slots: make([]blockstore.Slot, slots)}
	for i := range t.Blocks {
		r := &t.Blocks[i]
		copy(r.CID[:], b)
		if r.Size = int(le.Uint32(b[32:])); r.Size < 1 || r.Size > blockstore.MaxBlock {
			return nil, fmt.Errorf("%w: block of %d bytes", ErrTable, r.Size)
		}
		b = b[refSize:]
	}
	for i := range t.Slots {
		s := blockstore.Slot{Addr: t.Size, Block: int(le.Uint32(b)), Offset: int(le.Uint32(b[4:])), Size: int(le.Uint32(b[8:]))}
		b = b[slotSize:]
		if s.Block >= len(t.Blocks) || s.Size < 1 || s.Size > blockstore.MaxBlock || s.Offset > t.Blocks[s.Block].Size-s.Size {
			return nil, fmt.Errorf("%w: slot %d", ErrTable, i)
		}
		t.Slots[i] = s
		t.Size += (int64(s.Size) + blockstore.Page - 1) &^ (blockstore.Page - 1)
	}
	return t, nil
}
