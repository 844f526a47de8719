//go:build linux

package campaign

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watch measures how long reads wait that the end of a host interrupts.
type watch struct {
	mu      sync.Mutex
	killed  time.Time
	revived time.Time // when the next host was started
	able    time.Time // when it was able to do anything; before killed: not yet
	waits   []time.Duration
}

func (w *watch) kill()   { w.at(&w.killed) }
func (w *watch) revive() { w.at(&w.revived) }
func (w *watch) ready()  { w.at(&w.able) }

func (w *watch) at(moment *time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*moment = time.Now()
}

// note counts a read that began before the next host was started, and ended after that was ready: nobody else can have
// answered it. What it waited before the kill does not count.
func (w *watch) note(began time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.killed.IsZero() && w.able.After(w.killed) && began.Before(w.revived) {
		if began.Before(w.killed) {
			began = w.killed
		}
		w.waits = append(w.waits, time.Since(began))
	}
}

// sorted returns all waits, the shortest first.
func (w *watch) sorted() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.waits))
}

// readerSize is what a reader reads at a time: parts of leaves, and whole small files.
const readerSize = 96 << 10

// reader is what a container is to its image: it keeps files open and reads them all the time, here and there.
type reader struct {
	dir   string
	watch *watch

	done    chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex
	reads    int
	failed   int // with an I/O error
	wrong    []error
	lastFail error
}

// read begins to read what is shown in a directory, in a number of threads, each file and part of a file at least once.
func read(tb testing.TB, w *watch, f files, dir string, threads int, seed uint64) *reader {
	tb.Helper()
	r := &reader{dir: dir, watch: w, done: make(chan struct{})}
	for i := range threads {
		open := make(map[string]*os.File)
		for p := range f {
			file, err := os.Open(filepath.Join(dir, p))
			if err != nil {
				tb.Error(err)
				continue
			}
			open[p] = file
		}
		r.running.Go(func() { r.run(f, open, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	return r
}

func (r *reader) run(f files, open map[string]*os.File, random *rand.Rand) {
	defer func() {
		for _, file := range open {
			file.Close()
		}
	}()
	type part struct {
		path string
		at   int
	}
	var parts []part
	for p, data := range f {
		for at := 0; at < len(data); at += readerSize {
			parts = append(parts, part{p, at})
		}
	}
	slices.SortFunc(parts, func(a, b part) int {
		if a.path != b.path {
			return slices.Compare([]byte(a.path), []byte(b.path))
		}
		return a.at - b.at
	})
	pause := time.NewTicker(5 * time.Millisecond) // leaves the machine to the host
	defer pause.Stop()
	buf := make([]byte, readerSize)
	for round := 0; ; round++ {
		random.Shuffle(len(parts), func(i, k int) { parts[i], parts[k] = parts[k], parts[i] })
		for _, p := range parts {
			select {
			case <-r.done:
				return
			default:
			}
			if round > 0 {
				select {
				case <-r.done:
					return
				case <-pause.C:
				}
			}
			if file := open[p.path]; file != nil {
				r.part(file, f[p.path], p.at, buf)
			}
		}
	}
}

func (r *reader) part(file *os.File, data []byte, at int, buf []byte) {
	want := data[at:min(at+len(buf), len(data))]
	uncache(file)
	began := time.Now()
	n, err := unix.Pread(int(file.Fd()), buf[:len(want)], int64(at))
	r.watch.note(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	switch {
	case errors.Is(err, unix.EINTR):
	case err != nil:
		r.failed++
		r.lastFail = fmt.Errorf("%s at %d, after %v: %w", file.Name(), at, time.Since(began), err)
	case n < len(want) && n > 0:
		err = differ(file.Name(), int64(at), buf[:n], want[:n]) // the rest would come with the next read
	default:
		err = differ(file.Name(), int64(at), buf[:n], want)
	}
	if wrong, ok := errors.AsType[*wrongError](err); ok {
		r.wrong = append(r.wrong, wrong)
	}
}

// stop ends the reader, once what it reads has come or failed.
func (r *reader) stop() (reads, failed int, wrong []error, lastFail error) {
	select {
	case <-r.done:
	default:
		close(r.done)
	}
	r.running.Wait()
	return r.reads, r.failed, r.wrong, r.lastFail
}
