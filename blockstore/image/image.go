// Package image turns OCI images and directories of weights into trees of content-addressed blocks. Images come from
// a registry ([Registry]), an OCI layout ([OpenLayout]) or the archive of `docker save` ([OpenArchive]). Layers
// stream: memory is bounded by a few blocks per layer and by the list of the image's files, whatever its size.
//
// An import checks everything against the digest that somebody signed: the OCI manifest, its config, and each layer
// against its diff_id. Equal images have equal roots wherever they are imported, and images whose layers add up
// to the same files share their tree.
//
// With a salt an import is private: every block that it puts is encrypted, and no host can do it again from the layers.
//
// [Prove] ties a root that came from elsewhere to a signed digest as far as that goes without the layers: OCI manifest
// and config. That the tree is what the layers add up to, only an import can tell: who takes a root from somebody
// needs to trust his word for that.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/image/internal/flat"
)

// layersAtOnce is how many layers are fetched together: one decompresses while the other waits for its server.
const layersAtOnce = 2

// Bounds of an image that its limits do not name.
const (
	maxLayers  = 512
	maxHeaders = 4 << 10 // bytes of headers and padding that an entry of a tar stream needs at most on average
)

var (
	// ErrProof reports content that is not what the signed digest names.
	ErrProof = errors.New("not the signed image")
	// ErrTooLarge reports an image beyond the importer's bound.
	ErrTooLarge = errors.New("image is too large")
)

// Limits bound an image. Zero fields get defaults: 2 million files, 256 GiB, paths of 128 components.
type Limits = flat.Limits

// ErrRefused reports an image that asks for what no image may have.
var ErrRefused = flat.ErrRefused

// Source is an OCI image for one platform, known by manifest and config; its layers are still where they were.
type Source struct {
	Index    []byte // raw OCI index that led here; nil if none did
	manifest []byte
	config   []byte
	diffIDs  []blockstore.Digest
	layers   []v1.Layer
}

// Digest returns the digest of the platform's manifest.
func (m *Source) Digest() blockstore.Digest { return sha256.Sum256(m.manifest) }

// Config returns how the image says to run it.
func (m *Source) Config() (Config, error) { return ParseConfig(m.config) }

// CompressedSize returns the bytes that the layers have at their source.
func (m *Source) CompressedSize() int64 {
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
	// Put receives each block, from several goroutines, those of the root and of the tree last. Required.
	Put func(ctx context.Context, b blockstore.Block) error
	// Scratch is a directory for the data of small files until the tree is built; empty: the system's.
	Scratch string
	// Read receives counts of bytes read from the source, from several goroutines. Nil: nobody.
	Read func(n int)
	// Layers knows layers that were imported before, so that they are not read again; nil: nobody does.
	Layers Layers
	// Recalled receives the sizes, at the source, of layers that were not read again. Nil: nobody.
	Recalled func(n int64)
	// Limits bound the uncompressed image.
	Limits Limits
	// Salt makes the image private: what Put receives is encrypted. Nil: it is public. Layers are always read then.
	Salt *blockstore.Salt
	// Patience is how long a source may send nothing until it is asked again, once; zero: 30 s.
	Patience time.Duration
}

// Layers keeps the lists of layers, and knows where the data of their files is. Its methods are called from one
// goroutine at a time.
type Layers interface {
	flat.Contents
	// List returns the list that was kept of a layer, or nil.
	List(ctx context.Context, diffID blockstore.Digest) ([]byte, error)
	// Keep is told of the layers of an image that was imported whole.
	Keep(ctx context.Context, root blockstore.CID, lists map[blockstore.Digest][]byte) error
}

// Imported is an image whose blocks were all put.
type Imported struct {
	Root    blockstore.CID
	Key     blockstore.Key // of a private image; else zero
	Image   *blockstore.Image
	Tree    *blockstore.Tree
	Skipped int // device nodes, pipes and extended attributes that were left out
}

// Import reads all layers, lays them over each other, and returns the image that they make.
func (m *Source) Import(ctx context.Context, to Import) (*Imported, error) {
	if to.Patience == 0 {
		to.Patience = 30 * time.Second
	}
	var hide *blockstore.Encrypter
	own := to.Put // for blocks that need no encryption any more
	if to.Salt != nil {
		hide = blockstore.NewEncrypter(*to.Salt, to.Put)
		to.Put, to.Layers = hide.Put, nil
	}
	spool, err := flat.NewSpool(to.Scratch)
	if err != nil {
		return nil, err
	}
	defer spool.Close() //nolint:errcheck // it has no name and nobody reads it any more
	layers, err := m.read(ctx, to, spool)
	if err != nil {
		return nil, err
	}
	tree := flat.New(to.Limits)
	for _, l := range layers {
		if err := tree.Apply(l); err != nil {
			return nil, err
		}
	}
	out := &Imported{Image: &blockstore.Image{OCI: m.manifest, Config: m.config}, Skipped: tree.Skipped()}
	put := func(b blockstore.Block) error { return own(ctx, b) }
	emit := func(b blockstore.Block) error { return to.Put(ctx, b) }
	if out.Tree, err = blockstore.Build(tree.Root(), spool.Read, emit); err != nil {
		return nil, err
	}
	if hide != nil {
		err = out.hide(hide, *to.Salt, put)
	} else {
		err = out.show(put)
	}
	if err != nil || to.Layers == nil {
		return out, err
	}
	lists := make(map[blockstore.Digest][]byte, len(layers))
	for i, l := range layers {
		lists[m.diffIDs[i]] = l.List()
	}
	return out, to.Layers.Keep(ctx, out.Root, lists)
}

