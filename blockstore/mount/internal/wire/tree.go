package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"rialto/blockstore"
)

// WriteTree writes a tree's own blocks, each behind its length (u32). The first is the root.
func WriteTree(w io.Writer, t *blockstore.Tree) error {
	blocks, err := t.Encode()
	for _, b := range blocks {
		if err == nil {
			_, err = w.Write(binary.LittleEndian.AppendUint32(nil, uint32(b.Size())))
		}
		if err == nil {
			_, err = w.Write(b.Data())
		}
	}
	return err
}

// ReadTree reads what WriteTree wrote of the tree root.
func ReadTree(ctx context.Context, b []byte, root blockstore.CID) (*blockstore.Tree, error) {
	var own blockstore.Memory
	r := bytes.NewReader(b)
	for {
		var size uint32
		err := binary.Read(r, binary.LittleEndian, &size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || size > blockstore.MaxBlock {
			return nil, fmt.Errorf("%w: block of %d bytes", ErrTable, size)
		}
		p := make([]byte, size)
		if _, err := io.ReadFull(r, p); err != nil {
			return nil, fmt.Errorf("%w: block is cut", ErrTable)
		}
		block, err := blockstore.NewBlock(p)
		if err != nil {
			return nil, err
		}
		if err := own.Put(ctx, block); err != nil {
			return nil, err
		}
	}
	return blockstore.LoadTree(ctx, root, &own)
}
