package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"rialto/provider"
)

// The log of a workload is a directory of segments, named by a number that grows. A segment is
//
//	"RLG1" | offset uint64 | frame…        frame = stream uint8 | length uint32 | bytes
//
// big-endian, where offset is how many bytes of output came before the segment. A writer keeps the newest
// two segments. A reader sees from the offset when output is missing, and says so in its place.
const (
	logMagic     = "RLG1"
	logHeader    = len(logMagic) + 8
	frameHeader  = 5
	maxFrame     = 32 << 10
	segmentsKept = 2
)

var errFrame = errors.New("log is damaged")

// LogWriter appends to a log. Output that the disk has no room for is dropped, never held against the
// workload. Methods are safe for concurrent use.
type LogWriter struct {
	dir     string
	segment int64 // bytes of a segment

	mu      sync.Mutex
	f       *os.File // nil: the next write opens a segment
	number  int
	written int64  // into f
	offset  uint64 // of the whole output
}

// NewLogWriter returns a writer that keeps about limit bytes in dir.
func NewLogWriter(dir string, limit int64) *LogWriter {
	return &LogWriter{dir: dir, segment: max(limit/segmentsKept, maxFrame)}
}

// CopyFrom appends all that r has as stream, in the order in which it arrives.
func (w *LogWriter) CopyFrom(stream provider.Stream, r io.Reader) error {
	buf := make([]byte, frameHeader+maxFrame)
	for {
		n, err := r.Read(buf[frameHeader:])
		if n > 0 {
			buf[0] = byte(stream)
			binary.BigEndian.PutUint32(buf[1:], uint32(n)) //nolint:gosec // at most maxFrame
			w.append(buf[:frameHeader+n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// append adds one frame. After an error the segment may end in half a frame; the next one starts at an
// offset that tells readers what is missing.
func (w *LogWriter) append(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil || w.written+int64(len(frame)) > w.segment {
		w.rotate()
	}
	w.offset += uint64(len(frame) - frameHeader)
	if w.f == nil {
		return
	}
	n, err := w.f.Write(frame)
	w.written += int64(n)
	if err != nil {
		w.f.Close()
		w.f = nil
	}
}

func (w *LogWriter) rotate() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
	// An old segment that stays for want of a working disk only costs room.
	_ = os.Remove(w.path(w.number - segmentsKept + 1))
	f, err := os.OpenFile(w.path(w.number+1), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	w.number++
	head := binary.BigEndian.AppendUint64([]byte(logMagic), w.offset)
	if _, err := f.Write(head); err != nil {
		f.Close()
		return
	}
	w.f, w.written = f, int64(len(head))
}

// Close makes what was written durable.
func (w *LogWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	defer w.f.Close()
	return w.f.Sync()
}

func (w *LogWriter) path(number int) string { return segmentPath(w.dir, number) }

func segmentPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d", number))
}

// logReader reads a log from its beginning, and again after more was written.
type logReader struct {
	dir    string
	number int // of the segment in f, or the last one read
	f      *os.File
	at     int64  // in f
	offset uint64 // of the whole output
	buf    [maxFrame]byte
}

// drain feeds sink with what is there and returns when there is no more.
func (r *logReader) drain(sink provider.LogSink) error {
	for {
		if r.f == nil {
			if more, err := r.open(sink); err != nil || !more {
				return err
			}
		}
		// A segment is never written again once a newer one exists, so: look for that first, then read.
		newer, err := segments(r.dir, r.number+1)
		if err != nil {
			return err
		}
		if err := r.frames(sink); err != nil {
			return err
		}
		if len(newer) == 0 {
			return nil
		}
		r.close()
	}
}

// open opens the next segment, and tells sink what is missing before it.
func (r *logReader) open(sink provider.LogSink) (bool, error) {
	var head [logHeader]byte
	for {
		numbers, err := segments(r.dir, r.number+1)
		if err != nil || len(numbers) == 0 {
			return false, err
		}
		f, err := os.Open(segmentPath(r.dir, numbers[0]))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return false, err
		}
		if n, err := f.ReadAt(head[:], 0); n < len(head) {
			f.Close()
			if !errors.Is(err, io.EOF) {
				return false, err
			}
			if len(numbers) > 1 { // its header did not fit on the disk
				r.number = numbers[0]
				continue
			}
			return false, nil // about to be written
		}
		r.f, r.number, r.at = f, numbers[0], int64(logHeader)
		break
	}
	offset, err := parseLogHeader(head[:])
	if err != nil {
		r.close()
		return false, err
	}
	if offset > r.offset {
		note := fmt.Sprintf("[rialto: %d bytes of output are missing here: the log's limit was reached]\n", offset-r.offset)
		r.offset = offset
		return true, sink(provider.Stderr, []byte(note))
	}
	return true, nil
}

func (r *logReader) frames(sink provider.LogSink) error {
	for {
		var head [frameHeader]byte
		if n, err := r.f.ReadAt(head[:], r.at); n < len(head) {
			return ignoreEOF(err)
		}
		stream, length, err := parseFrameHeader(head)
		if err != nil {
			return err
		}
		payload := r.buf[:length]
		if n, err := r.f.ReadAt(payload, r.at+frameHeader); n < length {
			return ignoreEOF(err)
		}
		r.at += int64(frameHeader + length)
		r.offset += uint64(length) //nolint:gosec // at most maxFrame
		if err := sink(stream, payload); err != nil {
			return err
		}
	}
}

func (r *logReader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

func parseLogHeader(b []byte) (uint64, error) {
	if len(b) != logHeader || string(b[:len(logMagic)]) != logMagic {
		return 0, errFrame
	}
	return binary.BigEndian.Uint64(b[len(logMagic):]), nil
}

func parseFrameHeader(b [frameHeader]byte) (provider.Stream, int, error) {
	stream, length := provider.Stream(b[0]), binary.BigEndian.Uint32(b[1:])
	if stream != provider.Stdout && stream != provider.Stderr || length == 0 || length > maxFrame {
		return 0, 0, errFrame
	}
	return stream, int(length), nil
}

// segments returns the numbers of the segments in dir that are at least from, in order.
func segments(dir string, from int) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= from {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
