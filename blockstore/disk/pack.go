package disk

import (
	"crypto/rand"
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

// The format of a pack; the package comment describes it.
const (
	pageSize  = 4096
	chunkSize = 64 << 10

	headerMagic = "rialto pack 2\n\x00\x00"
	tableMagic  = "rialto table 2\n\x00"
	oldMagic    = "RBLK" // format 1 began with a block's header

	saltSize    = 16
	tablePrefix = len(tableMagic) + saltSize + 4 + 4 + 4 // salt, pack, page, blocks
	tableRoom   = pageSize - tablePrefix - 4             // for descriptors, before the page's checksum
	maxBlocks   = tableRoom / (32 + 4 + 4)               // in a segment: each has a name, a size and one checksum at least
)

//nolint:gochecknoglobals // a constant table that the language cannot write as a constant
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pages returns how many pages n bytes take.
func pages(n int) uint32 { return uint32((n + pageSize - 1) / pageSize) } //nolint:gosec // n is at most MaxBlock

// chunks returns how many checksums a block of n bytes has.
func chunks(n int) int { return (n + chunkSize - 1) / chunkSize }

// sums returns the crc32c of each 64 KiB of p, big-endian, one behind the other.
func sums(p []byte) []byte {
	out := make([]byte, 0, 4*chunks(len(p)))
	for len(p) > 0 {
		n := min(len(p), chunkSize)
		out = binary.BigEndian.AppendUint32(out, crc32.Checksum(p[:n], castagnoli))
		p = p[n:]
	}
	return out
}

// descriptor says what one block of a segment is. Where it is follows from those before it.
type descriptor struct {
	cid  blockstore.CID
	size int
	sums []byte
}

// descriptorSize returns what the descriptor of a block of n bytes takes.
func descriptorSize(n int) int { return len(blockstore.CID{}) + 4 + 4*chunks(n) }

// table is the page before the blocks of a segment.
type table struct {
	salt   [saltSize]byte
	pack   uint32
	page   uint32 // where it is itself, so that a copy of it elsewhere is none
	blocks []descriptor
}

// end returns the page behind the segment.
func (t table) end() uint32 {
	end := t.page + 1
	for _, b := range t.blocks {
		end += pages(b.size)
	}
	return end
}

// encode returns the page. The descriptors fit: segments are cut so.
func (t table) encode() []byte {
	p := make([]byte, 0, pageSize)
	p = append(p, tableMagic...)
	p = append(p, t.salt[:]...)
	p = binary.BigEndian.AppendUint32(p, t.pack)
	p = binary.BigEndian.AppendUint32(p, t.page)
	p = binary.BigEndian.AppendUint32(p, uint32(len(t.blocks))) //nolint:gosec // what fits a page
	for _, b := range t.blocks {
		p = append(p, b.cid[:]...)
		p = binary.BigEndian.AppendUint32(p, uint32(b.size)) //nolint:gosec // at most MaxBlock
		p = append(p, b.sums...)
	}
	return seal(p)
}

// seal fills a page up with zeros and puts its checksum at the end.
func seal(p []byte) []byte {
	p = p[:pageSize-4]
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

func sealed(p []byte) bool {
	return binary.BigEndian.Uint32(p[pageSize-4:]) == crc32.Checksum(p[:pageSize-4], castagnoli)
}

var errTable = errors.New("not a table of blocks")

// decodeTable reads a page, which must be exactly what encode makes.
func decodeTable(p []byte) (table, error) {
	if len(p) != pageSize || string(p[:len(tableMagic)]) != tableMagic || !sealed(p) {
		return table{}, errTable
	}
	var t table
	rest := p[len(tableMagic) : pageSize-4]
	copy(t.salt[:], rest)
	rest = rest[saltSize:]
	t.pack = binary.BigEndian.Uint32(rest)
	t.page = binary.BigEndian.Uint32(rest[4:])
	n := binary.BigEndian.Uint32(rest[8:])
	rest = rest[12:]
	if n == 0 || int(n) > maxBlocks {
		return table{}, errTable
	}
	t.blocks = make([]descriptor, n)
	for i := range t.blocks {
		if len(rest) < descriptorSize(0) {
			return table{}, errTable
		}
		b := &t.blocks[i]
		copy(b.cid[:], rest)
		size := binary.BigEndian.Uint32(rest[len(b.cid):])
		if size == 0 || size > blockstore.MaxBlock || b.cid.IsZero() || len(rest) < descriptorSize(int(size)) {
			return table{}, errTable
		}
		b.size = int(size)
		b.sums = rest[len(b.cid)+4 : descriptorSize(b.size)]
		rest = rest[descriptorSize(b.size):]
	}
	for _, b := range rest {
		if b != 0 {
			return table{}, errTable
		}
	}
	return t, nil
}

// file is what a pack needs of the system. Tests put faults before it.
type file interface {
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	writev(parts [][]byte, off int64) error // writes all of them, one behind the other
	datasync() error
	allocate(off, n int64) error         // takes the space of a range, so that it cannot run out within
	punch(off, n int64) error            // gives the space of a range back; it then reads as zeros
	data(off int64) (int64, error)       // the first byte from off on that is not in a hole, or io.EOF
	allocated() (bytes int64, err error) // that the file takes, without its holes
}

// pack is one file of segments. The index, its lock and the turn say who may change what.
type pack struct {
	id   uint32
	salt [saltSize]byte
	file file

	record record            // what the index last committed about it
	tables map[uint32]uint32 // live blocks of the segment whose table is at a page
	owned  int64             // bytes of the header, of tables and of live blocks, with padding
	sealed bool              // nothing is appended any more: the system may have lost what a sync refused
}

func newPack(id uint32, f file, salt [saltSize]byte) *pack {
	return &pack{id: id, salt: salt, file: f, record: record{end: 1}, tables: make(map[uint32]uint32), owned: pageSize}
}

// count adds a live block, or takes one away, and returns by how much the owned bytes changed. The
// caller commits the same to the index.
func (p *pack) count(at location, live bool) int64 {
	n := int64(pages(int(at.size))) * pageSize
	switch {
	case live:
		if p.tables[at.table]++; p.tables[at.table] == 1 {
			n += pageSize
		}
	default:
		if p.tables[at.table]--; p.tables[at.table] == 0 {
			delete(p.tables, at.table)
			n += pageSize
		}
		n = -n
	}
	p.owned += n
	return n
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

// createPack makes a pack with a header. It is durable with the first batch that is synced.
func createPack(cfg Config, id uint32) (*pack, error) {
	f, err := cfg.open(packPath(cfg.Dir, id), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	var salt [saltSize]byte
	rand.Read(salt[:])
	err = f.writev([][]byte{header(id, salt)}, 0)
	if err == nil {
		err = syncDir(filepath.Join(cfg.Dir, "packs"))
	}
	if err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(packPath(cfg.Dir, id)))
	}
	return newPack(id, f, salt), nil
}

func header(id uint32, salt [saltSize]byte) []byte {
	p := make([]byte, 0, pageSize)
	p = append(p, headerMagic...)
	p = append(p, salt[:]...)
	return seal(binary.BigEndian.AppendUint32(p, id))
}

// openPack opens a pack that is there. A damaged header leaves it without salt if its first table is
// damaged too: what the index says of it still counts, but nothing can be found in it.
func openPack(cfg Config, id uint32) (*pack, error) {
	f, err := cfg.open(packPath(cfg.Dir, id), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	first := make([]byte, 2*pageSize)
	if _, err := f.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	if strings.HasPrefix(string(first), oldMagic) {
		f.Close()
		return nil, fmt.Errorf("pack %d: %w", id, ErrFormat)
	}
	var salt [saltSize]byte
	copy(salt[:], first[len(headerMagic):])
	if string(first[:pageSize]) != string(header(id, salt)) {
		salt = [saltSize]byte{}
		if t, err := decodeTable(first[pageSize:]); err == nil && t.pack == id && t.page == 1 {
			salt = t.salt
		}
	}
	return newPack(id, f, salt), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// walk calls found for each table from a page on, in order, until size bytes are through. It jumps
// from segment to segment; where a table is damaged or punched it looks at each page for the next one.
func (p *pack) walk(from uint32, size int64, found func(table) error) error {
	if p.salt == ([saltSize]byte{}) {
		return nil
	}
	window := make([]byte, 0, 64*pageSize)
	start := int64(0) // of the window
	for off := int64(from) * pageSize; off+pageSize <= size; {
		if off < start || off+pageSize > start+int64(len(window)) {
			if data, err := p.file.data(off); err != nil || data > off {
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				off = data &^ (pageSize - 1)
				continue
			}
			n, err := p.file.ReadAt(window[:cap(window)], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if n < pageSize {
				return nil
			}
			start, window = off, window[:n]
		}
		page := window[off-start:][:pageSize]
		t, err := decodeTable(page)
		if err != nil || t.salt != p.salt || t.pack != p.id || int64(t.page)*pageSize != off {
			off += pageSize
			continue
		}
		// The window is read over while found is at work elsewhere in the file.
		for i := range t.blocks {
			t.blocks[i].sums = append([]byte(nil), t.blocks[i].sums...)
		}
		if err := found(t); err != nil {
			return err
		}
		off = int64(t.end()) * pageSize
	}
	return nil
}
