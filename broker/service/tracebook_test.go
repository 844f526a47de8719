package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
)

// shelf is a book and the hints that it had saved.
type shelf struct {
	*testing.T

	book  *traceBook
	hints map[string][]byte
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	return &shelf{t, newTraceBook(), map[string][]byte{}}
}

// put remembers a run and reports whether it was news.
func (s *shelf) put(r tracedRun) bool {
	s.Helper()
	value, err := json.Marshal(r)
	if err != nil {
		s.Fatal(err)
	}
	hints := s.book.put(&r, value)
	if most := 1 + (2+maxForgotten)*maxRuns; len(hints) > most {
		s.Errorf("one run changes %d hints, at most %d", len(hints), most)
	}
	maps.Copy(s.hints, hints)
	return len(hints) > 0
}

// content is all that a book remembers.
func content(b *traceBook) map[string][]*tracedRun {
	all := map[string][]*tracedRun{}
	for root, image := range b.images {
		for hash, c := range image.commands {
			all[root+"/"+hash] = c.runs()
		}
	}
	return all
}

// check compares a book with what a restart would make of its hints, and its counts with its content.
func (s *shelf) check() {
	s.Helper()
	again := newTraceBook()
	again.restore(maps.Collect(func(yield func(string, []byte) bool) {
		for k, v := range s.hints {
			if len(v) > 0 && !yield(k, v) { // an empty hint is none
				return
			}
		}
	}))
	if got, want := content(again), content(s.book); !reflect.DeepEqual(got, want) {
		s.Errorf("restored %d commands, had %d", len(got), len(want))
	}
	for _, b := range []*traceBook{s.book, again} {
		commands, size := 0, 0
		for root, image := range b.images {
			if commands += len(image.commands); len(image.commands) > maxImageTraced || len(image.commands) == 0 {
				s.Errorf("image %s has %d commands", root, len(image.commands))
			}
			for _, c := range image.commands {
				seen := map[broker.PeerID]bool{}
				for _, r := range c.runs() {
					if size += len(r.Trace); seen[r.Provider] {
						s.Errorf("%s has two voices", r.Provider)
					}
					seen[r.Provider] = true
				}
			}
		}
		taken := 0
		for _, is := range b.slots {
			if is {
				taken++
			}
		}
		if commands != b.recent.Len() || commands != taken || size != b.bytes || commands > maxTraced || len(b.digests) > len(b.images) {
			s.Errorf("%d commands, %d in order, %d slots, %d bytes, counted %d, %d digests of %d images",
				commands, b.recent.Len(), taken, size, b.bytes, len(b.digests), len(b.images))
		}
	}
}

