package blockstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// maxBody bounds what one root stands for, without its data: the tree of four million files.
const maxBody = 128 << 20

// ErrFrame reports a root block of another kind, or one that is not canonical.
var ErrFrame = errors.New("invalid root block")

// frame is the first line of a root block; the package comment has the encoding.
type frame string

func frames() []frame { return []frame{treeFrame, imageFrame, privateTreeFrame, privateImageFrame} }

// blocks cuts a body. The first block is the root; the others, if any, hold a long body.
func (f frame) blocks(body []byte) ([]Block, error) {
	root := []byte(f)
	if len(root)+1+len(body) <= MaxBlock {
		b, err := NewBlock(append(append(root, 0), body...))
		return []Block{b}, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrame, len(body))
	}
	n := leaves(int64(len(body)))
	root = binary.AppendUvarint(root, uint64(n)) //nolint:gosec // never negative
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
	var err error
	blocks[0], err = NewBlock(root)
	return blocks, err
}

// load reads the body under a root.
func (f frame) load(ctx context.Context, root CID, from Getter) ([]byte, error) {
	b, err := from.Get(ctx, root)
	if err != nil {
		return nil, err
	}
	parts, length, body, err := f.parse(b.data)
	if err != nil {
		return nil, &BlockError{Op: "read root", CID: root, Err: err}
	}
	for _, c := range parts {
		part, err := from.Get(ctx, c)
		if err != nil {
			return nil, err
		}
		// Every part but the last is full: one body has one cut.
		if want := min(MaxBlock, length-len(body)); part.Size() != want {
			return nil, &BlockError{Op: "read root", CID: root, Err: fmt.Errorf("%w: part of %d bytes, not %d", ErrFrame, part.Size(), want)}
		}
		body = append(body, part.data...)
	}
	return body, nil
}

// parse returns the whole body of a short root, or the parts and the length of a long one.
func (f frame) parse(p []byte) (parts []CID, length int, body []byte, err error) {
	d := decoder{rest: p}
	if string(d.bytes(len(f))) != string(f) {
		for _, other := range frames() {
			if bytes.HasPrefix(p, []byte(other)) {
				return nil, 0, nil, fmt.Errorf("%w: it is a %q, not a %q", ErrFrame, other[:len(other)-1], f[:len(f)-1])
			}
		}
		return nil, 0, nil, fmt.Errorf("%w: it does not begin with %q", ErrFrame, f[:len(f)-1])
	}
	n := d.uvarint(maxBody / MaxBlock)
	if n == 0 && !d.bad {
		return nil, len(d.rest), d.rest, nil
	}
	length = d.uvarint(maxBody)
	if d.bad || length+len(f)+1 <= MaxBlock || leaves(int64(length)) != n || len(d.rest) != n*sha256.Size {
		return nil, 0, nil, fmt.Errorf("%w: bad list of parts", ErrFrame)
	}
	for range n {
		parts = append(parts, CID(d.bytes(sha256.Size)))
	}
	return parts, length, nil, nil
}

// decoder reads canonical fields; after the first bad one it yields zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	p := d.rest[:n:n]
	d.rest = d.rest[n:]
	return p
}

// short reads a length of at most limit and so many bytes.
func (d *decoder) short(limit int) []byte { return d.bytes(d.uvarint(limit)) }

// uvarint reads a minimal unsigned varint of at most limit.
func (d *decoder) uvarint(limit int) int {
	v, n := binary.Uvarint(d.rest)
	minimal := n == 1 || n > 1 && d.rest[n-1] != 0
	if d.bad || !minimal || v > uint64(limit) { //nolint:gosec // a limit is not negative
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return int(v) //nolint:gosec // at most limit
}
