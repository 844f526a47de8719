package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// journal is the log of all batches: files of records, each named after the number of its first batch. A record is
// appended with one write and synced before its batch counts.
type journal struct {
	dir string

	mu    sync.Mutex
	files []uint64 // first numbers, ascending; the last is the one that is written

	f    *os.File // the writer's: the newest file, or nil when the next append begins one
	used bool     // f has records
}

const journalName = "%020d.journal"

func (j *journal) path(first uint64) string {
	return filepath.Join(j.dir, fmt.Sprintf(journalName, first))
}

func openJournal(dir string) (*journal, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, err
	}
	j := &journal{dir: dir}
	for _, path := range paths {
		var first uint64
		if _, err := fmt.Sscanf(filepath.Base(path), journalName, &first); err != nil || j.path(first) != path {
			return nil, fmt.Errorf("%s is not named like a journal: %w", path, ErrCorrupt)
		}
		j.files = append(j.files, first)
	}
	return j, nil // a glob is sorted, and the names sort like the numbers
}

func (j *journal) empty() bool { return len(j.files) == 0 }

// append makes a record durable.
func (j *journal) append(seq uint64, record []byte) error {
	if j.f == nil {
		f, err := os.OpenFile(j.path(seq), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		j.f = f
		if err := syncDir(j.dir); err != nil {
			return err
		}
		j.mu.Lock()
		j.files = append(j.files, seq)
		j.mu.Unlock()
	}
	if _, err := j.f.Write(record); err != nil {
		return err
	}
	j.used = true
	return j.f.Sync()
}

// rotate ends the file that is written, if anything is in it: the next append begins another.
func (j *journal) rotate() error {
	if !j.used {
		return nil
	}
	return j.close()
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f, j.used = nil, false
	return f.Close()
}

// reopen goes on with the newest file, which is whole as far as last, if last is in it. What follows is a record that was
// not written to its end, and is cut off. All before it is made durable, as its writer may have been killed before it
// synced.
func (j *journal) reopen(last placed) error {
	newest := j.files[len(j.files)-1]
	if last.file != newest {
		last.end = 0
	}
	f, err := os.OpenFile(j.path(newest), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, seek := f.Seek(last.end, io.SeekStart)
	if err := errors.Join(f.Truncate(last.end), seek, f.Sync()); err != nil {
		return errors.Join(err, f.Close())
	}
	j.f, j.used = f, last.end > 0
	return nil
}

// placed is a batch, what its mutations hash to, and where its record is.
type placed struct {
	Batch
	content Hash
	file    uint64
	end     int64
}

// read yields the batches from the first of the file that has batch from on, verifying the chain; of the first it
// takes the word for what was before. It ends with errCut where the newest file ends with a record that was not
// written to its end.
func (j *journal) read(ctx context.Context, from uint64) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		j.mu.Lock()
		files := slices.Clone(j.files)
		j.mu.Unlock()
		i, exact := slices.BinarySearch(files, from)
		if !exact {
			i--
		}
		if i < 0 {
			yield(placed{}, fmt.Errorf("no journal has batch %d: %w", from, ErrCorrupt))
			return
		}
		last := Batch{Seq: files[i] - 1}
		for _, first := range files[i:] {
			for b, err := range readFile(j.path(first)) {
				b.file = first
				if err == nil {
					err = ctx.Err()
				}
				if err == nil {
					if last.Seq > 0 && last.Hash == (Hash{}) {
						last.Hash = b.Prev
					}
					err = b.follows(last.Seq, last.Hash)
				}
				if errors.Is(err, errCut) && first != files[len(files)-1] {
					err = fmt.Errorf("journal of batch %d: %w: %w", first, ErrCorrupt, err)
				}
				if !yield(b, err) || err != nil {
					return
				}
				last = b.Batch
			}
		}
	}
}

// readFile yields the batches of one file.
func readFile(path string) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(placed{}, err)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			yield(placed{}, err)
			return
		}
		r := bufio.NewReaderSize(f, 1<<20)
		for end := int64(0); end < info.Size(); {
			b, content, n, err := readRecord(r, info.Size()-end)
			end += n
			if err != nil {
				err = fmt.Errorf("%s at %d: %w", filepath.Base(path), end, err)
			}
			if !yield(placed{Batch: b, content: content, end: end}, err) || err != nil {
				return
			}
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
