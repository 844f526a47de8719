package server

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

// maxTrace bounds a trace. A start of a program touches some hundred blocks.
const maxTrace = 1 << 16

// tree is a virtual device: slots of blocks, with zeros between them.
type tree struct {
	root     blockstore.CID
	table    *wire.Table
	blocks   []*block // by number
	store    *blocks
	deadline time.Duration
	start    time.Time

	gone    atomic.Bool   // its blocks may be gone, too
	touched []atomic.Bool // by block
	mu      sync.Mutex
	trace   []wire.Touch
}

func newTree(root blockstore.CID, table *wire.Table, store *blocks, deadline time.Duration) *tree {
	return &tree{
		root: root, table: table, blocks: store.hold(table.Blocks), store: store, deadline: deadline,
		start: time.Now(), touched: make([]atomic.Bool, len(table.Blocks)),
	}
}

// read fills buf from an address of the device on. It waits for blocks, and reads all or nothing. pid is the reader,
// interrupted is closed when it got a signal.
func (t *tree) read(buf []byte, addr int64, pid uint32, interrupted <-chan struct{}) error {
	slots := t.table.Slots
	end := addr + int64(len(buf))
	first, _ := slices.BinarySearchFunc(slots, addr, func(s blockstore.Slot, addr int64) int {
		if s.Addr+int64(s.Size) <= addr {
			return -1
		}
		return 1
	})
	last := first
	for last < len(slots) && slots[last].Addr < end {
		last++
	}
	w := waiter{tree: t, pid: pid, interrupted: interrupted}
	defer w.stop()
	if err := w.present(slots[first:last]); err != nil {
		return err
	}
	at := addr // up to where buf is filled
	for _, s := range slots[first:last] {
		from, to := max(s.Addr, addr), min(s.Addr+int64(s.Size), end)
		clear(buf[at-addr : from-addr])
		if err := w.copy(buf[from-addr:to-addr], s.Block, s.Offset+int(from-s.Addr)); err != nil {
			return err
		}
		at = to
	}
	clear(buf[at-addr:])
	if t.gone.Load() { // perhaps since before the last byte was read
		return fmt.Errorf("tree %s: %w", t.root, errAbsent)
	}
	return nil
}

func (t *tree) touch(block int) {
	if t.touched[block].Load() || t.touched[block].Swap(true) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.trace) < maxTrace {
		t.trace = append(t.trace, wire.Touch{Block: block, After: time.Since(t.start)})
	}
}

func (t *tree) touches() []wire.Touch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.trace)
}

// waiter is one read that may have to wait. All its blocks share one deadline.
type waiter struct {
	tree        *tree
	pid         uint32
	interrupted <-chan struct{}
	until       time.Time
	timer       *time.Timer
}

func (w *waiter) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// present waits until the blocks of the slots are there. It asks for all before it waits for one.
func (w *waiter) present(slots []blockstore.Slot) error {
	t := w.tree
	type pending struct {
		b    *block
		done <-chan struct{}
	}
	var all []pending
	before := -1
	for _, s := range slots {
		if s.Block == before {
			continue
		}
		before = s.Block
		t.touch(s.Block)
		b := t.blocks[s.Block]
		if b.place.Load() != nil {
			continue
		}
		done, err := w.want(b)
		if err != nil {
			return err
		}
		if done != nil {
			all = append(all, pending{b, done})
		}
	}
	for _, p := range all {
		if err := w.wait(p.b, p.done); err != nil {
			return err
		}
	}
	return nil
}

func (w *waiter) want(b *block) (<-chan struct{}, error) {
	if w.timer == nil {
		w.until = time.Now().Add(w.tree.deadline)
		w.timer = time.NewTimer(w.tree.deadline)
	}
	done, err := w.tree.store.want(w.tree.root, b, w.until)
	if err != nil {
		w.tree.store.report(w.tree.root, b)
	}
	return done, err
}

func (w *waiter) wait(b *block, done <-chan struct{}) error {
	interrupted := w.interrupted
	var look <-chan time.Time
	for {
		select {
		case <-done:
			var err error
			if done, err = w.want(b); err != nil { // or it failed for another tree that has it
				return err
			}
			if done == nil {
				return nil
			}
		case <-w.timer.C:
			w.tree.store.overdue(w.tree.root, b)
			w.tree.store.report(w.tree.root, b)
			return errAbsent
		case <-interrupted:
			// Most signals must not end a read: the file system on the device would make an I/O error of it. A
			// reader that is to die need not wait, though, and the kernel tells us of its first signal only.
			interrupted = nil
			ticker := time.NewTicker(200 * time.Millisecond)
			defer ticker.Stop() // the loop ends with the read
			look = ticker.C
			if dying(w.pid) {
				return os.ErrDeadlineExceeded
			}
		case <-look:
			if dying(w.pid) {
				return os.ErrDeadlineExceeded
			}
		}
	}
}

// copy reads a part of a block, from where it is now, and decrypts it in place if the tree is private. The key is the
// tree's and not the block's: another tree may name the same block, and does not know its key for that.
func (w *waiter) copy(buf []byte, number, offset int) error {
	b := w.tree.blocks[number]
	for range 2 {
		p := b.place.Load()
		if p != nil {
			err := p.readAt(buf, offset)
			if err == nil {
				if keys := w.tree.table.Keys; keys != nil {
					keys[number].Crypt(buf, int64(offset))
				}
				return nil
			}
			w.tree.store.lost(b, p, err)
		}
		done, err := w.want(b)
		if err != nil {
			return err
		}
		if done != nil {
			if err := w.wait(b, done); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("block %s: %w", b.ref.CID, errAbsent)
}

// dying reports whether a thread was sent SIGKILL.
func dying(pid uint32) bool {
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	if err != nil {
		return pid != 0
	}
	for line := range bytes.Lines(status) {
		name, digits, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "SigPnd" && string(name) != "ShdPnd" {
			continue
		}
		const sigkill = 1 << (9 - 1)
		if set, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 64); err == nil && set&sigkill != 0 {
			return true
		}
	}
	return false
}
