package service

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rialto/blockstore"
	"rialto/broker"
)

// TestClockSetBack restarts a broker whose wall clock was set back, or not, by an hour.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Round(0)
		for saved, want := range map[time.Time]time.Time{
			{}:                    now,
			now.Add(-time.Hour):   now,
			now.Add(+time.Hour):   now.Add(time.Hour),
			now.Add(-time.Minute): now,
		} {
			c := newClock(saved)
			if got := c.now(); !got.Equal(want) {
				t.Errorf("saved %v: the clock starts at %v, want %v", saved, got, want)
			}
		}
		c := newClock(now.Add(time.Hour))
		time.Sleep(time.Second)
		if got := c.now(); !got.Equal(now.Add(time.Hour + time.Second)) {
			t.Errorf("after a second: %v", got)
		}
	})
}

// slowBuilder reads a byte each second until it is stopped, and may then have found nothing.
type slowBuilder struct{}

func (slowBuilder) Build(ctx context.Context, _ string, _ blockstore.Digest, progress func(done, total int64)) (blockstore.CID, error) {
	for done := int64(1); ; done++ {
		select {
		case <-time.After(time.Second):
			progress(done, 1<<40)
		case <-ctx.Done():
			return blockstore.CID{}, errors.New("the transport's own words")
		}
	}
}

// fillingStore knows nothing and has room until a moment.
type fillingStore struct {
	Store
	until time.Time
}

func (fillingStore) Note(context.Context, string) ([]byte, error) { return nil, broker.ErrNotFound }

func (f fillingStore) Room() error {
	if time.Now().After(f.until) {
		return errors.New("full")
	}
	return nil
}

// TestBuildsEnd when the disk fills up, or when they take too long, and their failure stands for a minute.
func TestBuildsEnd(t *testing.T) {
	for want, room := range map[string]time.Duration{"too full": 10 * time.Second, "not done within 30m0s": time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c := Config{Builder: slowBuilder{}, Store: fillingStore{until: time.Now().Add(room)}, Logger: slog.New(slog.DiscardHandler)}
			s := &Service{c: c, metrics: newMetrics(prometheus.NewRegistry(), newView()), opened: make(chan struct{}), stopped: make(chan struct{})}
			close(s.opened)
			s.builds = newBuilds(s)
			d := blockstore.Sum([]byte("image")).Digest().String()
			if _, err := s.BuildImage(t.Context(), "a-test", "app", d); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { s.builds.run(ctx); close(ended) }()
			begun := time.Now()
			time.Sleep(min(room, buildTimeout) + 2*time.Second)
			got, err := s.Image(ctx, d)
			if err != nil || got.State != broker.BuildFailed || !strings.Contains(got.Error, want) {
				t.Errorf("after %v: %+v, %v; want %q", time.Since(begun), got, err, want)
			}
			time.Sleep(failureTime)
			if got, err := s.Image(ctx, d); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("a minute later: %+v, %v; want ErrNotFound", got, err)
			}
			cancel()
			<-ended
		})
	}
}

// TestOutboxKeepsTheLatest asks a slow agent again and again.
func TestOutboxKeepsTheLatest(t *testing.T) {
	o := newOutbox()
	release := func(why string) broker.Effect {
		return broker.SendRelease{Release: broker.Release{Lease: "l", Reason: why}}
	}
	if !o.push("l", broker.SendHold{}) || o.push("l", broker.SendConfirm{}) {
		t.Fatal("want one server for the lease")
	}
	for range 100 {
		o.push("l", release("old"))
	}
	o.push("l", release("new"))
	for i, want := range []broker.Effect{broker.SendHold{}, broker.SendConfirm{}, release("new")} {
		got, ok := o.pop("l")
		r, isRelease := got.(broker.SendRelease)
		if !ok || isRelease != (i == 2) || isRelease && r.Release.Reason != "new" {
			t.Errorf("send %d: got %+v, want %+v", i, got, want)
		}
	}
	if _, more := o.pop("l"); more || !o.push("l", broker.SendHold{}) {
		t.Error("an empty outbox still has its server")
	}
}

// TestNoteOfUnsavedBatch: an idempotency key is known from the moment that its submission was stepped.
func TestNoteOfUnsavedBatch(t *testing.T) {
	var u unsaved
	b := &batch{s: &Service{c: Config{Store: fillingStore{}}}, unsaved: &u}
	u.add(&batch{notes: map[string][]byte{"once/k": []byte("first")}})
	u.add(&batch{})
	if got, err := b.note(t.Context(), "once/k"); err != nil || string(got) != "first" {
		t.Errorf("on its way to the disk: %q, %v", got, err)
	}
	u.saved()
	if got, err := b.note(t.Context(), "once/k"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("the store was not asked: %q, %v", got, err)
	}
}
