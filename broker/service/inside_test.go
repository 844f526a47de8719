package service

import (
	"testing"
	"testing/synctest"
	"time"

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
