package agent

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel/console"
)

// private is a job with a private image, private weights at two paths, and public ones.
func (w *world) private() broker.JobSpec {
	s := w.spec()
	root, weights := blockstore.Sum([]byte("image")), blockstore.Sum([]byte("weights")).String()
	s.Image, s.Root, s.Digest, s.Private = broker.LocalImage("mine"), root.String(), root.Digest().String(), true
	s.Weights = []broker.WeightsMount{
		{Name: "a", Root: weights, Path: "/a", Private: true},
		{Name: "b", Root: weights, Path: "/b", Private: true},
		{Name: "c", Root: "bafypublic", Path: "/c"},
	}
	return s
}

// leased brings a job to its lease and returns it.
func (w *world) leased(name string, spec broker.JobSpec) broker.LeaseID {
	w.t.Helper()
	h := w.holdOf(name, spec)
	if a := w.ask(h); a.Grant == nil {
		w.t.Fatalf("refused: %s", a.Refusal)
	}
	if err := w.confirm(h.Lease); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	return h.Lease
}

// bring hands over a key as the customer does.
func (w *world) bring(lease broker.LeaseID, root string, key blockstore.Key) error {
	l := w.agent.workload(lease)
	return backend{nil, l.keys}.Key(w.t.Context(), root, console.Secret(key))
}

func TestPrivateWorkloadWaitsForItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		w.config.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.start()
		spec := w.private()
		lease := w.leased("one", spec)
		image, weights := blockstore.Key{1, 2}, blockstore.Key{3, 4}
		if err := w.bring(lease, "bafypublic", image); !errors.Is(err, console.ErrNotPrivate) {
			t.Errorf("a key of what is public: got %v", err)
		}
		time.Sleep(20 * time.Second)
		for _, root := range []string{spec.Root, spec.Root} { // again: no error
			if err := w.bring(lease, root, image); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		if got := w.broker.last().Phase; got != broker.PhasePreparing {
			t.Fatalf("phase %d without the key of the weights", got)
		}
		time.Sleep(20 * time.Second)
		if err := w.bring(lease, spec.Weights[0].Root, weights); err != nil {
			t.Fatal(err)
		}
		w.settle()
		r := w.broker.last()
		if r.Phase != broker.PhaseReady || r.Used > time.Second {
			t.Fatalf("got phase %d, used %v: want ready, and no time metered for the wait", r.Phase, r.Used)
		}
		i := slices.IndexFunc(r.Steps, func(s broker.Step) bool { return s.Name == "key" })
		if i < 0 || r.Steps[i].Took < 40*time.Second || r.Steps[i].Took > 41*time.Second {
			t.Errorf("timeline: %+v, want a step for the keys", r.Steps)
		}
		want := []blockstore.Key{image, weights, weights}
		slices.SortFunc(w.images.keys, func(a, b blockstore.Key) int { return int(a[0]) - int(b[0]) })
		if !slices.Equal(w.images.keys, want) {
			t.Error("the images got other keys")
		}
		// Used keys are forgotten, on the disk there never were any, and one that comes late is not kept.
		l := w.agent.workload(lease)
		if err := w.bring(lease, spec.Root, image); err != nil {
			t.Error(err)
		}
		if len(l.keys.keys) > 0 {
			t.Errorf("%d keys are kept after their use", len(l.keys.keys))
		}
		var record bytes.Buffer
		if err := gob.NewEncoder(&record).Encode(w.journal.get(lease)); err != nil {
			t.Fatal(err)
		}
		for _, k := range want {
			if bytes.Contains(record.Bytes(), k[:]) || strings.Contains(log.String(), k.Base64()) || strings.Contains(log.String(), hex.EncodeToString(k[:])) {
				t.Error("a key is in the journal or in the log")
			}
		}
		if !strings.Contains(log.String(), "waits for the customer's keys") {
			t.Error("the log does not say that the host waits")
		}
		w.broker.set(func(b *fakeBroker) { b.ttl = 0 })
		time.Sleep(time.Hour)
		w.mustStop()
	})
}

func TestKeyThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.holdOf("one", w.private())
		h.TTL = 5 * time.Minute
		if a := w.ask(h); a.Grant == nil {
			t.Fatalf("refused: %s", a.Refusal)
		}
		time.Sleep(2 * time.Minute) // before the lease nobody can bring a key
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keyPatience - time.Second)
		synctest.Wait()
		if got := w.broker.last().Phase; got == broker.PhaseBroken {
			t.Fatalf("given up early: %+v", w.broker.last())
		}
		time.Sleep(2 * time.Second)
		w.settle()
		r := w.broker.last()
		if r.Phase != broker.PhaseBroken || r.HostFault || r.Used != 0 || !strings.Contains(r.Message, "no key came within 1m0s of the lease") {
			t.Errorf("got %+v, want a broken job that says why, and no fault of the host", r)
		}
		if got := w.broker.free(); len(got) != 2 {
			t.Errorf("offered %v after the end", got)
		}
		time.Sleep(time.Hour)
		w.mustStop()
	})
}

// TestNextAgentAndTheKeys: a workload that runs needs none, one that was not started yet needs them again.
func TestNextAgentAndTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		spec := w.private()
		bring := func(lease broker.LeaseID) {
			for _, root := range spec.PrivateRoots() {
				if err := w.bring(lease, root, blockstore.Key{9}); err != nil {
					t.Fatal(err)
				}
			}
			w.settle()
		}
		runs := w.leased("one", spec)
		bring(runs)
		waits := w.leased("two", spec)
		w.mustStop()
		w.images.wants, w.images.keys = nil, nil
		w.start()
		if got := w.journal.get(runs).State; got != provider.StateRunning {
			t.Fatalf("the running workload is %v", got)
		}
		if len(w.images.keys) > 0 {
			t.Error("keys came from nowhere")
		}
		without := 0
		for _, want := range w.images.wants {
			if want.Private && want.Key == nil {
				without++
			}
		}
		if without != 3 {
			t.Errorf("%d private wants without a key, want the 3 of the running workload", without)
		}
		if got := w.journal.get(waits).State; got != provider.StateConfirmed {
			t.Fatalf("the other workload is %v", got)
		}
		bring(waits)
		if got := w.journal.get(waits).State; got != provider.StateRunning || len(w.images.keys) != 3 {
			t.Errorf("with its keys the other workload is %v", got)
		}
		w.broker.set(func(b *fakeBroker) { b.ttl = 0 })
		time.Sleep(time.Hour)
		w.mustStop()
	})
}
