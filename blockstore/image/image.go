// Package image turns OCI images and directories of weights into block manifests, and checks that a
// manifest is the image that somebody signed. Images come from a registry ([Registry]) or from an OCI
// layout ([OpenLayout]). Layers stream: memory is bounded by a few blocks per layer, whatever the image.
//
// [Prove] is what lets a manifest come from a stranger. It ties OCI manifest, config and diff_ids to
// the signed digest; that each layer's blocks add up to its diff_id is checked by whoever reads them
// (package unpack).
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
)

// layersAtOnce is how many layers are fetched together: one decompresses while the other waits for its server.
const layersAtOnce = 2

var (
	// ErrProof reports content that is not what the signed digest names.
	ErrProof = errors.New("not the signed image")
	// ErrTooLarge reports an image beyond the importer's bound.
	ErrTooLarge = errors.New("image is too large")
)

// Image is an OCI image for one platform, known by manifest and config; its layers are still where they were.
type Image struct {
	Index    []byte // raw OCI index that led here; nil if none did
	manifest []byte
	config   []byte
	diffIDs  []blockstore.Digest
	layers   []v1.Layer
}

// Digest returns the digest of the platform's manifest.
func (m *Image) Digest() blockstore.Digest { return sha256.Sum256(m.manifest) }

// DiffIDs returns the digests of the uncompressed layers, in the order in which they apply.
func (m *Image) DiffIDs() []blockstore.Digest { return m.diffIDs }

// CompressedSize returns the bytes that the layers have at their source.
func (m *Image) CompressedSize() int64 {
	var n int64
	for _, l := range m.layers {
		if size, err := l.Size(); err == nil {
			n += size
		}
	}
	return n
}

// Import says what to do with the blocks of an image.
type Import struct {
	// Put receives a layer's blocks in order; two layers may be under way at once. Required.
	Put func(ctx context.Context, layer int, b blockstore.Block) error
	// Known returns a layer that needs no import, because all its blocks are kept. Nil: none.
	Known func(diffID blockstore.Digest) (blockstore.Layer, bool)
	// Done receives each layer once it is whole and proven, in no order. Nil: nobody.
	Done func(layer int, l blockstore.Layer)
	// Read receives counts of bytes read from the source, from several goroutines. Nil: nobody.
	Read func(n int)
	// MaxBytes bounds the uncompressed layers together; zero: 1 TiB.
	MaxBytes int64
	// Patience is how long a source may send nothing until it is asked again, once; zero: 30 s.
	Patience time.Duration
}

