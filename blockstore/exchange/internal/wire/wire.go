// Package wire is the encoding of /rialto/blocks/1, the fast path of block exchange. The package comment of
// exchange says what the frames are for; this is what they are, byte by byte. Integers are big-endian.
//
// From the client, on a stream that it opened:
//
//	TYPE(1)  N(2)  N × SHA256(32)
//
//	1 WANT    send these blocks, in this order; N is 1 to 256
//	2 CANCEL  do not send these, if they were not sent yet; N is 1 to 256
//	3 HAVE    which of these are there? N is 1 to 2048
//	4 MOVE    send these here, which were wanted on another of the client's streams and were not sent yet; N is 1 to 256
//
// From the server, one answer for each block wanted or moved and one for each HAVE, in the order in which they were
// asked:
//
//	TYPE(1)  V(4)
//
//	1 DATA       V bytes follow, 1 to 1 MiB: the block
//	2 ABSENT     V is 0: the block is not here
//	3 BUSY       V is 0 to 60000: the block is not sent now; ask again after V ms
//	4 CANCELLED  V is 0: it was taken back, or moved to another stream; of a block that was to be moved here, it does
//	             not wait on another stream: its answer is on its way there, or was never asked for
//	5 MAP        V bits follow, as many as were asked for, in ⌈V/8⌉ bytes. The first block is the highest bit of
//	             the first byte; 1 is "here". Bits to spare are 0.
//
// Nothing else is valid: an unknown type, a count out of bounds, a spare bit or a stream that ends within a
// frame is an error, and whoever sees it resets the stream.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"rialto/blockstore"
)

// Bounds of a frame.
const (
	MaxNames  = 256          // in WANT, CANCEL and MOVE
	MaxAsked  = 2048         // in HAVE
	MaxRetry  = 60_000       // ms in BUSY
	nameBytes = 32           // a sha256
	askHead   = 3            // of a client's frame
	AnswerLen = 1 + 4        // of an answer, before what follows it
	maxMap    = MaxAsked / 8 // bytes
)

// AskType is what a client's frame is.
type AskType byte

// What a client may ask.
const (
	Want   AskType = 1
	Cancel AskType = 2
	Have   AskType = 3
	Move   AskType = 4
)

// AnswerType is what an answer is.
type AnswerType byte

// What a server may answer.
const (
	Data      AnswerType = 1
	Absent    AnswerType = 2
	Busy      AnswerType = 3
	Cancelled AnswerType = 4
	Map       AnswerType = 5
)

// ErrFrame reports bytes that are no frame.
var ErrFrame = errors.New("malformed frame")

// Ask is a client's frame.
type Ask struct {
	Type AskType
	CIDs []blockstore.CID
}

func (t AskType) most() int {
	switch t {
	case Want, Cancel, Move:
		return MaxNames
	case Have:
		return MaxAsked
	default:
		return 0
	}
}

// AppendAsk appends the encoding of a frame whose bounds the caller keeps.
func AppendAsk(p []byte, t AskType, cids []blockstore.CID) []byte {
	p = append(p, byte(t))
	p = binary.BigEndian.AppendUint16(p, uint16(len(cids))) //nolint:gosec // at most MaxAsked
	for i := range cids {
		p = append(p, cids[i][:]...)
	}
	return p
}

// ReadAsk reads a frame. begun is called once the first byte is there, so that the caller can give the rest
// less time than the wait for it. An end before the first byte is io.EOF.
func ReadAsk(r io.Reader, begun func() error) (Ask, error) {
	var head [askHead]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return Ask{}, err
	}
	if err := begun(); err != nil {
		return Ask{}, err
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return Ask{}, inside(err)
	}
	a := Ask{Type: AskType(head[0])}
	n := int(binary.BigEndian.Uint16(head[1:]))
	if n == 0 || n > a.Type.most() {
		return Ask{}, fmt.Errorf("%w: %d names in an ask of type %d", ErrFrame, n, a.Type)
	}
	body := make([]byte, n*nameBytes)
	if _, err := io.ReadFull(r, body); err != nil {
		return Ask{}, inside(err)
	}
	a.CIDs = make([]blockstore.CID, n)
	for i := range a.CIDs {
		copy(a.CIDs[i][:], body[i*nameBytes:])
	}
	return a, nil
}

// Answer is the head of a server's frame.
type Answer struct {
	Type  AnswerType
	Value int
}

// Follow returns how many bytes follow.
func (a Answer) Follow() int {
	switch a.Type {
	case Data:
		return a.Value
	case Map:
		return (a.Value + 7) / 8
	default:
		return 0
	}
}

// AppendAnswer appends the head's encoding.
func AppendAnswer(p []byte, a Answer) []byte {
	return binary.BigEndian.AppendUint32(append(p, byte(a.Type)), uint32(a.Value)) //nolint:gosec // at most MaxBlock
}

// ReadAnswer reads an answer's head. begun is as in ReadAsk.
func ReadAnswer(r io.Reader, begun func() error) (Answer, error) {
	var head [AnswerLen]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return Answer{}, err
	}
	if err := begun(); err != nil {
		return Answer{}, err
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return Answer{}, inside(err)
	}
	t, v := AnswerType(head[0]), binary.BigEndian.Uint32(head[1:])
	least, most := uint32(0), uint32(0)
	switch t {
	case Data:
		least, most = 1, blockstore.MaxBlock
	case Map:
		least, most = 1, MaxAsked
	case Busy:
		most = MaxRetry
	case Absent, Cancelled:
	default:
		return Answer{}, fmt.Errorf("%w: answer of type %d", ErrFrame, t)
	}
	if v < least || v > most {
		return Answer{}, fmt.Errorf("%w: value %d in an answer of type %d", ErrFrame, v, t)
	}
	return Answer{Type: t, Value: int(v)}, nil
}

// Bits is a MAP's body.
type Bits []byte

// NewBits returns n bits that are 0.
func NewBits(n int) Bits { return make(Bits, (n+7)/8) }

// Set sets bit i.
func (b Bits) Set(i int) { b[i/8] |= 0x80 >> (i % 8) }

// Has returns bit i.
func (b Bits) Has(i int) bool { return b[i/8]&(0x80>>(i%8)) != 0 }

// ReadBits reads the body of a MAP of n bits, which are at most MaxAsked.
func ReadBits(r io.Reader, n int) (Bits, error) {
	b := NewBits(min(n, maxMap*8))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, inside(err)
	}
	if spare := len(b)*8 - n; spare > 0 && b[len(b)-1]&(1<<spare-1) != 0 {
		return nil, fmt.Errorf("%w: spare bits in a map", ErrFrame)
	}
	return b, nil
}

// inside is the error of a stream that ends within a frame.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