func encoded(t *testing.T, blocks ...uint32) []byte {
	t.Helper()
	p, err := blockstore.Trace(blocks).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTraceBookAtRandom holds a book to its bounds, and to what a restart makes of it.
func TestTraceBookAtRandom(t *testing.T) {
	s := newShelf(t)
	random := rand.New(rand.NewPCG(1, 2))
	begun := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	for i := range 5000 {
		s.put(tracedRun{
			Root: fmt.Sprint("root ", random.IntN(3)), Digest: fmt.Sprint("digest ", random.IntN(4)), Command: fmt.Sprint(random.IntN(2 * maxImageTraced)),
			Provider: broker.PeerID(fmt.Sprint("p", random.IntN(2*maxRuns))), Leased: begun.Add(time.Duration(random.IntN(10 * (i + 1)))),
			Trace: encoded(t, uint32(i)),
		})
		if i%500 == 0 {
			s.check()
		}
	}
	s.check()
}

// TestTraceBookForgetsTheLeastUsed of too many, and of too long ones.
func TestTraceBookForgetsTheLeastUsed(t *testing.T) {
	s := newShelf(t)
	begun := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	run := func(i int, trace []byte) tracedRun {
		name := fmt.Sprint(i)
		return tracedRun{Root: name, Digest: name, Command: "c", Provider: "p", Leased: begun.Add(time.Duration(i)), Trace: trace}
	}
	has := func(i int) bool { return content(s.book)[fmt.Sprint(i, "/c")] != nil }
	for i := range maxTraced {
		s.put(run(i, encoded(t, 1)))
	}
	if _, exact := s.book.runs("0", "c", true); !exact {
		t.Error("forgotten too early")
	}
	s.put(run(maxTraced, encoded(t, 2)))
	if !has(0) || has(1) || !has(2) || !has(maxTraced) {
		t.Error("another than the least recently used was forgotten")
	}
	s.check()
	long, most := make([]byte, 5*blockstore.MaxTrace), 0
	for i := range maxTraced {
		r := run(maxTraced+1+i, long)
		s.book.put(&r, nil)
		most = max(most, s.book.bytes)
	}
	if s.book.bytes > maxTraceBytes || most > 2*maxTraceBytes+maxTraceBytes/2 {
		t.Errorf("%d bytes, and %d at times; want at most %d", s.book.bytes, most, maxTraceBytes)
	}
}

// TestNoRunIsTakenTwice, whatever its provider says later, and whoever else told meanwhile.
func TestNoRunIsTakenTwice(t *testing.T) {
	s := newShelf(t)
	begun := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	run := func(provider string, at int) tracedRun {
		return tracedRun{Root: "r", Digest: "d", Command: "c", Provider: broker.PeerID(provider), Leased: begun.Add(time.Duration(at)), Trace: encoded(t, uint32(at))}
	}
	if !s.put(run("a", 1)) || s.put(run("a", 1)) || s.put(run("a", 0)) || !s.put(run("a", 2)) {
		t.Error("not the newest run of a provider counts")
	}
	for i := range maxRuns {
		if !s.put(run(fmt.Sprint("other ", i), 10+i)) {
			t.Errorf("run %d of others is no news", i)
		}
	}
	if s.put(run("a", 2)) {
		t.Error("a run that newer ones pushed out came back")
	}
	if runs, exact := s.book.runs("r", "c", true); !exact || len(runs) != maxRuns {
		t.Errorf("%d runs, %v", len(runs), exact)
	}
}

// TestFallbackHearsEachProviderOnce: the newest runs of other commands stand in.
func TestFallbackHearsEachProviderOnce(t *testing.T) {
	s := newShelf(t)
	begun := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	for i := range 10 {
		provider := "liar"
		if i == 0 {
			provider = "honest"
		}
		s.put(tracedRun{
			Root: "r", Digest: "d", Command: fmt.Sprint(i), Provider: broker.PeerID(provider), Leased: begun.Add(time.Duration(i)), Trace: encoded(t, uint32(i)),
		})
	}
	runs, exact := s.book.runs("r", "new", true)
	if exact || !reflect.DeepEqual(runs, [][]byte{encoded(t, 9), encoded(t, 0)}) {
		t.Errorf("got %v, %v", runs, exact)
	}
	if runs, exact := s.book.runs("r", "new", false); exact || runs != nil {
		t.Errorf("without others: %v, %v", runs, exact)
	}
}

// TestStrangeHintsAreIgnored: a hint of another version, or of a slot that another command has.
func TestStrangeHintsAreIgnored(t *testing.T) {
	good := `{"root":"r","digest":"d","command":"c","provider":"p","leased":"2026-11-23T19:00:00Z","trace":"AQI="}`
	b := newTraceBook()
	b.restore(map[string][]byte{
		traceKey(3, 1): []byte(good), traceKey(4, 0): []byte(good), "trace/junk": []byte(good), "trace/10000/0": []byte(good), "trace/0001/5": []byte(good), "trace/-001/0": []byte(good),
		traceKey(5, 0): []byte("{"), traceKey(6, 0): []byte(`{"root":"x","trace":"AQ=="}`),
	})
	if got := content(b); len(got) != 1 || len(got["r/c"]) != 1 {
		t.Errorf("restored %v", got)
	}
}

// TestLateTraces come too late when their lease has ended long ago.
func TestLateTraces(t *testing.T) {
	v := newView()
	s := &Service{
		c:    Config{Store: fillingStore{until: time.Now().Add(time.Hour)}, Logger: slog.New(slog.DiscardHandler)},
		view: v, queue: make(chan *op), traces: newTraceBook(), opened: make(chan struct{}), stopped: make(chan struct{}),
	}
	close(s.opened)
	now := time.Now()
	go func() { // ends with the queue
		for o := range s.queue {
			o.err = o.run(context.Background(), &batch{s: s, now: now, hints: map[string][]byte{}})
			close(o.done)
		}
	}()
	defer close(s.queue)
	for ago, want := range map[time.Duration]error{lateTrace + 1: broker.ErrConflict, lateTrace: nil} {
		v.publish([]broker.Effect{broker.SaveJob{Job: broker.Job{ID: "j"}}, broker.SaveLease{Lease: broker.Lease{
			ID: "l", Job: "j", Provider: "p", State: broker.LeaseEnded, Granted: now.Add(-time.Hour), Ended: now.Add(-ago),
		}}}, nil)
		if err := s.remember(t.Context(), "p", broker.TraceReport{Lease: "l", Root: "r", Trace: []uint32{1}}); !errors.Is(err, want) {
			t.Errorf("%v after the end: %v, want %v", ago, err, want)
		}
	}
	v.publish([]broker.Effect{broker.SaveLease{Lease: broker.Lease{ID: "l", Job: "j", Provider: "p", State: broker.LeaseHolding}}}, nil)
	if err := s.remember(t.Context(), "p", broker.TraceReport{Lease: "l", Root: "r", Trace: []uint32{1}}); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("before the grant: %v, want ErrUnavailable", err)
	}
}
