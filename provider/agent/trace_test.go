package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/provider"
)

// traceAsked makes images tell a trace, and returns when they were asked for it.
func (w *world) traceAsked(trace blockstore.Trace, err error) *[]time.Time {
	var asked []time.Time
	w.images.trace = func(context.Context) (blockstore.Trace, error) {
		w.images.mu.Lock()
		defer w.images.mu.Unlock()
		if w.images.used == 0 {
			w.t.Error("asked for the trace of an image that was released")
		}
		asked = append(asked, time.Now())
		return trace, err
	}
	return &asked
}

func TestTraceIsToldOnce(t *testing.T) {
	for name, runs := range map[string]time.Duration{"a long run": time.Hour, "a short run": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				want := blockstore.Trace{7, 8, 2}
				asked := w.traceAsked(want, nil)
				w.start()
				lease := w.running("one")
				started := time.Now()
				time.Sleep(runs)
				w.runtime.box(lease).finish(provider.Exit{})
				w.settle()
				if len(*asked) != 1 {
					t.Fatalf("asked %d times", len(*asked))
				}
				if after, due := (*asked)[0].Sub(started), min(runs, traceAfter); after < due-time.Second || after > due {
					t.Errorf("asked %v after the start, want %v", after, due)
				}
				told := w.broker.traced()
				if len(told) != 1 || told[0].Lease != lease || told[0].Root != "bafyimage" || !slices.Equal(told[0].Trace, want) {
					t.Errorf("told %+v", told)
				}
				if got := w.broker.free(); len(got) != 2 {
					t.Errorf("offered %v after the end", got)
				}
				w.mustStop()
			})
		})
	}
}

// TestTraceOfAnAdoptedWorkloadIsNotAsked: the image has been read by then.
func TestTraceOfAnAdoptedWorkloadIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asked := w.traceAsked(blockstore.Trace{1}, nil)
		w.start()
		lease := w.running("one")
		w.mustStop()
		w.start()
		time.Sleep(time.Minute)
		w.runtime.box(lease).finish(provider.Exit{})
		w.settle()
		if len(*asked) != 0 || len(w.broker.traced()) != 0 {
			t.Errorf("asked %d times, told %v", len(*asked), w.broker.traced())
		}
		if r := w.broker.last(); r.Phase != broker.PhaseExited {
			t.Errorf("last report: %+v", r)
		}
		w.mustStop()
	})
}

func TestNothingIsToldWithoutATrace(t *testing.T) {
	for name, c := range map[string]struct {
		trace blockstore.Trace
		err   error
	}{
		"others had read it before": {nil, nil},
		"the server is gone":        {nil, errors.New("no server")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				asked := w.traceAsked(c.trace, c.err)
				w.start()
				w.running("one")
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(*asked) != 1 || len(w.broker.traced()) != 0 {
					t.Errorf("asked %d times, told %v", len(*asked), w.broker.traced())
				}
				w.mustStop()
			})
		})
	}
}

// TestTraceWaitsForItsBroker, but not for long.
func TestTraceWaitsForItsBroker(t *testing.T) {
	for away, want := range map[time.Duration]int{20 * time.Second: 1, 50 * time.Second: 1, 3 * time.Minute: 0} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.broker.ttl = time.Hour
			w.traceAsked(blockstore.Trace{1}, nil)
			w.start()
			w.running("one")
			w.broker.set(func(b *fakeBroker) { b.down = true })
			time.Sleep(away)
			w.broker.set(func(b *fakeBroker) { b.down = false })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if told := w.broker.traced(); len(told) != want {
				t.Errorf("away for %v: told %v", away, told)
			}
			w.mustStop()
		})
	}
}

// TestStuckTraceDoesNotKeepTheGPUs for longer than its time.
func TestStuckTraceDoesNotKeepTheGPUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.trace = func(ctx context.Context) (blockstore.Trace, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		w.start()
		lease := w.running("one")
		w.runtime.box(lease).finish(provider.Exit{})
		time.Sleep(traceTimeout)
		w.settle()
		if got := w.broker.free(); len(got) != 2 {
			t.Errorf("offered %v", got)
		}
		w.mustStop()
	})
}

// TestHoldsTraceReachesTheImages, but not the weights.
func TestHoldsTraceReachesTheImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		spec := w.spec()
		spec.Weights = []broker.WeightsMount{{Name: "w", Root: "bafyw", Path: "/w"}}
		h := w.holdOf("one", spec)
		h.Trace = blockstore.Trace{4, 2}
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		w.settle()
		for _, want := range w.images.wants {
			if hinted := want.Image != ""; slices.Equal(want.Trace, h.Trace) != hinted || !hinted && want.Trace != nil {
				t.Errorf("wants %+v", want)
			}
		}
		if len(w.images.wants) != 2 {
			t.Errorf("%d wants", len(w.images.wants))
		}
		w.mustStop()
	})
}
