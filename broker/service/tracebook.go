package service

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/broker"
)

const (
	// maxTraced bounds the commands whose runs are remembered; the one forgotten first is the least recently used.
	maxTraced = 10_000
	// maxImageTraced is the same for one image: jobs that differ in a number alone must not push out other images.
	maxImageTraced = 64
	// maxRuns bounds the runs of a command, and those of others that stand in for it.
	maxRuns = 5
	// maxTraceBytes bounds the traces of all. It is reached by long traces of strangers only: 400 blocks take some 600
	// bytes. Each new run makes room for more than itself, so that it is exceeded for a while, two and a half times at most.
	maxTraceBytes = 64 << 20
	// maxForgotten bounds what one new run pushes out, and so the size of its batch.
	maxForgotten = 4

	traceHints = "trace/" // + slot of a command / place of a run in it → tracedRun
)

// tracedRun is what a provider told about one run, as it is kept.
type tracedRun struct {
	Root     string        `json:"root"`
	Digest   string        `json:"digest"`  // as the job's spec names the image
	Command  string        `json:"command"` // hash
	Provider broker.PeerID `json:"provider"`
	Leased   time.Time     `json:"leased"` // tells runs of one provider apart
	Trace    []byte        `json:"trace"`  // encoded
}

// newer orders runs, the newest first.
func newer(a, b *tracedRun) int {
	return cmp.Or(b.Leased.Compare(a.Leased), cmp.Compare(a.Provider, b.Provider))
}

// traceBook remembers runs, in memory and as hints of the store. A command has a slot, a run a place in it: the store
// deletes nothing, so that what is new must take the place of what is old. Methods are safe for concurrent use.
type traceBook struct {
	mu      sync.Mutex
	images  map[string]*tracedImage // by root
	digests map[string]string       // digest under which an image was last run → root
	recent  *list.List              // of *tracedCommand, the most recently used in front
	slots   [maxTraced]bool         // taken
	free    int                     // no slot below is free
	bytes   int                     // of all traces
}

type tracedImage struct {
	digest   string                    // of the last run
	commands map[string]*tracedCommand // by hash
}

type tracedCommand struct {
	root, hash string
	slot       int
	places     [maxRuns]*tracedRun
	used       *list.Element
}

func newTraceBook() *traceBook {
	return &traceBook{images: map[string]*tracedImage{}, digests: map[string]string{}, recent: list.New()}
}

func traceKey(slot, place int) string { return fmt.Sprintf("%s%04d/%d", traceHints, slot, place) }

// restore takes what was kept. What cannot be read was written by another version, and is only a hint.
func (b *traceBook) restore(hints map[string][]byte) {
	type kept struct {
		tracedRun
		slot, place int
	}
	var all []*kept
	for key, value := range hints {
		k := new(kept)
		_, err := fmt.Sscanf(strings.TrimPrefix(key, traceHints), "%d/%d", &k.slot, &k.place)
		if err == nil {
			err = json.Unmarshal(value, &k.tracedRun)
		}
		if err == nil {
			_, err = blockstore.DecodeTrace(k.Trace)
		}
		if err == nil && k.slot >= 0 && k.slot < maxTraced && k.place >= 0 && k.place < maxRuns {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(x, y *kept) int { return newer(&y.tracedRun, &x.tracedRun) })
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range all {
		c := b.command(k.Root, k.Command)
		if c == nil {
			if b.slots[k.slot] {
				continue
			}
			c = b.open(k.Root, k.Command, k.slot)
		}
		if c.slot == k.slot {
			b.set(c, k.place, &k.tracedRun)
		}
	}
}

// put remembers a run, encoded in value, and returns the hints to save; none if it is not news.
func (b *traceBook) put(r *tracedRun, value []byte) map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	hints := map[string][]byte{}
	c := b.command(r.Root, r.Command)
	if c == nil {
		if image := b.images[r.Root]; image != nil && len(image.commands) >= maxImageTraced {
			b.forget(b.stalest(image), hints)
		}
		if b.recent.Len() >= maxTraced {
			b.forget(b.last(), hints)
		}
		c = b.open(r.Root, r.Command, b.freeSlot())
	}
	place, ok := c.placeFor(r)
	if !ok {
		return nil
	}
	b.set(c, place, r)
	for range maxForgotten {
		if b.bytes > maxTraceBytes && b.recent.Len() > 1 {
			b.forget(b.last(), hints)
		}
	}
	hints[traceKey(c.slot, place)] = value
	return hints
}

// placeFor returns where a run belongs: over the provider's earlier one, on a free place, or over the oldest. One that
// is older is no news, so that no run is taken twice.
func (c *tracedCommand) placeFor(r *tracedRun) (place int, ok bool) {
	place = -1
	for i, other := range c.places {
		switch {
		case other != nil && other.Provider == r.Provider:
			return i, r.Leased.After(other.Leased)
		case place >= 0 && c.places[place] == nil: // a free place is the best
		case other == nil || place < 0 || newer(c.places[place], other) < 0:
			place = i
		}
	}
	return place, c.places[place] == nil || newer(r, c.places[place]) < 0
}