// Import cuts all layers into blocks and returns the manifest.
func (m *Image) Import(ctx context.Context, to Import) (*blockstore.Manifest, error) {
	if to.MaxBytes == 0 {
		to.MaxBytes = 1 << 40
	}
	if to.Patience == 0 {
		to.Patience = 30 * time.Second
	}
	out := &blockstore.Manifest{OCI: m.manifest, Config: m.config, Layers: make([]blockstore.Layer, len(m.layers))}
	spent := &budget{most: to.MaxBytes}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtOnce)
	for i := range m.layers {
		g.Go(func() error {
			l, err := m.layer(ctx, i, to, spent)
			if err != nil {
				return fmt.Errorf("layer %d (%v): %w", i+1, m.diffIDs[i], err)
			}
			out.Layers[i] = l
			if to.Done != nil {
				to.Done(i, l)
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (m *Image) layer(ctx context.Context, i int, to Import, budget *budget) (blockstore.Layer, error) {
	if to.Known != nil {
		if l, ok := to.Known(m.diffIDs[i]); ok {
			return l, nil
		}
	}
	compressed := &body{open: m.layers[i].Compressed, patience: to.Patience}
	defer compressed.close()
	tar, err := decompress(&source{ctx: ctx, from: compressed, read: to.Read})
	if err != nil {
		return blockstore.Layer{}, err
	}
	defer tar.Close()
	l, err := blockstore.Cut(&limited{r: tar, budget: budget}, func(b blockstore.Block) error {
		return to.Put(ctx, i, b)
	})
	if err != nil {
		return blockstore.Layer{}, err
	}
	if l.DiffID != m.diffIDs[i] {
		return blockstore.Layer{}, fmt.Errorf("%w: the layer is %v", ErrProof, l.DiffID)
	}
	return l, nil
}

// Prove checks that a block manifest is the image that a digest names: the digest of its OCI manifest, or
// of an index, given as raw bytes, that lists it.
func Prove(m *blockstore.Manifest, signed blockstore.Digest, index []byte) error {
	if !m.IsImage() {
		return fmt.Errorf("%w: a directory", ErrProof)
	}
	if m.Digest() != signed {
		if err := listed(index, signed, m.Digest()); err != nil {
			return err
		}
	}
	diffIDs, err := diffIDs(m.OCI, m.Config)
	if err != nil {
		return err
	}
	if len(diffIDs) != len(m.Layers) {
		return fmt.Errorf("%w: %d layers, the config has %d", ErrProof, len(m.Layers), len(diffIDs))
	}
	for i, l := range m.Layers {
		if l.DiffID != diffIDs[i] {
			return fmt.Errorf("%w: layer %d is %v, the config has %v", ErrProof, i+1, l.DiffID, diffIDs[i])
		}
	}
	return nil
}

func listed(index []byte, signed, manifest blockstore.Digest) error {
	if index == nil || blockstore.Digest(sha256.Sum256(index)) != signed {
		return fmt.Errorf("%w: %v, signed was %v", ErrProof, manifest, signed)
	}
	list, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	for _, d := range list.Manifests {
		if d.Digest.String() == manifest.String() {
			return nil
		}
	}
	return fmt.Errorf("%w: the signed index does not list %v", ErrProof, manifest)
}

// diffIDs checks config against manifest and returns the layers' digests.
func diffIDs(manifest, config []byte) ([]blockstore.Digest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("parse OCI manifest: %w", err)
	}
	if got := blockstore.Digest(sha256.Sum256(config)); m.Config.Digest.String() != got.String() {
		return nil, fmt.Errorf("%w: config is %v, the manifest has %v", ErrProof, got, m.Config.Digest)
	}
	var c struct {
		RootFS struct {
			DiffIDs []blockstore.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("parse OCI config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) || len(m.Layers) > blockstore.MaxLayers {
		return nil, fmt.Errorf("%w: %d layers and %d diff_ids", ErrProof, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	return c.RootFS.DiffIDs, nil
}

// Config is how an image says to run it.
type Config struct {
	Entrypoint []string
	Cmd        []string
	Env        []string
	Workdir    string
	User       string
}

// ParseConfig reads an OCI image config.
func ParseConfig(raw []byte) (Config, error) {
	var c struct {
		Config struct {
			Entrypoint, Cmd, Env []string
			WorkingDir, User     string
		} `json:"config"`
	}
	if err := json.NewDecoder(io.LimitReader(bytes.NewReader(raw), blockstore.MaxOCI)).Decode(&c); err != nil {
		return Config{}, fmt.Errorf("parse OCI config: %w", err)
	}
	return Config{
		Entrypoint: c.Config.Entrypoint,
		Cmd:        c.Config.Cmd,
		Env:        c.Config.Env,
		Workdir:    c.Config.WorkingDir,
		User:       c.Config.User,
	}, nil
}

// newImage checks the parts of an image against each other.
func newImage(img v1.Image, index []byte) (*Image, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	if len(manifest) > blockstore.MaxOCI || len(config) > blockstore.MaxOCI {
		return nil, fmt.Errorf("OCI manifest or config: %w", ErrTooLarge)
	}
	ids, err := diffIDs(manifest, config)
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	return &Image{Index: index, manifest: manifest, config: config, diffIDs: ids, layers: layers}, nil
}
