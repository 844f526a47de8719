//go:build linux

package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

// layers knows the layers of images that this host imported, for one import: images often share their base.
// A file holds the root of the image that the layer was imported for, in whose tree the data of its small files is, and
// then its list. Methods are called from one goroutine at a time.
type layers struct {
	fill  *fill
	small map[[sha256.Size]byte]place // of the trees that were looked at
	known map[blockstore.CID]bool     // roots -> they were looked at, and are here
}

// place is where a small file lies.
type place struct {
	block  blockstore.CID
	offset int
	size   int64
}

var _ image.Layers = (*layers)(nil)

func (f *fill) layers() *layers {
	return &layers{fill: f, small: make(map[[sha256.Size]byte]place), known: make(map[blockstore.CID]bool)}
}

func (m *Images) layerDir() string { return filepath.Join(m.cfg.Dir, "layers") }

func (m *Images) layerFile(id blockstore.Digest) string {
	return filepath.Join(m.layerDir(), strings.TrimPrefix(id.String(), "sha256:"))
}

// List returns the list of a layer, if the image that it was imported for is here.
func (l *layers) List(ctx context.Context, id blockstore.Digest) ([]byte, error) {
	p, err := os.ReadFile(l.fill.images.layerFile(id))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(p) < sha256.Size {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	root := blockstore.CID(p[:sha256.Size])
	if here, looked := l.known[root]; !looked {
		if l.known[root], err = l.look(ctx, root); err != nil {
			return nil, err
		}
	} else if !here {
		return nil, nil
	}
	return p[sha256.Size:], nil
}

// look finds the small files of an image that is whole here.
func (l *layers) look(ctx context.Context, root blockstore.CID) (here bool, err error) {
	m := l.fill.images
	rec, ok := m.records.get(root)
	if !ok || !rec.Own || !rec.Whole {
		return false, nil
	}
	t, err := blockstore.LoadTree(ctx, rec.Tree, m.cfg.Store)
	if err != nil {
		return false, gone(err)
	}
	packs := make(map[int][]*blockstore.Node)
	for i := range t.Nodes {
		if n := &t.Nodes[i]; n.Size > 0 && n.Kind == blockstore.File && !n.Large() {
			packs[n.Block] = append(packs[n.Block], n)
		}
	}
	for number, nodes := range packs {
		b, err := m.cfg.Store.Get(ctx, t.Blocks[number].CID)
		if err != nil {
			if gone(err) != nil {
				return false, err
			}
			continue // its files are missing, and so the layers that have them
		}
		for _, n := range nodes {
			sum := sha256.Sum256(b.Data()[n.Offset : n.Offset+int(n.Size)])
			l.small[sum] = place{b.CID(), n.Offset, n.Size}
		}
	}
	return true, nil
}

// gone is nil for a block that is not here, or damaged.
func gone(err error) error {
	if errors.Is(err, blockstore.ErrNotFound) || errors.Is(err, blockstore.ErrMismatch) {
		return nil
	}
	return err
}

// Has reports whether a block is here, and keeps it until what it belongs to is shown.
func (l *layers) Has(ctx context.Context, c blockstore.CID) (bool, error) {
	if here, err := (room{l.fill}).Has(ctx, c); !here || err != nil {
		return false, err
	}
	err := l.fill.pin(ctx, c)
	if errors.Is(err, blockstore.ErrNotFound) { // deleted just now
		return false, nil
	}
	return err == nil, err
}

// Small returns the data of a small file, or nil.
func (l *layers) Small(ctx context.Context, sum [sha256.Size]byte) ([]byte, error) {
	at, ok := l.small[sum]
	if !ok {
		return nil, nil
	}
	p := make([]byte, at.size)
	if _, err := l.fill.images.cfg.Store.ReadAt(ctx, at.block, p, at.offset); err != nil {
		return nil, gone(err)
	}
	if sha256.Sum256(p) != sum {
		return nil, nil
	}
	return p, nil
}

// Keep writes down the layers of an image.
func (l *layers) Keep(_ context.Context, root blockstore.CID, lists map[blockstore.Digest][]byte) error {
	m := l.fill.images
	if err := os.MkdirAll(m.layerDir(), 0o700); err != nil {
		return err
	}
	for id, list := range lists {
		tmp := m.layerFile(id) + ".new"
		if err := os.WriteFile(tmp, append(root[:], list...), 0o600); err != nil {
			return err
		}
		if err := os.Rename(tmp, m.layerFile(id)); err != nil {
			return err
		}
	}
	return nil
}

// forgetLayers deletes the lists of layers whose data goes with an image.
func (m *Images) forgetLayers(root blockstore.CID) error {
	names, err := os.ReadDir(m.layerDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(m.layerDir(), name.Name())
		of, err := rootOfLayer(path)
		if err == nil && of == root {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// rootOfLayer reads which image a list belongs to. One that is shorter is being written, or a crash tore it: it names
// no image.
func rootOfLayer(path string) (root blockstore.CID, err error) {
	f, err := os.Open(path)
	if err != nil {
		return root, err
	}
	defer f.Close()
	_, err = io.ReadFull(f, root[:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return blockstore.CID{}, nil
	}
	return root, err
}
