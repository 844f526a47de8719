//go:build linux

package images

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"rialto/blockstore"
)

// record says that all blocks under a root are here and were proven.
type record struct {
	Root   blockstore.CID    `json:"root"`
	Digest blockstore.Digest `json:"digest,omitzero"` // of the OCI manifest; zero for weights
	Index  blockstore.Digest `json:"index,omitzero"`  // of an OCI index that it was reached through
}

// roots is the set of what is whole here.
type roots struct {
	dir  string
	mu   *sync.Mutex
	held map[blockstore.CID]record
}

func openRoots(ctx context.Context, dir string, store blockstore.Store, log *slog.Logger) (roots, error) {
	r := roots{
		dir:  filepath.Join(dir, "roots"),
		mu:   new(sync.Mutex),
		held: make(map[blockstore.CID]record),
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return roots{}, err
	}
	names, err := os.ReadDir(r.dir)
	if err != nil {
		return roots{}, err
	}
	for _, name := range names {
		root, err := blockstore.ParseCID(strings.TrimSuffix(name.Name(), ".json"))
		if err != nil {
			continue
		}
		rec, err := r.read(root)
		if err == nil {
			err = whole(ctx, store, root)
		}
		if err != nil {
			log.WarnContext(ctx, "image is not whole any more", "root", root.String(), "err", err)
			if err := os.Remove(r.path(root)); err != nil {
				return roots{}, err
			}
			continue
		}
		r.held[root] = rec
	}
	return r, nil
}

// whole checks that every block is in the store's index. Their bytes are checked when they are read.
func whole(ctx context.Context, store blockstore.Store, root blockstore.CID) error {
	m, err := blockstore.Load(ctx, root, store)
	if err != nil {
		return err
	}
	for ref := range m.Refs() {
		ok, err := store.Has(ctx, ref.CID)
		if err != nil {
			return err
		}
		if !ok {
			return &blockstore.BlockError{Op: "find", CID: ref.CID, Err: blockstore.ErrNotFound}
		}
	}
	return nil
}

func (r roots) path(root blockstore.CID) string {
	return filepath.Join(r.dir, root.String()+".json")
}

func (r roots) read(root blockstore.CID) (record, error) {
	raw, err := os.ReadFile(r.path(root))
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, err
	}
	if rec.Root != root {
		return record{}, errors.New("record of another root")
	}
	return rec, nil
}

// add records a root whose blocks are all synced.
func (r roots) add(rec record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(r.dir, "new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone if all went well
	_, err = tmp.Write(raw)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), r.path(rec.Root)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[rec.Root] = rec
	return nil
}

// drop forgets a root, because a block turned out to be missing or damaged.
func (r roots) drop(root blockstore.CID) error {
	r.mu.Lock()
	delete(r.held, root)
	r.mu.Unlock()
	err := os.Remove(r.path(root))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// find returns what is held of a target.
func (r roots) find(t target) (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.image == "" {
		rec, ok := r.held[t.root]
		return rec, ok && rec.Digest.IsZero()
	}
	for _, rec := range r.held {
		if !rec.Digest.IsZero() && (rec.Digest == t.signed || rec.Index == t.signed) {
			return rec, true
		}
	}
	return record{}, false
}

func (r roots) list() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.held), func(a, b record) int {
		return slices.Compare(a.Root[:], b.Root[:])
	})
}
