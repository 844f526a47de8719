package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

// headFile remembers the newest acknowledged batch outside the database. Badger cuts its write-ahead log
// at the first record whose checksum is wrong and carries on without the rest; the chain alone cannot see
// that its end is missing. The file is written after each commit and before the acknowledgement, without
// fsync: after a power cut it may be older than the database, which is fine, but never newer.
//
// Format: two slots of 64 bytes, written in turn so that a torn write leaves the other:
// seq[8] hash[32] crc32c-of-these[4] zeros[20].
type headFile struct{ f *os.File }

const headSlot = 64

func openHead(dir string) (*headFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, "HEAD"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &headFile{f: f}, nil
}

// read returns the newest readable slot; zero if there is none.
func (h *headFile) read() (seq uint64, sum Hash, err error) {
	for i := range int64(2) {
		var slot [headSlot]byte
		if n, err := h.f.ReadAt(slot[:], i*headSlot); n < headSlot {
			if _, broken := errors.AsType[*fs.PathError](err); broken {
				return 0, Hash{}, fmt.Errorf("read head: %w", err)
			}
			continue // shorter: not written yet
		}
		s := binary.BigEndian.Uint64(slot[:8])
		if binary.BigEndian.Uint32(slot[40:]) == headCRC(slot) && s > seq {
			seq, sum = s, Hash(slot[8:40])
		}
	}
	return seq, sum, nil
}

func (h *headFile) write(seq uint64, sum Hash) error {
	var slot [headSlot]byte
	binary.BigEndian.PutUint64(slot[:], seq)
	copy(slot[8:], sum[:])
	binary.BigEndian.PutUint32(slot[40:], headCRC(slot))
	if _, err := h.f.WriteAt(slot[:], int64(seq%2)*headSlot); err != nil {
		return fmt.Errorf("write head: %w", err)
	}
	return nil
}

func (h *headFile) close() error { return errors.Join(h.f.Sync(), h.f.Close()) }

func headCRC(slot [headSlot]byte) uint32 {
	return crc32.Checksum(slot[:40], crc32.MakeTable(crc32.Castagnoli))
}
