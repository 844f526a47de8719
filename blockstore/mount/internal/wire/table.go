package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"rialto/blockstore"
)

// ErrTable reports bytes that are no table.
var ErrTable = errors.New("invalid table of slots")

const (
	tableMagic = "rialto slots 1\n\x00"
	// privateMagic is another one, so that a server from before there were private trees refuses their tables.
	privateMagic = "rialto slots 2\n\x00"
	refSize      = 36
	slotSize     = 12
	keySize      = 32
	tagSize      = 16
)

// Table is what the server knows of a tree: the blocks, and where on the virtual device their parts lie. The agent
// writes it to a file, because it can be large.
//
//	"rialto slots 1\n\0"  u32(blocks) u32(slots)
//	blocks × { 32 bytes of hash, u32(size) }   slots × { u32(block) u32(offset) u32(size) }
//
// Addresses are not in it: each slot begins at the next multiple of a page behind the one before.
//
// The table of a private tree begins with "rialto slots 2\n\0". Behind the slots stand the blocks' keys, 32 bytes each,
// sealed with AES-256-GCM, a nonce of zeros and all that stands before them as additional data. They are sealed with a
// key that the agent makes for this one file and tells the server over their socket, so that no key is on a disk.
type Table struct {
	Blocks []blockstore.Ref
	Slots  []blockstore.Slot
	Size   int64            // of the device
	Keys   []blockstore.Key // of a private tree's blocks, else nil
}

// NewTable returns a tree's table.
func NewTable(t *blockstore.Tree, l *blockstore.Layout) *Table {
	return &Table{Blocks: t.Blocks, Slots: l.Slots, Size: l.Size, Keys: t.Keys}
}

// Encode returns the table's bytes. The keys of a private tree are sealed with seal, which must seal nothing else.
func (t *Table) Encode(seal Secret) ([]byte, error) {
	if t.Keys == nil {
		return t.encode(tableMagic), nil
	}
	b := t.encode(privateMagic)
	aead, err := seal.aead()
	if err != nil {
		return nil, err
	}
	keys := make([]byte, 0, len(t.Keys)*keySize)
	for i := range t.Keys {
		keys = append(keys, t.Keys[i][:]...)
	}
	return aead.Seal(b, make([]byte, aead.NonceSize()), keys, b), nil
}

func (t *Table) encode(magic string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, len(magic)+8+len(t.Blocks)*(refSize+keySize)+len(t.Slots)*slotSize+tagSize)
	b = append(b, magic...)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(t.Blocks))), uint32(len(t.Slots)))
	for _, r := range t.Blocks {
		b = le.AppendUint32(append(b, r.CID[:]...), uint32(r.Size))
	}
	for _, s := range t.Slots {
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, uint32(s.Block)), uint32(s.Offset)), uint32(s.Size))
	}
	return b
}

// DecodeTable reads a table, that of a private tree with what its keys were sealed with. It refuses slots that are not
// inside their blocks.
func DecodeTable(b []byte, seal Secret) (*Table, error) {
	le := binary.LittleEndian
	const head = len(tableMagic) + 8
	if len(b) < head || string(b[:len(tableMagic)]) != tableMagic && string(b[:len(privateMagic)]) != privateMagic {
		return nil, ErrTable
	}
	private := string(b[:len(privateMagic)]) == privateMagic
	whole := b
	blocks, slots := int64(le.Uint32(b[len(tableMagic):])), int64(le.Uint32(b[len(tableMagic)+4:]))
	b = b[head:]
	size := blocks*refSize + slots*slotSize
	sealed := int64(0)
	if private {
		sealed = blocks*keySize + tagSize
	}
	if int64(len(b)) != size+sealed {
		return nil, fmt.Errorf("%w: %d bytes for %d blocks and %d slots", ErrTable, len(b), blocks, slots)
	}
	t := &Table{Blocks: make([]blockstore.Ref, blocks), Slots: make([]blockstore.Slot, slots)}
	for i := range t.Blocks {
		r := &t.Blocks[i]
		copy(r.CID[:], b)
		if r.Size = int(le.Uint32(b[32:])); r.Size < 1 || r.Size > blockstore.MaxBlock {
			return nil, fmt.Errorf("%w: block of %d bytes", ErrTable, r.Size)
		}
		b = b[refSize:]
	}
	for i := range t.Slots {
		s := blockstore.Slot{Addr: t.Size, Block: int(le.Uint32(b)), Offset: int(le.Uint32(b[4:])), Size: int(le.Uint32(b[8:]))}
		b = b[slotSize:]
		if s.Block >= len(t.Blocks) || s.Size < 1 || s.Size > blockstore.MaxBlock || s.Offset > t.Blocks[s.Block].Size-s.Size {
			return nil, fmt.Errorf("%w: slot %d", ErrTable, i)
		}
		t.Slots[i] = s
		t.Size += (int64(s.Size) + blockstore.Page - 1) &^ (blockstore.Page - 1)
	}
	if private {
		if err := t.open(whole[:int64(head)+size], b, seal); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// open reads the keys of a private tree's blocks.
func (t *Table) open(head, sealed []byte, seal Secret) error {
	aead, err := seal.aead()
	if err != nil {
		return err
	}
	keys, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed, head)
	if err != nil {
		return fmt.Errorf("%w: its keys were sealed for somebody else", ErrTable)
	}
	t.Keys = make([]blockstore.Key, len(t.Blocks))
	for i := range t.Keys {
		copy(t.Keys[i][:], keys[i*keySize:])
	}
	return nil
}

// Secret is what the keys in one table are sealed with. It prints as "redacted", and is JSON for the socket alone.
type Secret []byte

// NewSecret makes one from the operating system's random source.
func NewSecret() Secret {
	s := make(Secret, keySize)
	_, _ = rand.Read(s) // never fails
	return s
}

// Format hides the secret from every verb.
func (Secret) Format(s fmt.State, _ rune) { fmt.Fprint(s, "redacted") }

// LogValue hides the secret from logs.
func (Secret) LogValue() slog.Value { return slog.StringValue("redacted") }

func (s Secret) aead() (cipher.AEAD, error) {
	c, err := aes.NewCipher(s)
	if err != nil {
		return nil, fmt.Errorf("%w: a private tree's, and no key came with it", ErrTable)
	}
	return cipher.NewGCM(c)
}
