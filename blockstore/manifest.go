package blockstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// Bounds of a manifest. They are far above real images and keep a hostile one cheap.
const (
	MaxLayers = 512
	MaxOCI    = 4 << 20 // OCI manifest and config, each; what registries accept

)

const manifestMagic = "rialto manifest 1\n"

const (
	kindImage     = 1
	kindDirectory = 2
)

// ErrManifest reports bytes that are no canonical manifest, or a manifest that cannot be.
var ErrManifest = errors.New("invalid block manifest")

// Layer is a tar stream as blocks.
type Layer struct {
	DiffID Digest // sha256 of the whole stream
	Blocks []Ref  // their concatenation is the stream
}

// Size returns the length of the stream.
func (l Layer) Size() int64 {
	var n int64
	for _, r := range l.Blocks {
		n += int64(r.Size)
	}
	return n
}

// Manifest lists the blocks of an image or of a directory of weights.
type Manifest struct {
	OCI    []byte // raw OCI platform manifest; empty for a directory
	Config []byte // raw OCI image config; empty for a directory
	Layers []Layer
}

// IsImage reports whether the manifest has the OCI parts.
func (m *Manifest) IsImage() bool { return len(m.OCI) > 0 }

// Digest returns the digest of the OCI manifest; zero for a directory.
func (m *Manifest) Digest() Digest {
	if !m.IsImage() {
		return Digest{}
	}
	return sha256.Sum256(m.OCI)
}

// Size returns the bytes in all layers' streams.
func (m *Manifest) Size() int64 {
	var n int64
	for _, l := range m.Layers {
		n += l.Size()
	}
	return n
}

// Refs yields each distinct block of the layers once, in the order of first use.
func (m *Manifest) Refs() iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		seen := make(map[CID]struct{})
		for _, l := range m.Layers {
			for _, r := range l.Blocks {
				if _, dup := seen[r.CID]; dup {
					continue
				}
				seen[r.CID] = struct{}{}
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Blocks encodes the manifest. The first block is the root; the others, if any, hold a long body.
func (m *Manifest) Blocks() ([]Block, error) {
	body, err := m.appendBody(nil)
	if err != nil {
		return nil, err
	}
	root := []byte(manifestMagic)
	if len(root)+1+len(body) <= MaxBlock {
		b, err := NewBlock(append(append(root, 0), body...))
		return []Block{b}, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%w: %d bytes", ErrManifest, len(body))
	}
	n := (len(body) + MaxBlock - 1) / MaxBlock
	root = binary.AppendUvarint(root, uint64(n))
	root = binary.AppendUvarint(root, uint64(len(body)))
	blocks := make([]Block, 1, 1+n)
	for len(body) > 0 {
		size := min(len(body), MaxBlock)
		b, err := NewBlock(body[:size:size])
		if err != nil {
			return nil, err
		}
		body = body[size:]
		blocks = append(blocks, b)
		root = append(root, b.cid[:]...)
	}
	blocks[0], err = NewBlock(root)
	return blocks, err
}

func (m *Manifest) appendBody(b []byte) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.IsImage() {
		b = append(b, kindImage)
		b = append(binary.AppendUvarint(b, uint64(len(m.OCI))), m.OCI...)
		b = append(binary.AppendUvarint(b, uint64(len(m.Config))), m.Config...)
	} else {
		b = append(b, kindDirectory)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Layers)))
	for _, l := range m.Layers {
		b = append(b, l.DiffID[:]...)
		b = binary.AppendUvarint(b, uint64(len(l.Blocks)))
		for _, r := range l.Blocks {
			b = append(b, r.CID[:]...)
			b = binary.AppendUvarint(b, uint64(r.Size)) //nolint:gosec // checked above
		}
	}
	return b, nil
}

