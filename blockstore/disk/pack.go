package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"rialto/blockstore"
)

const (
	recordMagic  = "RBLK"
	recordHeader = 4 + 4 + 32 + 4
)

// location says where a block's data is.
type location struct {
	pack   uint32
	offset int64
	size   uint32
}

// pack is one file of records.
type pack struct {
	id   uint32
	file *os.File
	end  int64 // committed length
	live int64 // bytes of blocks that the index names
}

func packPath(dir string, id uint32) string {
	return filepath.Join(dir, "packs", fmt.Sprintf("%08d.pack", id))
}

// packID reads the number out of a pack's file name.
func packID(name string) (uint32, bool) {
	digits, isPack := strings.CutSuffix(name, ".pack")
	id, err := strconv.ParseUint(digits, 10, 32)
	return uint32(id), isPack && err == nil && id > 0 //nolint:gosec // ParseUint was told 32 bits
}

func createPack(dir string, id uint32) (*pack, error) {
	f, err := os.OpenFile(packPath(dir, id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Join(dir, "packs")); err != nil {
		f.Close()
		return nil, err
	}
	return &pack{id: id, file: f}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// write puts a record at off and returns where its data is and where the record ends.
func (p *pack) write(off int64, b blockstore.Block) (location, int64, error) {
	h := header(b)
	if _, err := p.file.WriteAt(h, off); err != nil {
		return location{}, 0, err
	}
	off += recordHeader
	if _, err := p.file.WriteAt(b.Data(), off); err != nil {
		return location{}, 0, err
	}
	at := location{pack: p.id, offset: off, size: uint32(b.Size())} //nolint:gosec // at most 1 MiB
	return at, off + int64(b.Size()), nil
}

func header(b blockstore.Block) []byte {
	h := make([]byte, 0, recordHeader)
	h = append(h, recordMagic...)
	h = binary.BigEndian.AppendUint32(h, uint32(b.Size())) //nolint:gosec // at most 1 MiB
	c := b.CID()
	h = append(h, c[:]...)
	return binary.BigEndian.AppendUint32(h, crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
}

// parseHeader returns the name and the size of the block behind a header.
func parseHeader(h []byte) (c blockstore.CID, size uint32, ok bool) {
	sum := crc32.Checksum(h[:recordHeader-4], crc32.MakeTable(crc32.Castagnoli))
	if !bytes.HasPrefix(h, []byte(recordMagic)) || binary.BigEndian.Uint32(h[recordHeader-4:]) != sum {
		return blockstore.CID{}, 0, false
	}
	size = binary.BigEndian.Uint32(h[4:])
	return blockstore.CID(h[8 : 8+32]), size, size > 0 && size <= blockstore.MaxBlock
}

// scan calls found for each whole record and returns where the last one ends. Punched and damaged
// blocks are passed over.
func (p *pack) scan(found func(blockstore.CID, location) error) (int64, error) {
	h := make([]byte, recordHeader)
	var off int64
	for {
		if _, err := p.file.ReadAt(h, off); err != nil {
			return off, endOfPack(err)
		}
		c, size, ok := parseHeader(h)
		if !ok {
			return off, nil
		}
		at := location{pack: p.id, offset: off + recordHeader, size: size}
		data := make([]byte, size)
		if _, err := p.file.ReadAt(data, at.offset); err != nil {
			return off, endOfPack(err)
		}
		if blockstore.Sum(data) == c {
			if err := found(c, at); err != nil {
				return off, err
			}
		}
		off = at.offset + int64(size)
	}
}

func endOfPack(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
