package blocks

import (
	"fmt"
	"math/rand/v2"
	"time"

	"rialto/blockstore"
)

const (
	replayNodes    = 50
	replayFamilies = 12 // images that share nothing
	replayVersions = 5  // of each, each built again from the one before
	replayFiles    = 1000
	replayRequests = 40   // of each node
	replayZipf     = 1.1  // exponent
	replayCache    = 0.25 // of a node, as a part of all images' bytes
	replayEvery    = 10 * time.Second
)

// replayed is an image in the replay.
type replayed struct {
	root   blockstore.CID
	blocks []blockstore.Ref // distinct
}

// replayImages makes the images, by real builds of generated files.
func replayImages() ([]replayed, int64, error) {
	text := corpus(seed)
	var all []replayed
	unique := make(map[blockstore.CID]int)
	for f := range uint64(replayFamilies) {
		files := pythonFiles(100+f, fillerDir, replayFiles, 1)
		for v := range uint64(replayVersions) {
			if v > 0 {
				files = rebuilt(1000*f+v, files)
			}
			t, err := build(files, text)
			if err != nil {
				return nil, 0, err
			}
			own, err := t.Encode()
			if err != nil {
				return nil, 0, err
			}
			img := replayed{root: own[0].CID()}
			for _, b := range own {
				img.blocks = append(img.blocks, b.Ref())
			}
			for ref := range t.Refs() {
				img.blocks = append(img.blocks, ref)
			}
			for _, ref := range img.blocks {
				unique[ref.CID] = ref.Size
			}
			all = append(all, img)
		}
	}
	var size int64
	for _, n := range unique {
		size += int64(n)
	}
	return all, size, nil
}

// cache is what a node of the replay has.
type cache struct {
	marks  blockstore.Watermarks
	images map[blockstore.CID]*replayed
	last   map[blockstore.CID]time.Time
	needs  map[blockstore.CID]int // block -> images here that need it
	used   int64
}

// pages is what a block takes of a store.
func pages(size int) int64 { return int64(size+blockstore.Page-1) &^ (blockstore.Page - 1) }

// evict makes room as an agent does: it knows its own images, and what other hosts have it does not.
func (c *cache) evict(now time.Time, inUse blockstore.CID, holders map[blockstore.CID]int) {
	roots := make([]blockstore.Root, 0, len(c.images))
	for root, img := range c.images {
		r := blockstore.Root{CID: root, LastUsed: c.last[root], Pinned: root == inUse}
		for _, b := range img.blocks {
			if c.needs[b.CID] == 1 {
				r.Bytes += pages(b.Size)
			}
		}
		roots = append(roots, r)
	}
	for _, root := range c.marks.Evict(now, c.used, roots) {
		for _, b := range c.images[root].blocks {
			if c.needs[b.CID]--; c.needs[b.CID] == 0 {
				delete(c.needs, b.CID)
				holders[b.CID]--
				c.used -= pages(b.Size)
			}
		}
		delete(c.images, root)
	}
}

// zipf replays requests of many hosts for images, most of them for few, and counts where each byte would come from.
func zipf(r *report) error {
	all, unique, err := replayImages()
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 3))
	random.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	popular := rand.NewZipf(random, replayZipf, 1, uint64(len(all)-1))
	nodes := make([]*cache, replayNodes)
	for i := range nodes {
		nodes[i] = &cache{
			marks:  blockstore.Watermarks{Quota: int64(replayCache * float64(unique))},
			images: make(map[blockstore.CID]*replayed), last: make(map[blockstore.CID]time.Time), needs: make(map[blockstore.CID]int),
		}
	}
	holders := make(map[blockstore.CID]int)
	var local, peers, origin, evictions int64
	now := time.Unix(1_700_000_000, 0)
	for range replayRequests * replayNodes {
		now = now.Add(replayEvery)
		n := nodes[random.IntN(len(nodes))]
		img := &all[popular.Uint64()]
		n.last[img.root] = now
		_, whole := n.images[img.root]
		for _, b := range img.blocks {
			size := int64(b.Size)
			switch {
			case n.needs[b.CID] > 0:
				local += size
			case holders[b.CID] > 0:
				peers += size
			default:
				origin += size
			}
			if whole {
				continue
			}
			if n.needs[b.CID]++; n.needs[b.CID] == 1 {
				holders[b.CID]++
				n.used += pages(b.Size)
			}
		}
		n.images[img.root] = img
		before := len(n.images)
		n.evict(now, img.root, holders)
		evictions += int64(before - len(n.images))
	}
	sum := float64(local + peers + origin)
	r.section(fmt.Sprintf("REPLAY in one process, nothing is sent: %d hosts x %d requests, Zipf %.1f over %d images (%d x %d versions, %d MB in all), cache %.0f %% of that",
		replayNodes, replayRequests, replayZipf, len(all), replayFamilies, replayVersions, unique/1e6, 100*replayCache))
	r.figure("zipf_local_ratio", "from the host itself or from peers", float64(local+peers)/sum,
		fmt.Sprintf("%.1f %% own, %.1f %% peers'; %d evictions by Watermarks.Evict, as agents call it", 100*float64(local)/sum, 100*float64(peers)/sum, evictions))
	r.row("limit: each block comes from the origin once", 1-float64(unique)/sum, "of the bytes", "")
	r.row("rival: no peers", float64(local)/sum, "of the bytes", "")
	return nil
}
