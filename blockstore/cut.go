package blockstore

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
)

// Cut reads a tar stream to its end and calls emit with its blocks in order. It returns the layer that
// they make. Memory is bounded by a few blocks. The cut depends on the bytes of the stream alone.
func Cut(r io.Reader, emit func(Block) error) (Layer, error) {
	c := &cutter{src: r, whole: sha256.New(), emit: emit}
	if err := c.run(); err != nil {
		return Layer{}, err
	}
	c.whole.Sum(c.layer.DiffID[:0])
	return c.layer, nil
}

// cutter stands between a stream and the tar reader that parses it, and keeps what passes. The tar
// reader takes header blocks exactly and no byte ahead, so what has passed when Next returns ends where the
// entry's data starts.
type cutter struct {
	src   io.Reader
	whole hash.Hash
	emit  func(Block) error
	layer Layer

	pack   []byte
	direct bool // the reader's buffer becomes a block itself: pack nothing
	err    error
}

func (c *cutter) run() error {
	tr := tar.NewReader(c)
	for {
		h, err := tr.Next()
		if c.err != nil {
			return c.err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are judged when unpacked
			return fmt.Errorf("read tar: %w", err)
		}
		if err := c.entry(tr, h); err != nil {
			return err
		}
	}
	// Bytes behind the end marker count: the layer's hash covers them.
	if _, err := io.Copy(io.Discard, onlyReader{c}); err != nil {
		return err
	}
	if len(c.layer.Blocks) == 0 && len(c.pack) == 0 {
		return fmt.Errorf("read tar: %w", io.ErrUnexpectedEOF)
	}
	return c.flush()
}

func (c *cutter) entry(tr *tar.Reader, h *tar.Header) error {
	if sparse(h) {
		return nil // its size is not its length in the stream; Next skips what is there
	}
	if h.Size >= LargeFile && h.Typeflag == tar.TypeReg {
		return c.large(tr, h.Size)
	}
	if _, err := io.Copy(io.Discard, onlyReader{tr}); err != nil {
		return fmt.Errorf("read tar: %w", err)
	}
	n := len(c.pack)
	if n >= packMax || n >= packMin && crc32.ChecksumIEEE([]byte(h.Name))%packOdds == 0 {
		return c.flush()
	}
	return nil
}

func (c *cutter) large(tr *tar.Reader, size int64) error {
	if err := c.flush(); err != nil {
		return err
	}
	c.direct = true
	defer func() { c.direct = false }()
	for size > 0 {
		p := make([]byte, min(size, MaxBlock))
		if _, err := io.ReadFull(tr, p); err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if err := c.block(p); err != nil {
			return err
		}
		size -= int64(len(p))
	}
	return nil
}

// Read passes bytes to the tar reader.
func (c *cutter) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.src.Read(p)
	c.whole.Write(p[:n])
	if c.direct {
		return n, err
	}
	for rest := p[:n]; len(rest) > 0; {
		take := min(len(rest), MaxBlock-len(c.pack))
		c.pack = append(c.pack, rest[:take]...)
		rest = rest[take:]
		if len(c.pack) == MaxBlock {
			if c.err = c.flush(); c.err != nil {
				return 0, c.err
			}
		}
	}
	return n, err
}

func (c *cutter) flush() error {
	if len(c.pack) == 0 {
		return nil
	}
	p := c.pack
	c.pack = nil
	return c.block(p)
}

func (c *cutter) block(p []byte) error {
	b, err := NewBlock(p)
	if err != nil {
		return err
	}
	c.layer.Blocks = append(c.layer.Blocks, b.Ref())
	return c.emit(b)
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// onlyReader hides WriteTo and Seek.
type onlyReader struct{ io.Reader }