// command returns a command's entry or nil, and counts that as a use.
func (b *traceBook) command(root, hash string) *tracedCommand {
	image := b.images[root]
	if image == nil {
		return nil
	}
	c := image.commands[hash]
	if c != nil {
		b.recent.MoveToFront(c.used)
	}
	return c
}

func (b *traceBook) open(root, hash string, slot int) *tracedCommand {
	image := b.images[root]
	if image == nil {
		image = &tracedImage{commands: map[string]*tracedCommand{}}
		b.images[root] = image
	}
	c := &tracedCommand{root: root, hash: hash, slot: slot}
	c.used = b.recent.PushFront(c)
	image.commands[hash] = c
	b.slots[slot] = true
	return c
}

func (b *traceBook) set(c *tracedCommand, place int, r *tracedRun) {
	if old := c.places[place]; old != nil {
		b.bytes -= len(old.Trace)
	}
	c.places[place] = r
	b.bytes += len(r.Trace)
	image := b.images[c.root]
	if image.digest != r.Digest && b.digests[image.digest] == c.root {
		delete(b.digests, image.digest)
	}
	image.digest = r.Digest
	b.digests[r.Digest] = c.root
}

// forget drops a command and notes which hints become empty.
func (b *traceBook) forget(c *tracedCommand, hints map[string][]byte) {
	for place, r := range c.places {
		if r != nil {
			b.bytes -= len(r.Trace)
			hints[traceKey(c.slot, place)] = nil
		}
	}
	b.recent.Remove(c.used)
	b.slots[c.slot], b.free = false, min(b.free, c.slot)
	image := b.images[c.root]
	if delete(image.commands, c.hash); len(image.commands) > 0 {
		return
	}
	delete(b.images, c.root)
	if b.digests[image.digest] == c.root {
		delete(b.digests, image.digest)
	}
}

func (b *traceBook) freeSlot() int {
	for b.slots[b.free] {
		b.free++
	}
	return b.free
}

// last returns the least recently used command of all.
func (b *traceBook) last() *tracedCommand {
	c, _ := b.recent.Back().Value.(*tracedCommand)
	return c
}

// stalest returns the command of an image whose newest run is the oldest.
func (*traceBook) stalest(image *tracedImage) *tracedCommand {
	return slices.MinFunc(slices.Collect(maps.Values(image.commands)), func(x, y *tracedCommand) int {
		return cmp.Or(newer(y.runs()[0], x.runs()[0]), cmp.Compare(x.hash, y.hash))
	})
}

// runs returns a command's runs, the newest first. There is one at least.
func (c *tracedCommand) runs() []*tracedRun {
	runs := slices.DeleteFunc(slices.Clone(c.places[:]), func(r *tracedRun) bool { return r == nil })
	slices.SortFunc(runs, newer)
	return runs
}

// root returns the root of the last run under a digest; empty if there is none.
func (b *traceBook) root(digest string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.digests[digest]
}

// runs returns the encoded traces of a command. If it has none and others may stand in, it returns the newest of the
// image's other commands, one of each provider.
func (b *traceBook) runs(root, hash string, others bool) (traces [][]byte, exact bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.command(root, hash); c != nil {
		for _, r := range c.runs() {
			traces = append(traces, r.Trace)
		}
		return traces, true
	}
	image := b.images[root]
	if image == nil || !others {
		return nil, false
	}
	var all []*tracedRun
	for _, c := range image.commands {
		all = append(all, c.runs()...)
	}
	slices.SortFunc(all, func(x, y *tracedRun) int { return cmp.Or(newer(x, y), cmp.Compare(x.Command, y.Command)) })
	seen := map[broker.PeerID]bool{}
	for _, r := range all {
		if !seen[r.Provider] && len(traces) < maxRuns {
			traces = append(traces, r.Trace)
		}
		seen[r.Provider] = true
	}
	return traces, false
}

// commands lists an image's commands, the most recently leased first.
func (b *traceBook) commands(root string) []broker.TracedCommand {
	b.mu.Lock()
	defer b.mu.Unlock()
	image := b.images[root]
	if image == nil {
		return nil
	}
	list := make([]broker.TracedCommand, 0, len(image.commands))
	for hash, c := range image.commands {
		runs := c.runs()
		traced := broker.TracedCommand{Command: hash, Runs: len(runs), Updated: runs[0].Leased}
		for _, r := range runs {
			n, _ := binary.Uvarint(r.Trace)            // the number of blocks comes first
			traced.Blocks = max(traced.Blocks, int(n)) //nolint:gosec // at most blockstore.MaxTrace
		}
		list = append(list, traced)
	}
	slices.SortFunc(list, func(x, y broker.TracedCommand) int {
		return cmp.Or(y.Updated.Compare(x.Updated), cmp.Compare(x.Command, y.Command))
	})
	return list
}
