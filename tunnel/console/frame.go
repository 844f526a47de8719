package console

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// kind is the type of a frame.
type kind byte

const (
	kindStdout kind = kind(Stdout)
	kindStderr kind = kind(Stderr)
	kindExit   kind = 3
	kindError  kind = 4
	kindBeat   kind = 5
	kindPause  kind = 6
	kindStdin  kind = 16
	kindResize kind = 17
)

const frameHeader = 5

// errFrame is what every malformed frame is.
var errFrame = errors.New("malformed frame")

// maxText bounds the reasons and errors that a frame carries.
const maxText = 4 << 10

// readFrame reads one frame into buf, which holds MaxPayload bytes, and returns the part that it filled.
// It returns io.EOF only at a frame's border.
func readFrame(r io.Reader, buf []byte) (kind, []byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	k, n := kind(h[0]), binary.BigEndian.Uint32(h[1:])
	if err := checkLength(k, n); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return k, buf[:n], nil
}

// checkLength refuses what no correct peer sends before a byte of it is read.
func checkLength(k kind, n uint32) error {
	low, high := uint32(0), uint32(0)
	switch k {
	case kindStdout, kindStderr:
		low, high = 1, MaxPayload
	case kindStdin:
		high = MaxPayload
	case kindExit:
		low, high = 4, 4+maxText
	case kindError:
		high = maxText
	case kindResize:
		low, high = 4, 4
	case kindBeat, kindPause:
	default:
		return fmt.Errorf("%w: type %d", errFrame, k)
	}
	if n < low || n > high {
		return fmt.Errorf("%w: type %d of %d bytes", errFrame, k, n)
	}
	return nil
}

// appendFrame appends a frame whose payload the caller has bounded.
func appendFrame(dst []byte, k kind, payload []byte) []byte {
	dst = append(dst, byte(k))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

func exitFrame(e Exit) []byte {
	payload := binary.BigEndian.AppendUint32(nil, uint32(int32(e.Code)))
	return appendFrame(nil, kindExit, append(payload, clip(e.Reason)...))
}

func parseExit(p []byte) (Exit, error) {
	if len(p) < 4 || !utf8.Valid(p[4:]) {
		return Exit{}, fmt.Errorf("%w: exit", errFrame)
	}
	return Exit{Code: int(int32(binary.BigEndian.Uint32(p))), Reason: string(p[4:])}, nil
}

func resizeFrame(s Size) []byte {
	payload := binary.BigEndian.AppendUint16(nil, s.Rows)
	return appendFrame(nil, kindResize, binary.BigEndian.AppendUint16(payload, s.Cols))
}

func parseResize(p []byte) (Size, error) {
	if len(p) != 4 {
		return Size{}, fmt.Errorf("%w: resize", errFrame)
	}
	return Size{Rows: binary.BigEndian.Uint16(p), Cols: binary.BigEndian.Uint16(p[2:])}, nil
}

// clip makes a text fit a frame and be UTF-8.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		s = s[:max(0, len(s)-1)]
	}
	if !utf8.ValidString(s) {
		return "unprintable"
	}
	return s
}