// check holds for everything that is encoded and everything that was decoded.
func (m *Manifest) check() error {
	switch {
	case len(m.OCI) > MaxOCI || len(m.Config) > MaxOCI:
		return fmt.Errorf("%w: OCI part too long", ErrManifest)
	case m.IsImage() != (len(m.Config) > 0):
		return fmt.Errorf("%w: OCI manifest and config go together", ErrManifest)
	case !m.IsImage() && len(m.Layers) != 1:
		return fmt.Errorf("%w: a directory is one layer", ErrManifest)
	case len(m.Layers) > MaxLayers:
		return fmt.Errorf("%w: %d layers", ErrManifest, len(m.Layers))
	}
	for _, l := range m.Layers {
		if l.DiffID.IsZero() || len(l.Blocks) == 0 {
			return fmt.Errorf("%w: empty layer", ErrManifest)
		}
		for _, r := range l.Blocks {
			if r.CID.IsZero() || r.Size < 1 || r.Size > MaxBlock {
				return fmt.Errorf("%w: impossible block", ErrManifest)
			}
		}
	}
	return nil
}

// Load reads the manifest under a root. Its proof is the caller's business: see the package comment.
func Load(ctx context.Context, root CID, from Getter) (*Manifest, error) {
	b, err := from.Get(ctx, root)
	if err != nil {
		return nil, err
	}
	parts, length, body, err := decodeRoot(b.data)
	if err != nil {
		return nil, err
	}
	for _, c := range parts {
		part, err := from.Get(ctx, c)
		if err != nil {
			return nil, err
		}
		// Every part but the last is full: one body has one cut.
		if want := min(MaxBlock, length-len(body)); part.Size() != want {
			return nil, fmt.Errorf("%w: part of %d bytes, not %d", ErrManifest, part.Size(), want)
		}
		body = append(body, part.data...)
	}
	return decodeBody(body)
}

// decodeRoot returns the whole body of a short manifest, or the parts and the length of a long one.
func decodeRoot(p []byte) (parts []CID, length int, body []byte, err error) {
	d := decoder{rest: p}
	if string(d.bytes(len(manifestMagic))) != manifestMagic {
		return nil, 0, nil, fmt.Errorf("%w: no manifest header", ErrManifest)
	}
	n := d.uvarint(maxBody / MaxBlock)
	if n == 0 && !d.bad {
		return nil, len(d.rest), d.rest, nil
	}
	length = d.uvarint(maxBody)
	if d.bad || length+len(manifestMagic)+1 <= MaxBlock || (length+MaxBlock-1)/MaxBlock != n ||
		len(d.rest) != n*sha256.Size {
		return nil, 0, nil, fmt.Errorf("%w: bad list of parts", ErrManifest)
	}
	for range n {
		parts = append(parts, CID(d.bytes(sha256.Size)))
	}
	return parts, length, nil, nil
}

func decodeBody(p []byte) (*Manifest, error) {
	d := decoder{rest: p}
	m := &Manifest{}
	kind := d.uvarint(kindDirectory)
	if kind == 0 {
		return nil, fmt.Errorf("%w: unknown kind", ErrManifest)
	}
	if kind == kindImage {
		m.OCI = d.bytes(d.uvarint(MaxOCI))
		m.Config = d.bytes(d.uvarint(MaxOCI))
		if len(m.OCI) == 0 {
			return nil, fmt.Errorf("%w: no OCI manifest", ErrManifest)
		}
	}
	layers := d.uvarint(MaxLayers)
	for range layers {
		var l Layer
		copy(l.DiffID[:], d.bytes(sha256.Size))
		// A count is believed only as far as bytes are there for it.
		count := d.uvarint(len(d.rest) / minRefSize)
		if d.bad {
			break
		}
		l.Blocks = make([]Ref, count)
		for i := range l.Blocks {
			copy(l.Blocks[i].CID[:], d.bytes(sha256.Size))
			l.Blocks[i].Size = d.uvarint(MaxBlock)
		}
		m.Layers = append(m.Layers, l)
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrManifest)
	}
	return m, m.check()
}
