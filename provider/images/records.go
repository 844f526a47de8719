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
	"time"

	"rialto/blockstore"
)

// record says what is here of an image or of weights. Its blocks were put into the store before Whole was written.
type record struct {
	Root   blockstore.CID    `json:"root"`
	Tree   blockstore.CID    `json:"tree"`
	Digest blockstore.Digest `json:"digest,omitzero"` // of the OCI manifest, or of a private image's root; zero for weights
	Index  blockstore.Digest `json:"index,omitzero"`  // of an OCI index that it was reached through
	Own    bool              `json:"own,omitempty"`   // this host imported it from its layers
	Whole  bool              `json:"whole,omitempty"` // all its blocks are here
	Used   time.Time         `json:"used"`
}

// newPrefix is what the names of records that are being written begin with.
const newPrefix = "new-"

// records is the set of what is here.
type records struct {
	dir  string
	mu   *sync.Mutex
	held map[blockstore.CID]record
	// written has the time of use that the disk knows.
	written map[blockstore.CID]time.Time
}

func openRecords(ctx context.Context, dir string, store blockstore.Store, log *slog.Logger) (records, error) {
	r := records{
		dir:     filepath.Join(dir, "roots"),
		mu:      new(sync.Mutex),
		held:    make(map[blockstore.CID]record),
		written: make(map[blockstore.CID]time.Time),
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return records{}, err
	}
	names, err := os.ReadDir(r.dir)
	if err != nil {
		return records{}, err
	}
	for _, name := range names {
		if strings.HasPrefix(name.Name(), newPrefix) { // a crash left it
			if err := os.Remove(filepath.Join(r.dir, name.Name())); err != nil {
				return records{}, err
			}
			continue
		}
		root, err := blockstore.ParseCID(strings.TrimSuffix(name.Name(), ".json"))
		if err != nil {
			continue
		}
		rec, err := r.read(root)
		if err != nil {
			log.WarnContext(ctx, "record of an image cannot be read and is deleted", "root", root.String(), "err", err)
			if err := os.Remove(r.path(root)); err != nil {
				return records{}, err
			}
			continue
		}
		if rec.Whole {
			if err := whole(ctx, store, rec); err != nil {
				log.WarnContext(ctx, "image is not whole any more", "root", root.String(), "err", err)
				rec.Whole = false
			}
		}
		r.held[root], r.written[root] = rec, rec.Used
	}
	return r, nil
}

// whole checks that every block is in the store's index. Their bytes are checked when they are read.
func whole(ctx context.Context, store blockstore.Store, rec record) error {
	refs, err := blockstore.LoadBlocks(ctx, rec.Tree, store)
	if err != nil {
		return err
	}
	for _, ref := range refs {
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

func (r records) path(root blockstore.CID) string {
	return filepath.Join(r.dir, root.String()+".json")
}

func (r records) read(root blockstore.CID) (record, error) {
	raw, err := os.ReadFile(r.path(root))
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, err
	}
	if rec.Root != root || rec.Tree.IsZero() {
		return record{}, errors.New("record of another root")
	}
	return rec, nil
}

// useGrain is how exactly the disk knows when something was used last: a start does not wait for that.
const useGrain = time.Hour

// keep writes a record. What a record was once, own or reached through an index, it stays.
func (r records) keep(rec record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.held[rec.Root]; ok {
		rec.Own = rec.Own || old.Own
		if rec.Index.IsZero() {
			rec.Index = old.Index
		}
		same := old
		same.Used = rec.Used
		if same == rec && rec.Used.Sub(r.written[rec.Root]) < useGrain {
			r.held[rec.Root] = rec
			return nil
		}
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(r.dir, newPrefix)
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
	r.held[rec.Root], r.written[rec.Root] = rec, rec.Used
	return nil
}

// drop forgets a root.
func (r records) drop(root blockstore.CID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, root)
	delete(r.written, root)
	err := os.Remove(r.path(root))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// get returns a root's record.
func (r records) get(root blockstore.CID) (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.held[root]
	return rec, ok
}

// find returns what may be used of what is here for a target: the root that the customer vouches for, if it is what
// he signed, else what this host imported itself.
func (r records) find(t target) (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named, ok := r.held[t.root]
	switch {
	case t.image == "":
		return named, ok && named.Digest.IsZero()
	case ok && named.of(t.signed):
		return named, true
	}
	for _, rec := range r.held {
		if rec.Own && rec.of(t.signed) {
			return rec, true
		}
	}
	return record{}, false
}

func (r record) of(signed blockstore.Digest) bool {
	return !r.Digest.IsZero() && (r.Digest == signed || r.Index == signed)
}

func (r records) list() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.held), func(a, b record) int {
		return slices.Compare(a.Root[:], b.Root[:])
	})
}