// show puts a public image's lists.
func (i *Imported) show(put func(blockstore.Block) error) (err error) {
	if i.Image.Tree, err = putTree(i.Tree, put); err != nil {
		return err
	}
	blocks, err := i.Image.Encode()
	if err != nil {
		return err
	}
	i.Root = blocks[0].CID()
	return putBackward(blocks, put)
}

// putTree keeps the tree's own blocks, whose data was put before, and returns the root.
func putTree(t *blockstore.Tree, put func(blockstore.Block) error) (blockstore.CID, error) {
	blocks, err := t.Encode()
	if err != nil {
		return blockstore.CID{}, err
	}
	return blocks[0].CID(), putBackward(blocks, put)
}

// putBackward puts the root last: where it is, everything is.
func putBackward(blocks []blockstore.Block, put func(blockstore.Block) error) error {
	for _, b := range slices.Backward(blocks) {
		if err := put(b); err != nil {
			return err
		}
	}
	return nil
}

func (m *Source) read(ctx context.Context, to Import, spool *flat.Spool) ([]*flat.Layer, error) {
	layers := make([]*flat.Layer, len(m.layers))
	budget := flat.NewBudget(to.Limits)
	if err := m.recall(ctx, to, layers, spool, budget); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtOnce)
	for i := range m.layers {
		if layers[i] != nil {
			continue
		}
		g.Go(func() error {
			l, err := m.layer(ctx, i, to, spool, budget)
			if err != nil {
				return fmt.Errorf("layer %d (%v): %w", i+1, m.diffIDs[i], err)
			}
			layers[i] = l
			return nil
		})
	}
	return layers, g.Wait()
}

// recall fills in the layers that were imported before.
func (m *Source) recall(ctx context.Context, to Import, layers []*flat.Layer, spool *flat.Spool, budget *flat.Budget) error {
	if to.Layers == nil {
		return nil
	}
	for i, id := range m.diffIDs {
		list, err := to.Layers.List(ctx, id)
		if err != nil {
			return err
		}
		if list == nil {
			continue
		}
		if layers[i], err = flat.Recall(ctx, list, to.Layers, spool, budget); err != nil {
			return fmt.Errorf("recall layer %d (%v): %w", i+1, id, err)
		}
		if size, err := m.layers[i].Size(); layers[i] != nil && err == nil && to.Recalled != nil {
			to.Recalled(size)
		}
	}
	return nil
}

func (m *Source) layer(ctx context.Context, i int, to Import, spool *flat.Spool, budget *flat.Budget) (*flat.Layer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	compressed := &body{open: m.layers[i].Compressed, patience: to.Patience}
	defer compressed.close()
	tar, err := decompress(&source{ctx: ctx, from: compressed, read: to.Read})
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	stream := readAhead(tar)
	defer stream.Close()
	defer cancel() // ends a Read that waits for the source
	whole := &hashed{r: stream, sum: sha256.New(), left: streamLimit(to.Limits)}
	l, err := flat.Read(whole, spool, budget, func(b blockstore.Block) error { return to.Put(ctx, b) })
	if err != nil {
		return nil, err
	}
	if got := blockstore.Digest(whole.sum.Sum(nil)); got != m.diffIDs[i] {
		return nil, fmt.Errorf("%w: the layer is %v", ErrProof, got)
	}
	return l, nil
}

// streamLimit bounds a layer's stream: its files' data, and for each a few headers and padding.
func streamLimit(l Limits) int64 {
	l = l.WithDefaults()
	return l.Bytes + int64(l.Entries)*maxHeaders
}

// Prove checks that the root of an image has the OCI manifest that a digest names, or that an index lists which the
// digest names and which is given as raw bytes, and that manifest's config.
func Prove(m *blockstore.Image, signed blockstore.Digest, index []byte) error {
	if m.Digest() != signed {
		if err := listed(index, signed, m.Digest()); err != nil {
			return err
		}
	}
	_, err := diffIDs(m.OCI, m.Config)
	return err
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
	if len(c.RootFS.DiffIDs) != len(m.Layers) || len(m.Layers) > maxLayers {
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

// newSource checks the parts of an image against each other.
func newSource(img v1.Image, index []byte) (*Source, error) {
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
	return &Source{Index: index, manifest: manifest, config: config, diffIDs: ids, layers: layers}, nil
}
