package erofs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"rialto/blockstore"
)

// MaxDevices is the most devices of an image. It keeps the root, which follows their table, in reach of the 16 bits
// that the superblock has for it.
const MaxDevices = 8192

// ErrPlacement reports a placement that the format cannot express.
var ErrPlacement = errors.New("data cannot be placed there")

// Place is where a chunk begins.
type Place struct {
	Device int   // from 1, as [Placement.Devices] lists them
	Addr   int64 // a multiple of blockstore.Page
}

// Placement says where the data of files lie. It must give equal answers to equal questions.
type Placement interface {
	// Devices returns the sizes of the devices in bytes, multiples of blockstore.Page. The first is number 1.
	Devices() []int64
	// Chunks says where a file that is not empty lies: in chunks of size bytes, a power of two of at least
	// blockstore.Page, of which the last may be shorter. It appends the place of each to places.
	Chunks(n *blockstore.Node, places []Place) (size int64, _ []Place)
}

// Sizes of the format.
const (
	blockSize   = blockstore.Page
	superOffset = 1024
	superSize   = 128
	deviceSize  = 128
	inodeSize   = 64
	slotSize    = 32 // unit of inode numbers
	direntSize  = 12
	chunkSize   = 8 // one entry of a chunk index
)

// Of the superblock.
const (
	magic = 0xe0f5e1e2

	compatChecksum = 1 << 0
	compatMtime    = 1 << 1 // times are those of the last change

	incompatChunked = 1 << 2
	incompatDevices = 1 << 3
)

// Write writes the image of a tree, which must be a valid one.
func Write(w io.Writer, t *blockstore.Tree, p Placement) error {
	pl, err := newPlan(t, p)
	if err != nil {
		return err
	}
	out := &output{w: bufio.NewWriterSize(w, 1<<16)}
	out.write(pl.head())
	for i := range t.Nodes {
		if t.Nodes[i].Kind == blockstore.Link {
			continue
		}
		out.pad(pl.at[i])
		pl.inode(out, i)
	}
	for _, i := range pl.apart {
		out.pad(int64(pl.blockOf[i]) * blockSize)
		pl.content(out, int(i))
	}
	out.pad(int64(pl.blocks) * blockSize)
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.err
}

// output counts what is written and keeps the first error.
type output struct {
	w     *bufio.Writer
	at    int64
	err   error
	buf   []byte // scratch of whoever writes
	zeros [blockSize]byte
}

func (o *output) write(p []byte) {
	if o.err == nil {
		_, o.err = o.w.Write(p)
	}
	o.at += int64(len(p))
}

// pad writes zeros up to an offset.
func (o *output) pad(to int64) {
	for o.at < to {
		o.write(o.zeros[:min(to-o.at, blockSize)])
	}
}

// head returns the superblock and the device table, with what is before and between them.
func (pl *plan) head() []byte {
	b := make([]byte, pl.headBlocks*blockSize)
	s := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[8:], compatChecksum|compatMtime)
	s[12] = 12 // log2 of the block size
	le.PutUint16(s[14:], uint16(pl.nid(0)))
	le.PutUint64(s[16:], uint64(pl.inodes))
	le.PutUint32(s[36:], pl.blocks)
	// Offsets 40 and 44, where inodes and shared attributes are counted from, stay zero: the image's start. So do
	// the UUID and the volume's name: an image is known by its tree's CID.
	if len(pl.devices) > 0 {
		le.PutUint32(s[80:], incompatChunked|incompatDevices)
		le.PutUint16(s[86:], uint16(len(pl.devices)))
		le.PutUint16(s[88:], (superOffset+superSize)/deviceSize)
		for i, size := range pl.devices {
			le.PutUint32(s[superSize+i*deviceSize+64:], uint32(size/blockSize))
		}
	}
	// The kernel's CRC32C is not inverted at its end.
	le.PutUint32(s[4:], ^crc32.Checksum(b[superOffset:blockSize], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// checkDevices returns an error if the devices are too many or too large for their numbers.
func checkDevices(sizes []int64) error {
	if len(sizes) > MaxDevices {
		return fmt.Errorf("%w: %d devices, the most are %d", ErrPlacement, len(sizes), MaxDevices)
	}
	for i, n := range sizes {
		if n < 0 || n%blockSize != 0 || n/blockSize >= math.MaxUint32 {
			return fmt.Errorf("%w: device %d of %d bytes", ErrPlacement, i+1, n)
		}
	}
	return nil
}
