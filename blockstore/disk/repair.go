package disk

import (
	"context"
	"fmt"

	"rialto/blockstore"
)

// Repair writes a block once more where it lies, and syncs it. It is for a block that is damaged and in a [Hold]:
// others read it there, so that it can neither be forgotten nor put elsewhere. A block that is not here is ErrNotFound.
func (s *Store) Repair(ctx context.Context, b blockstore.Block) error {
	if err := s.acquireTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	e, err := s.entry("repair", b.CID())
	if err != nil {
		return err
	}
	s.mu.RLock()
	p := s.packs[e.at.pack]
	s.mu.RUnlock()
	if p == nil {
		return &blockstore.BlockError{Op: "repair", CID: b.CID(), Err: errNoPack}
	}
	if err := p.file.writev([][]byte{b.Data()}, e.at.offset()); err != nil {
		return fmt.Errorf("repair %v: %w", b.CID(), err)
	}
	if err := p.file.datasync(); err != nil {
		return fmt.Errorf("repair %v: %w", b.CID(), err)
	}
	s.cfg.Logger.InfoContext(ctx, "damaged block repaired", "cid", b.CID().String(), "pack", e.at.pack)
	return nil
}
