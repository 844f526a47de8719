package disk

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"iter"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"rialto/blockstore"
)

// Has reports whether the index knows the block.
func (s *Store) Has(_ context.Context, c blockstore.CID) (bool, error) {
	_, found, err := s.index.find(c)
	return found, err
}

// Size returns a block's length.
func (s *Store) Size(_ context.Context, c blockstore.CID) (int, error) {
	e, err := s.entry("size", c)
	return int(e.at.size), err
}

// Place is where a block's bytes lie, for who mounts a pack or sends from it without copying. The
// offset is a multiple of 4096, and the file goes on with zeros to the next one behind the block.
type Place struct {
	Path   string // of the pack
	Offset int64
	Size   int
}

// Locate says where a block is, without reading it. That it stays there is certain only while a Hold
// has it.
func (s *Store) Locate(_ context.Context, c blockstore.CID) (Place, error) {
	e, err := s.entry("locate", c)
	if err != nil {
		return Place{}, err
	}
	return Place{Path: packPath(s.cfg.Dir, e.at.pack), Offset: e.at.offset(), Size: int(e.at.size)}, nil
}

func (s *Store) entry(op string, c blockstore.CID) (entry, error) {
	e, found, err := s.index.find(c)
	if err == nil && !found {
		err = &blockstore.BlockError{Op: op, CID: c, Err: blockstore.ErrNotFound}
	}
	return e, err
}

// Get reads a block and hashes it. A damaged one is ErrMismatch and, unless it is held, forgotten. An
// error of the system is returned as it is and forgets nothing: the device may come back.
func (s *Store) Get(ctx context.Context, c blockstore.CID) (blockstore.Block, error) {
	var b blockstore.Block
	err := s.read(ctx, "get", c, func(p *pack, e entry) error {
		data := make([]byte, e.at.size)
		if err := readFull(p, data, e.at.offset()); err != nil {
			return err
		}
		verified, err := blockstore.Verify(c, data)
		if err != nil {
			return blockstore.ErrMismatch
		}
		b = verified
		return nil
	})
	return b, err
}

// Verify reads a block and compares each 64 KiB with its crc32c, which was computed when the block's hash had been
// verified; see Scrub for what that is worth. It takes a seventh of the time that hashing takes.
func (s *Store) Verify(ctx context.Context, c blockstore.CID) error {
	return s.read(ctx, "verify", c, func(p *pack, e entry) error {
		buf := chunkPool.Get().(*[chunkSize]byte) //nolint:forcetypeassert // the pool has nothing else
		defer chunkPool.Put(buf)
		for off, size := 0, int(e.at.size); off < size; off += chunkSize {
			chunk := buf[:min(chunkSize, size-off)]
			if err := readFull(p, chunk, e.at.offset()+int64(off)); err != nil {
				return err
			}
			if !e.matches(chunk, off) {
				return blockstore.ErrMismatch
			}
		}
		return nil
	})
}

