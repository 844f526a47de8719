package flat

import (
	"os"
	"sync/atomic"

	"rialto/blockstore"
)

// Spool keeps the data of small files, in a file without a name, until the tree is built: which of them are part of
// it, and in which order, is known only when all layers are. It is safe for concurrent use.
type Spool struct {
	file *os.File
	end  atomic.Int64
}

// NewSpool makes a spool in a directory. Who makes it closes it.
func NewSpool(dir string) (*Spool, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return &Spool{file: f}, nil
}

// Close gives the space back.
func (s *Spool) Close() error { return s.file.Close() }

// add keeps p and returns where.
func (s *Spool) add(p []byte) (int64, error) {
	at := s.end.Add(int64(len(p))) - int64(len(p))
	_, err := s.file.WriteAt(p, at)
	return at, err
}

// Read returns the data of a small file.
func (s *Spool) Read(n *blockstore.Inode) ([]byte, error) {
	p := make([]byte, n.Size)
	_, err := s.file.ReadAt(p, n.Data)
	return p, err
}
