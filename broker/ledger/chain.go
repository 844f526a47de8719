package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

const chainDomain = "rialto/ledger/2\x00"

// Hash links a batch to all before it.
type Hash [sha256.Size]byte

// Batch is one entry of the journal.
type Batch struct {
	Seq       uint64
	Epoch     uint64
	ID        string
	Prev      Hash // hash of the batch before; zero for the first
	Hash      Hash
	Mutations []Mutation
}

// Verify reports whether the batch is the successor of the batch with number seq and hash prev, and its
// own hash is right.
func (b *Batch) Verify(seq uint64, prev Hash) error {
	if err := b.follows(seq, prev); err != nil {
		return err
	}
	return b.verify(contentHash(b.Mutations))
}

func (b *Batch) follows(seq uint64, prev Hash) error {
	switch {
	case b.Seq != seq+1:
		return fmt.Errorf("batch %d follows %d: %w", b.Seq, seq, ErrCorrupt)
	case b.Prev != prev:
		return fmt.Errorf("batch %d does not continue the chain: %w", b.Seq, ErrCorrupt)
	}
	return nil
}

// verify checks the batch's own hash, given what its mutations hash to.
func (b *Batch) verify(content Hash) error {
	if b.Hash != b.sum(content) {
		return fmt.Errorf("batch %d does not match its hash: %w", b.Seq, ErrCorrupt)
	}
	return nil
}

// sum is the batch's hash, given what its mutations hash to.
func (b *Batch) sum(content Hash) Hash {
	h := sha256.New()
	h.Write([]byte(chainDomain))
	h.Write(b.Prev[:])
	h.Write(binary.BigEndian.AppendUint64(nil, b.Seq))
	h.Write(binary.BigEndian.AppendUint64(nil, b.Epoch))
	writeString(h, []byte(b.ID))
	h.Write(content[:])
	return Hash(h.Sum(nil))
}

// contentHash identifies what a batch does, without its place in the chain.
func contentHash(batch []Mutation) Hash {
	content, _ := encodeMutations(batch)
	return sha256.Sum256(content)
}

func writeString(h hash.Hash, s []byte) {
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
	h.Write(s)
}

// Copy replays the journal of a store into an empty one, which then has the same chain and the same state.
func Copy(ctx context.Context, to, from Store) error {
	var epoch uint64
	for b, err := range from.Tail(ctx, 1) {
		if err != nil {
			return err
		}
		for epoch < b.Epoch { // epochs are part of the chain, and a new one is got only by taking its turn
			if epoch, err = to.Campaign(ctx); err != nil {
				return err
			}
		}
		seq, err := to.Apply(ctx, b.Epoch, b.ID, b.Mutations)
		if err != nil {
			return err
		}
		if seq != b.Seq {
			return fail("copy", b.ID, fmt.Errorf("batch %d became %d: %w", b.Seq, seq, ErrConflict))
		}
	}
	return nil
}
