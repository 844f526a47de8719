// Package wire is what the agent and the process that serves its mounts say to each other over a unix socket.
//
// A connection is frames in both directions: length of what follows (u32, at most [MaxFrame]), kind (one byte),
// body. Numbers are little endian. The first frame of each side is a [Hello]. A connection that the agent opened for
// [Calls] then carries one [Call] and one [Reply], whose bodies are JSON. The one that it opened as the [Feed] lives as
// long as the agent; the server asks on it for blocks ([Want]), and the agent says where their bytes are ([File],
// [Have]), asked or not, or why they are nowhere ([Fail]). A newer feed takes the place of an older.
//
// Both sides are one program, started by root, so the bounds here are against mistakes and not against malice; a
// frame is decoded strictly all the same.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"rialto/blockstore"
)

// Version is that of everything here. Two sides with different versions do not talk.
const Version = 1

// Bounds of a frame.
const (
	MaxFrame  = 8 << 20
	MaxPath   = 4096
	MaxReason = 4096
)

// ErrFrame reports bytes that are no frame.
var ErrFrame = errors.New("invalid frame")

// Message is a frame's content: *Hello, *Want, *File, *Have, *Fail, *Call or *Reply.
//
//sumtype:decl
type Message interface{ kind() byte }

// Purposes of a connection.
const (
	Calls = 1
	Feed  = 2
)

// Hello opens a connection.
type Hello struct {
	Version uint16
	Purpose byte // what the agent wants; zero from the server
}

// Want asks where a block is, of the tree that is read.
type Want struct {
	Root   blockstore.CID
	Ref    blockstore.Ref
	Millis uint32 // until the server gives up
}

// File gives a number to a file, which holds from then on for this connection. The file must not change where
// blocks lie that were announced, for as long as anything is mounted that has them.
type File struct {
	ID   uint32
	Path string
}

// Have says that the bytes of a block, which were compared with its name, are at an offset of a file.
type Have struct {
	CID    blockstore.CID
	File   uint32
	Offset int64
}

// Fail says that a block cannot be had for a tree, and why.
type Fail struct {
	Root   blockstore.CID
	CID    blockstore.CID
	Reason string
}

// Call is a request in JSON.
type Call struct{ Body []byte }

// Reply answers a Call, in JSON.
type Reply struct{ Body []byte }

func (*Hello) kind() byte { return 'h' }
func (*Want) kind() byte  { return 'w' }
func (*File) kind() byte  { return 'f' }
func (*Have) kind() byte  { return 'b' }
func (*Fail) kind() byte  { return 'x' }
func (*Call) kind() byte  { return 'c' }
func (*Reply) kind() byte { return 'r' }

const magic = "rialto mounts\n"

// Append appends a message as a frame. It returns an error if the message is beyond its bounds.
func Append(b []byte, m Message) ([]byte, error) {
	le := binary.LittleEndian
	at := len(b)
	b = append(b, 0, 0, 0, 0, m.kind())
	switch m := m.(type) {
	case *Hello:
		b = append(le.AppendUint16(append(b, magic...), m.Version), m.Purpose)
	case *Want:
		b = append(append(b, m.Root[:]...), m.Ref.CID[:]...)
		b = le.AppendUint32(le.AppendUint32(b, uint32(m.Ref.Size)), m.Millis)
	case *File:
		if m.Path == "" || len(m.Path) > MaxPath {
			return b[:at], fmt.Errorf("%w: path of %d bytes", ErrFrame, len(m.Path))
		}
		b = append(le.AppendUint32(b, m.ID), m.Path...)
	case *Have:
		b = le.AppendUint64(le.AppendUint32(append(b, m.CID[:]...), m.File), uint64(m.Offset))
	case *Fail:
		b = append(append(b, m.Root[:]...), m.CID[:]...)
		b = append(b, m.Reason[:min(len(m.Reason), MaxReason)]...)
	case *Call:
		b = append(b, m.Body...)
	case *Reply:
		b = append(b, m.Body...)
	}
	n := len(b) - at - 4
	if n > MaxFrame {
		return b[:at], fmt.Errorf("%w: %d bytes", ErrFrame, n)
	}
	le.PutUint32(b[at:], uint32(n))
	return b, nil
}

// Write writes messages in one piece.
func Write(w io.Writer, messages ...Message) error {
	var b []byte
	var err error
	for _, m := range messages {
		if b, err = Append(b, m); err != nil {
			return err
		}
	}
	_, err = w.Write(b)
	return err
}

// Read reads the next message. It returns io.EOF where a stream ends between frames.
func Read(r *bufio.Reader) (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < 1 || n > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrame, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return decode(b[0], b[1:])
}

func decode(kind byte, b []byte) (Message, error) {
	le := binary.LittleEndian
	bad := fmt.Errorf("%w: kind %q of %d bytes", ErrFrame, kind, len(b))
	switch kind {
	case 'h':
		if len(b) != len(magic)+3 || string(b[:len(magic)]) != magic {
			return nil, bad
		}
		b = b[len(magic):]
		return &Hello{le.Uint16(b), b[2]}, nil
	case 'w':
		if len(b) != 72 {
			return nil, bad
		}
		m := &Want{Millis: le.Uint32(b[68:])}
		m.Ref.Size = int(le.Uint32(b[64:]))
		copy(m.Root[:], b)
		copy(m.Ref.CID[:], b[32:])
		if m.Ref.Size < 1 || m.Ref.Size > blockstore.MaxBlock {
			return nil, bad
		}
		return m, nil
	case 'f':
		if len(b) <= 4 || len(b) > 4+MaxPath {
			return nil, bad
		}
		return &File{le.Uint32(b), string(b[4:])}, nil
	case 'b':
		if len(b) != 44 || le.Uint64(b[36:]) > math.MaxInt64-blockstore.MaxBlock {
			return nil, bad
		}
		m := &Have{File: le.Uint32(b[32:]), Offset: int64(le.Uint64(b[36:]))}
		copy(m.CID[:], b)
		return m, nil
	case 'x':
		if len(b) < 64 || len(b) > 64+MaxReason {
			return nil, bad
		}
		m := &Fail{Reason: string(b[64:])}
		copy(m.Root[:], b)
		copy(m.CID[:], b[32:])
		return m, nil
	case 'c':
		return &Call{b}, nil
	case 'r':
		return &Reply{b}, nil
	}
	return nil, bad
}
