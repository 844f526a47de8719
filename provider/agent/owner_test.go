package agent

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"rialto/broker"
)

func TestEveryRecordFitsTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.wait = make(chan struct{})
		w.images.fail = errors.New(strings.Repeat("\x01", 1<<20))
		w.start()
		h := w.holdOf("one", w.spec())
		for range 60 {
			h.Sources = append(h.Sources, broker.BlockSource{
				Peer: broker.PeerID(newKey(t).ID()), Addrs: slices.Repeat([]string{"/dns/" + strings.Repeat("a", 100) + "/tcp/1"}, 30),
			})
		}
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		close(w.images.wait)
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		r := w.journal.get(h.Lease)
		if text, err := json.Marshal([]any{r.Spec, r.Sources, r.Answer, r.Report}); err != nil || len(text) > 512<<10 || len(r.Sources) == 0 {
			t.Errorf("a record of %d bytes with %d sources: %v", len(text), len(r.Sources), err)
		}
		w.release(h.Lease, "enough")
		w.mustStop()
	})
}

func TestDrainOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.DrainFile = filepath.Join(t.TempDir(), "drained")
		w.start()
		w.running("one")
		patient := make(chan error, 1)
		go func() { patient <- w.agent.Drain(context.Background(), false) }()
		w.settle()
		if err := w.agent.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := <-patient; err == nil {
			t.Error("a drain that was ended says that the host is drained")
		}
		if err := w.agent.Drain(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		w.mustStop()

		w.start()
		if got := w.broker.free(); len(got) != 0 || !w.agent.Status().Draining {
			t.Errorf("the next agent offers %v", got)
		}
		if a := w.ask(w.holdOf("two", w.spec())); a.Grant != nil {
			t.Error("the next agent granted a hold")
		}
		for range 2 {
			if err := w.agent.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		w.mustStop()
		w.start()
		if got := w.broker.free(); len(got) != 2 || w.agent.Status().Draining {
			t.Errorf("offers %v after the drain", got)
		}
		w.mustStop()
	})
}

// TestAskedAbove holds a GPU at more than the agent's price, which its owner may ask at a broker.
func TestAskedAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.holdOf("one", w.spec())
		h.Rate = 2 * rate
		if a := w.ask(h); a.Grant == nil {
			t.Errorf("refused: %s", a.Refusal)
		}
		w.release(h.Lease, "enough")
		w.mustStop()
	})
}

// TestOffersWhatAJobCanWrite keeps an offer from promising disk that the runtime will not give.
func TestOffersWhatAJobCanWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.DiskFree = func() (uint64, error) { return 50_000, nil }
		w.config.DiskPerJobMiB = 10_000
		w.start()
		if got := w.agent.offerSet(context.Background()).Offers[0].DiskMiB; got != 10_000 {
			t.Errorf("%d MiB with a limit of 10000", got)
		}
		w.agent.DiskPerJobMiB = 0
		if got := w.agent.offerSet(context.Background()).Offers[0].DiskMiB; got != 50_000 {
			t.Errorf("%d MiB without a limit, 50000 are free", got)
		}
		w.mustStop()
	})
}