// ReadAt reads a part of a block and checks each 64 KiB that it touches against its crc32c. Damage
// and errors are as in Get.
func (s *Store) ReadAt(ctx context.Context, c blockstore.CID, p []byte, off int) (n int, err error) {
	err = s.read(ctx, "read", c, func(pk *pack, e entry) error {
		n = 0
		size := int(e.at.size)
		switch {
		case off < 0:
			return blockstore.ErrOffset
		case off >= size:
			return io.EOF
		}
		if n, err = pk.readChunks(p[:min(len(p), size-off)], e, off); err != nil {
			return err
		}
		if n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

// read calls do with a block's pack and entry, and decides what its error means.
func (s *Store) read(ctx context.Context, op string, c blockstore.CID, do func(*pack, entry) error) error {
	e, err := s.entry(op, c)
	for err == nil {
		s.mu.RLock()
		p := s.packs[e.at.pack]
		s.mu.RUnlock()
		cause := errNoPack
		if p != nil {
			cause = do(p, e)
		}
		if cause == nil || cause == io.EOF { //nolint:errorlint // as io.ReaderAt has it, never wrapped
			return cause
		}
		// The block may have been deleted, and even put again elsewhere, while it was read.
		var now entry
		if now, err = s.entry(op, c); err != nil {
			return err
		}
		if now.at != e.at {
			e = now
			continue
		}
		if errors.Is(cause, blockstore.ErrMismatch) {
			cause = errors.Join(cause, s.forget(ctx, e))
		}
		return &blockstore.BlockError{Op: op, CID: c, Err: cause}
	}
	return err
}

// errNoPack is seen only while a pack is being removed, or by who uses a closed store.
var errNoPack = errors.New("its pack is gone")

// forget drops a damaged block, so that it can be fetched again.
func (s *Store) forget(ctx context.Context, e entry) error {
	s.cfg.Logger.WarnContext(ctx, "damaged block", "cid", e.cid.String(), "pack", e.at.pack, "offset", e.at.offset())
	dead, _, err := s.remove(ctx, []entry{e})
	if errors.Is(err, ErrPinned) {
		err = nil // ErrMismatch says enough
	}
	return errors.Join(err, s.punchInTurns(ctx, dead))
}

// readFull fills p. A pack that ends early lost its end.
func readFull(pk *pack, p []byte, off int64) error {
	_, err := pk.file.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return blockstore.ErrMismatch
	}
	return err
}

// chunkPool has buffers for chunks that nobody keeps.
//
//nolint:gochecknoglobals // shared by all stores
var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// readChunks fills p with the block's bytes from off on, whole checked chunks at a time. It returns
// how many bytes were good.
func (pk *pack) readChunks(p []byte, e entry, off int) (n int, err error) {
	size := int(e.at.size)
	for n < len(p) {
		first := (off + n) / chunkSize * chunkSize // of the chunk
		if first < off+n || len(p)-n < min(chunkSize, size-first) {
			m, err := pk.readPart(p[n:], e, off+n)
			if err != nil {
				return n, err
			}
			n += m
			continue
		}
		// As many whole chunks as are wanted, in one read. The block's last one is as long as it is.
		whole := (len(p) - n) / chunkSize * chunkSize
		if first+len(p)-n == size {
			whole = len(p) - n
		}
		run := p[n : n+whole]
		if err := readFull(pk, run, e.at.offset()+int64(first)); err != nil {
			return n, err
		}
		for len(run) > 0 {
			chunk := run[:min(len(run), chunkSize)]
			if !e.matches(chunk, first) {
				return n, blockstore.ErrMismatch
			}
			n += len(chunk)
			first += len(chunk)
			run = run[len(chunk):]
		}
	}
	return n, nil
}

// readPart copies what p wants of the one chunk that off is in.
func (pk *pack) readPart(p []byte, e entry, off int) (int, error) {
	buf := chunkPool.Get().(*[chunkSize]byte) //nolint:forcetypeassert // the pool has nothing else
	defer chunkPool.Put(buf)
	first := off / chunkSize * chunkSize
	chunk := buf[:min(chunkSize, int(e.at.size)-first)]
	if err := readFull(pk, chunk, e.at.offset()+int64(first)); err != nil {
		return 0, err
	}
	if !e.matches(chunk, first) {
		return 0, blockstore.ErrMismatch
	}
	return copy(p, chunk[off-first:]), nil
}

// matches reports whether the chunk that begins at an offset is as it was put.
func (e entry) matches(chunk []byte, off int) bool {
	return crc32.Checksum(chunk, castagnoli) == binary.BigEndian.Uint32(e.sums[4*(off/chunkSize):])
}

// eachBatch is how many entries are taken out of the index at a time.
const eachBatch = 1024

// Each lists the blocks in the order of their names. What is put or deleted meanwhile may be listed or
// not. No lock is held while the caller has its turn: it may use the store. A failure is the last pair.
func (s *Store) Each(ctx context.Context) iter.Seq2[blockstore.Ref, error] {
	return func(yield func(blockstore.Ref, error) bool) {
		for batch, err := range s.batches(ctx) {
			if err != nil {
				yield(blockstore.Ref{}, err)
				return
			}
			for _, e := range batch {
				if !yield(blockstore.Ref{CID: e.cid, Size: int(e.at.size)}, nil) {
					return
				}
			}
		}
	}
}

// batches is Each by batches of entries, which are the caller's.
func (s *Store) batches(ctx context.Context) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		var last blockstore.CID
		for {
			batch, err := s.index.after(last, eachBatch)
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if len(batch) == 0 {
				return
			}
			last = batch[len(batch)-1].cid
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// ScrubReport says what a scrub found.
type ScrubReport struct {
	Blocks     int
	Bytes      int64
	Damaged    []blockstore.CID // forgotten, unless they are held
	Held       []blockstore.CID // those of Damaged that are here still, because they are held; none can be put again before that ends
	Unreadable []blockstore.CID // the system failed to read them: they are kept, as the device may come back
}

// Scrub reads every block, at most limit bytes a second on average if limit is positive, and forgets
// what is damaged, so that it is fetched again. It compares each 64 KiB with its crc32c, which was
// computed when the block's hash had been verified. Where that matches no hash is computed: a crc32c
// misses a random error once in four billion, Get hashes anyway, and nobody can aim an error at it who
// could not write to the disk. Blocks put meanwhile may be left out.
func (s *Store) Scrub(ctx context.Context, limit int64) (ScrubReport, error) {
	var report ScrubReport
	pace := rate.NewLimiter(rate.Inf, 0)
	if limit > 0 {
		pace = rate.NewLimiter(rate.Limit(limit), blockstore.MaxBlock)
	}
	buf := make([]byte, blockstore.MaxBlock)
	for batch, err := range s.batches(ctx) {
		if err != nil {
			return report, err
		}
		// In the order of the disk, as far as a batch goes.
		slices.SortFunc(batch, func(a, b entry) int {
			return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.page, b.at.page))
		})
		for _, e := range batch {
			if err := pace.WaitN(ctx, int(e.at.size)); err != nil {
				return report, err
			}
			n, err := s.ReadAt(ctx, e.cid, buf[:e.at.size], 0)
			switch {
			case err == nil:
				report.Blocks++
				report.Bytes += int64(n)
			case errors.Is(err, blockstore.ErrNotFound): // deleted meanwhile
			case errors.Is(err, blockstore.ErrMismatch):
				report.Damaged = append(report.Damaged, e.cid)
				if has, _ := s.Has(ctx, e.cid); has {
					report.Held = append(report.Held, e.cid)
				}
			case ctx.Err() != nil:
				return report, context.Cause(ctx)
			default:
				report.Unreadable = append(report.Unreadable, e.cid)
			}
		}
	}
	return report, nil
}
