//go:build linux

package images

import (
	"context"

	"rialto/blockstore"
)

// hold keeps blocks where they are until close: somebody reads them there without asking.
func (f *fill) hold(ctx context.Context, cids ...blockstore.CID) error {
	h, err := f.images.cfg.Store.Hold(ctx, cids...)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed { // who releases holds has been here
		h.Release()
		return errEnded
	}
	f.holds = append(f.holds, h)
	return nil
}

// unpin says that what comes is shown, or that nothing comes any more.
func (f *fill) unpin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.pins {
		h.Release()
	}
	f.named, f.pins, f.pinned = true, nil, nil
}

// pin keeps blocks until what they belong to is shown. It returns blockstore.ErrNotFound if one was deleted meanwhile.
func (f *fill) pin(ctx context.Context, cids ...blockstore.CID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.named {
		return nil
	}
	h, err := f.images.cfg.Store.Hold(ctx, cids...)
	if err == nil {
		f.pins = append(f.pins, h)
		f.pinned = append(f.pinned, cids...)
	}
	return err
}
