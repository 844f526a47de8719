package ledger

import (
	"slices"
	"strings"
	"sync"

	"github.com/google/btree"
)

// overlay is the part of the state that the journal has and the database not yet. Its keys are the database's.
type overlay struct {
	mu     sync.RWMutex
	fresh  *btree.BTreeG[Entry] // since the last checkpoint began
	frozen *btree.BTreeG[Entry] // what the checkpoint under way writes; nil: there is none
	bytes  int                  // that were put since the last checkpoint began
}

func newOverlay() *overlay { return &overlay{fresh: newTree()} }

func newTree() *btree.BTreeG[Entry] {
	return btree.NewG(32, func(a, b Entry) bool { return a.Key < b.Key })
}

// put sets keys, all at one moment. It keeps the values.
func (o *overlay) put(entries []Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range entries {
		o.fresh.ReplaceOrInsert(e)
		o.bytes += len(e.Key) + len(e.Value)
	}
}

func (o *overlay) get(key string) ([]byte, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	e, ok := o.fresh.Get(Entry{Key: key})
	if !ok && o.frozen != nil {
		e, ok = o.frozen.Get(Entry{Key: key})
	}
	return e.Value, ok
}

// freeze begins a checkpoint: it returns what is to be written, which stays readable until [overlay.thawed].
func (o *overlay) freeze() *btree.BTreeG[Entry] {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frozen, o.fresh, o.bytes = o.fresh, newTree(), 0
	return o.frozen
}

// thawed ends a checkpoint: the database has what was frozen.
func (o *overlay) thawed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frozen = nil
}

// moment returns the entries whose key begins with prefix, from start on, by key, as of the moment at which it calls also.
func (o *overlay) moment(prefix, start string, also func()) []Entry {
	var out []Entry
	collect := func(e Entry) bool {
		if !strings.HasPrefix(e.Key, prefix) {
			return false
		}
		out = append(out, e)
		return true
	}
	o.mu.RLock()
	also()
	o.fresh.AscendGreaterOrEqual(Entry{Key: start}, collect)
	if o.frozen != nil {
		o.frozen.AscendGreaterOrEqual(Entry{Key: start}, collect)
	}
	o.mu.RUnlock()
	byKey := func(a, b Entry) int { return strings.Compare(a.Key, b.Key) }
	slices.SortStableFunc(out, byKey)
	return slices.CompactFunc(out, func(a, b Entry) bool { return a.Key == b.Key }) // the first is the fresh one
}

func (o *overlay) size() int {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.bytes
}
