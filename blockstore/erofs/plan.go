package erofs

import (
	"fmt"
	"math"
	"math/bits"

	"rialto/blockstore"
)

// Inode layouts, in the place that they have in an inode's format field, with the bit for the extended form.
const (
	layoutPlain   = 0<<1 | 1
	layoutInline  = 2<<1 | 1
	layoutChunked = 4<<1 | 1
)

// plan is where everything of an image lies. It is made before the first byte is written.
type plan struct {
	tree      *blockstore.Tree
	placement Placement
	devices   []int64

	// By node.
	at       []int64  // of the inode
	blockOf  []uint32 // first block of a directory or symlink that is apart from its inode; else 0
	links    []uint32 // names of a file; of a directory 2 and one for each directory in it
	first    []int32  // of a directory: where its children begin in children
	children []int32  // nodes, by their parents and then their names

	apart      []int32 // nodes with blocks of their own, in the order of those
	headBlocks int
	inodes     int
	blocks     uint32 // of the image

	places []Place // scratch
}

func newPlan(t *blockstore.Tree, p Placement) (*plan, error) {
	n := len(t.Nodes)
	pl := &plan{
		tree: t, placement: p, devices: p.Devices(),
		at: make([]int64, n), blockOf: make([]uint32, n), links: make([]uint32, n),
	}
	if err := checkDevices(pl.devices); err != nil {
		return nil, err
	}
	pl.family()
	pl.headBlocks = int(blocks(superOffset + superSize + int64(len(pl.devices))*deviceSize))
	next := int64(pl.headBlocks) * blockSize
	var err error
	for i := range t.Nodes {
		if t.Nodes[i].Kind == blockstore.Link {
			continue
		}
		pl.inodes++
		if next, err = pl.place(i, next); err != nil {
			return nil, fmt.Errorf("%q: %w", t.Path(i), err)
		}
	}
	at := blocks(next)
	for _, i := range pl.apart {
		if at < math.MaxUint32 {
			pl.blockOf[i] = uint32(at)
		}
		at += blocks(pl.size(int(i)))
	}
	if at >= math.MaxUint32 {
		return nil, fmt.Errorf("%w: metadata of %d blocks", ErrPlacement, at)
	}
	pl.blocks = uint32(at)
	return pl, nil
}

// family counts names and sorts children by their directories. Nodes stand in depth-first order, so that a
// directory's children stay in the order of their names.
func (pl *plan) family() {
	nodes := pl.tree.Nodes
	pl.first = make([]int32, len(nodes)+1)
	for i := range nodes {
		n := &nodes[i]
		switch n.Kind {
		case blockstore.Dir:
			pl.links[i] += 2
			if i > 0 {
				pl.links[n.Parent]++
			}
		case blockstore.Link:
			pl.links[n.Link]++
		default:
			pl.links[i]++
		}
		if i > 0 {
			pl.first[n.Parent+1]++
		}
	}
	for i := range nodes {
		pl.first[i+1] += pl.first[i]
	}
	pl.children = make([]int32, max(len(nodes)-1, 0))
	next := append([]int32(nil), pl.first...)
	for i := 1; i < len(nodes); i++ {
		p := nodes[i].Parent
		pl.children[next[p]] = int32(i)
		next[p]++
	}
}

// place puts an inode at the first possible offset from at on and returns where the next may begin.
func (pl *plan) place(i int, at int64) (int64, error) {
	n := &pl.tree.Nodes[i]
	at = roundUp(at, slotSize)
	own := int64(inodeSize + xattrSize(n))
	if n.Kind == blockstore.File {
		count, err := pl.chunkCount(n)
		if err != nil {
			return 0, err
		}
		if at%blockSize > blockSize-inodeSize { // the fixed part lies in one block
			at = roundUp(at, blockSize)
		}
		pl.at[i] = at
		if count > 0 {
			return roundUp(at+own, chunkSize) + count*chunkSize, nil
		}
		return at + own, nil
	}
	size := pl.size(i)
	if own+size > blockSize {
		pl.apart = append(pl.apart, int32(i))
		size = 0
	}
	// A tail must lie in one block with the end of what is before it.
	if at%blockSize+min(own, inodeSize) > blockSize || size > 0 && at%blockSize+own+size > blockSize {
		at = roundUp(at, blockSize)
	}
	pl.at[i] = at
	return at + own + size, nil
}

// chunkCount checks a file's placement and returns the length of its chunk index.
func (pl *plan) chunkCount(n *blockstore.Node) (int64, error) {
	if n.Size == 0 {
		return 0, nil
	}
	var size int64
	size, pl.places = pl.placement.Chunks(n, pl.places[:0])
	if size < blockSize || bits.OnesCount64(uint64(size)) != 1 {
		return 0, fmt.Errorf("%w: chunks of %d bytes", ErrPlacement, size)
	}
	if count := (n.Size + size - 1) / size; int64(len(pl.places)) != count {
		return 0, fmt.Errorf("%w: %d chunks in place of %d", ErrPlacement, len(pl.places), count)
	}
	rest := n.Size
	for _, p := range pl.places {
		if p.Device < 1 || p.Device > len(pl.devices) || p.Addr < 0 || p.Addr%blockSize != 0 ||
			p.Addr > pl.devices[p.Device-1]-roundUp(min(rest, size), blockSize) {
			return 0, fmt.Errorf("%w: address %d of device %d", ErrPlacement, p.Addr, p.Device)
		}
		rest -= size
	}
	return int64(len(pl.places)), nil
}

// size returns the bytes of a directory's records or of a symlink's target.
func (pl *plan) size(i int) int64 {
	n := &pl.tree.Nodes[i]
	if n.Kind == blockstore.Symlink {
		return int64(len(n.Target))
	}
	var full, used int64
	for _, e := range pl.entries(i) {
		need := int64(direntSize + len(e))
		if used+need > blockSize {
			full, used = full+blockSize, 0
		}
		used += need
	}
	return full + used
}

// nid returns the number of a node's inode; of a link, that of the file.
func (pl *plan) nid(i int) uint64 {
	if n := &pl.tree.Nodes[i]; n.Kind == blockstore.Link {
		i = n.Link
	}
	return uint64(pl.at[i] / slotSize)
}

func blocks(n int64) int64 { return (n + blockSize - 1) / blockSize }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
