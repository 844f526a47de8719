package blockstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxOCI bounds an OCI manifest and an OCI config, each; it is what registries accept.
const MaxOCI = 4 << 20

const imageFrame = frame("rialto image 1\n")

// ErrImage reports bytes that are no canonical image, or an image that cannot be.
var ErrImage = errors.New("invalid image root")

// Image is what the root CID of an image stands for.
type Image struct {
	OCI    []byte // raw OCI platform manifest
	Config []byte // raw OCI image config
	Tree   CID    // root of what the layers add up to
	// TreeKey opens the tree of a private image. It is zero if the image is public.
	TreeKey Key
}

// Digest returns the digest of the OCI manifest.
func (m *Image) Digest() Digest { return sha256.Sum256(m.OCI) }

// Encode returns the image's own blocks, the root first. The tree's are not among them.
func (m *Image) Encode() ([]Block, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.TreeKey != (Key{}) {
		return nil, fmt.Errorf("%w: a private image is encoded with a salt", ErrImage)
	}
	return imageFrame.blocks(append(m.appendOCI(nil), m.Tree[:]...))
}

func (m *Image) appendOCI(b []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(m.OCI))), m.OCI...)
	return append(binary.AppendUvarint(b, uint64(len(m.Config))), m.Config...)
}

func (m *Image) check() error {
	switch {
	case len(m.OCI) == 0 || len(m.Config) == 0:
		return fmt.Errorf("%w: no OCI manifest or no config", ErrImage)
	case len(m.OCI) > MaxOCI || len(m.Config) > MaxOCI:
		return fmt.Errorf("%w: OCI manifest or config is too long", ErrImage)
	case m.Tree.IsZero():
		return fmt.Errorf("%w: no tree", ErrImage)
	}
	return nil
}

// LoadImage reads the image under a root, without its tree.
func LoadImage(ctx context.Context, root CID, from Getter) (*Image, error) {
	body, err := imageFrame.load(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return decodeImage(body)
}

func decodeImage(body []byte) (*Image, error) {
	d := decoder{rest: body}
	m := &Image{OCI: d.short(MaxOCI), Config: d.short(MaxOCI)}
	copy(m.Tree[:], d.bytes(sha256.Size))
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: truncated, not minimal, or too long", ErrImage)
	}
	return m, m.check()
}

// Parts returns the blocks that a root block of any kind refers to as pieces of itself.
func Parts(root Block) (parts []CID, err error) {
	for _, f := range frames() {
		if parts, _, _, err = f.parse(root.data); err == nil {
			return parts, nil
		}
	}
	return nil, err
}
