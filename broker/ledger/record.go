package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"
)

// A batch is one record of the journal, length[4] and that many bytes, which are in S2's block format:
//
//	seq[8] epoch[8] prev[32] hash[32] str(id) count[4] { flag[1] str(key) str(value) }…
//
// The part from count on is what the batch's hash covers, as it stands.
const (
	recordFixed = 8 + 8 + 32 + 32
	maxBody     = recordFixed + 4 + MaxID + 4 + MaxMutations*9 + MaxBatchBytes
	maxRecord   = maxBody + maxBody/4 // S2 adds less to what does not shrink
)

// errCut: a journal ends with a record that was not written to its end.
var errCut = errors.New("the last record is not whole")

// encodeRecord returns a batch as a record; content is what [encodeMutations] made of its mutations.
func encodeRecord(b *Batch, content []byte) []byte {
	body := make([]byte, 0, recordFixed+4+len(b.ID)+len(content))
	body = binary.BigEndian.AppendUint64(body, b.Seq)
	body = binary.BigEndian.AppendUint64(body, b.Epoch)
	body = append(body, b.Prev[:]...)
	body = append(body, b.Hash[:]...)
	body = appendString(body, b.ID)
	body = append(body, content...)
	record := make([]byte, 4+s2.MaxEncodedLen(len(body)))
	n := len(s2.Encode(record[4:], body))
	binary.BigEndian.PutUint32(record, uint32(n))
	return record[:4+n]
}

// encodeMutations returns the part of a record that the batch's hash covers, and the mutations with their values in it.
func encodeMutations(batch []Mutation) (content []byte, kept []Mutation) {
	n := 4
	for _, m := range batch {
		n += 9 + len(m.Key) + len(m.Value)
	}
	p := binary.BigEndian.AppendUint32(make([]byte, 0, n), uint32(len(batch)))
	kept = slices.Clone(batch)
	for i, m := range batch {
		flag := byte(0)
		if m.New {
			flag = 1
		}
		p = appendString(append(p, flag), m.Key)
		p = appendString(p, m.Value)
		kept[i].Value = p[len(p)-len(m.Value) : len(p) : len(p)]
	}
	return p, kept
}

func appendString[S ~string | ~[]byte](p []byte, s S) []byte {
	return append(binary.BigEndian.AppendUint32(p, uint32(len(s))), s...)
}

// readRecord reads the next record, of at most left bytes, how long it is and what its mutations hash to, and verifies the
// batch's hash. What is not right and reaches to the end is errCut, because that is what a write leaves that was interrupted: a part, or zeros.
func readRecord(r io.Reader, left int64) (b Batch, content Hash, size int64, err error) {
	var length [4]byte
	if left < int64(len(length)) {
		return Batch{}, Hash{}, 0, errCut
	}
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return Batch{}, Hash{}, 0, err
	}
	n := binary.BigEndian.Uint32(length[:])
	size = int64(len(length)) + int64(n)
	switch {
	case n == 0:
		return Batch{}, Hash{}, 0, onlyZeros(r)
	case n > maxRecord:
		return Batch{}, Hash{}, 0, fmt.Errorf("record of %d bytes: %w", n, ErrCorrupt)
	case size > left:
		return Batch{}, Hash{}, 0, errCut
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return Batch{}, Hash{}, 0, err
	}
	body, err := decompress(p)
	if err == nil {
		b, body, err = decodeBody(body)
	}
	if err == nil {
		content = sha256.Sum256(body)
		err = b.verify(content)
	}
	if err != nil {
		if size == left {
			err = fmt.Errorf("%w: %w", errCut, err)
		}
		return Batch{}, Hash{}, 0, err
	}
	return b, content, size, nil
}

func onlyZeros(r io.Reader) error {
	rest, err := io.ReadAll(io.LimitReader(r, maxRecord+1))
	if err != nil {
		return err
	}
	if len(rest) > maxRecord || bytes.ContainsFunc(rest, func(c rune) bool { return c != 0 }) {
		return fmt.Errorf("record of no bytes: %w", ErrCorrupt)
	}
	return errCut
}

func decompress(p []byte) ([]byte, error) {
	n, err := s2.DecodedLen(p)
	if err == nil && n > maxBody {
		err = fmt.Errorf("%d bytes", n)
	}
	if err == nil {
		p, err = s2.Decode(nil, p)
	}
	if err != nil {
		return nil, fmt.Errorf("record does not read: %w: %w", ErrCorrupt, err)
	}
	return p, nil
}

// decodeBody reads a batch from what a record holds, and returns the part that its hash covers. The batch keeps parts of p.
func decodeBody(p []byte) (b Batch, content []byte, err error) {
	d := decoder{p: p}
	b = Batch{Seq: d.uint64(), Epoch: d.uint64(), Prev: Hash(d.take(32)), Hash: Hash(d.take(32)), ID: string(d.str(MaxID))}
	content = d.p
	n := d.uint32()
	if n == 0 || n > MaxMutations {
		d.bad = true
	}
	for i := uint32(0); i < n && !d.bad; i++ {
		flag := d.take(1)[0]
		d.bad = d.bad || flag > 1
		b.Mutations = append(b.Mutations, Mutation{New: flag == 1, Key: string(d.str(MaxKey)), Value: d.str(MaxValue)})
	}
	if d.bad || len(d.p) > 0 {
		return Batch{}, nil, fmt.Errorf("batch %d: record does not read: %w", b.Seq, ErrCorrupt)
	}
	return b, content, nil
}

// decoder reads from the front of p. What is asked for after the end is zero, and sets bad.
type decoder struct {
	p   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.p) {
		d.bad = true
		return make([]byte, min(n, sha256.Size))
	}
	v := d.p[:n:n]
	d.p = d.p[n:]
	return v
}

func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) str(most uint32) []byte {
	n := d.uint32()
	if n > most {
		d.bad = true
		return nil
	}
	return d.take(int(n))
}
