package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/provider"
)

func TestHoldLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		h := w.holdOf("one", w.spec())
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		time.Sleep(21 * time.Second)
		synctest.Wait()
		w.settle()
		if err := w.confirm(h.Lease); !errors.Is(err, provider.ErrNoLease) {
			t.Errorf("confirmation after the hold lapsed: got %v", err)
		}
		if len(w.broker.free()) != 2 || w.runtime.box(h.Lease) != nil || w.broker.taken() != 0 {
			t.Errorf("a lapsed hold left something, or was reported: %v", w.broker.reports)
		}
		w.mustStop()
	})
}

func TestLeaseLapsesWithoutItsBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.broker.set(func(b *fakeBroker) { b.down = true })
		time.Sleep(62 * time.Second)
		synctest.Wait()
		w.settle()
		if _, stopped, _ := w.runtime.box(lease).state(); !strings.Contains(stopped, "lapsed") {
			t.Errorf("stopped with reason %q", stopped)
		}
		if got := w.broker.free(); len(got) != 2 {
			t.Errorf("offered %v after the lease lapsed", got)
		}
		w.broker.set(func(b *fakeBroker) { b.down = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if r := w.broker.last(); r.Phase != broker.PhaseExited || r.Used > 62*time.Second {
			t.Errorf("last report: %+v", r)
		}
		w.mustStop()
	})
}

func TestReleaseStopsAndFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.release(lease, "cancelled by the customer")
		w.settle()
		if _, stopped, _ := w.runtime.box(lease).state(); stopped != "cancelled by the customer" {
			t.Errorf("stopped with reason %q", stopped)
		}
		if r := w.broker.last(); r.Phase != broker.PhaseExited || r.Message != "cancelled by the customer" || r.ExitCode != 143 {
			t.Errorf("last report: %+v", r)
		}
		if len(w.broker.free()) != 2 {
			t.Error("the GPU was not freed")
		}
		w.release(lease, "again")
		w.release(broker.LeaseID(newID("l", "never")), "unknown")
		w.mustStop()
	})
}

func TestReleaseOfHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.wait = make(chan struct{})
		w.start()
		h := w.holdOf("one", w.spec())
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		w.release(h.Lease, "another was faster")
		w.settle()
		if w.runtime.box(h.Lease) != nil || len(w.broker.free()) != 2 || w.broker.taken() != 0 {
			t.Error("a released hold left something, or was reported")
		}
		w.mustStop()
	})
}

func TestRenewalWithoutTimeEndsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.broker.set(func(b *fakeBroker) { b.ttl = 0 })
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if _, stopped, _ := w.runtime.box(lease).state(); stopped == "" {
			t.Error("the workload runs on")
		}
		w.settle()
		if got := w.broker.last().Phase; got != broker.PhaseExited {
			t.Errorf("phase %d", got)
		}
		w.mustStop()
	})
}

func TestImageThatDoesNotExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.fail = errors.New("example.org/app:1: MANIFEST_UNKNOWN")
		w.start()
		h := w.holdOf("one", w.spec())
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		r := w.broker.last()
		if r.Phase != broker.PhaseBroken || r.HostFault || !strings.Contains(r.Message, "MANIFEST_UNKNOWN") || r.Used != 0 {
			t.Errorf("last report: %+v", r)
		}
		if w.runtime.box(h.Lease) != nil || len(w.broker.free()) != 2 {
			t.Error("the failed job left something")
		}
		w.mustStop()
	})
}

// The report tells what another host would not have suffered from what is wrong with the job.
func TestBlameOfABrokenJob(t *testing.T) {
	for name, c := range map[string]struct {
		spoil     func(*world)
		hostFault bool
	}{
		"the image has no space":   {func(w *world) { w.images.fail = fmt.Errorf("unpack: %w", blockstore.ErrNoSpace) }, true},
		"the disk is full":         {func(w *world) { w.images.fail = &fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC} }, true},
		"the registry says no":     {func(w *world) { w.images.fail = errors.New("denied") }, false},
		"the GPUs are gone":        {func(w *world) { w.config.Inventory = fakeInventory{[]broker.GPU{gpu("SIM-1")}, errors.New("NVML")} }, true},
		"the program is not there": {func(w *world) { w.runtime.start = errors.New("exec: not found") }, false},
		"the disk fills at start":  {func(w *world) { w.runtime.start = syscall.ENOSPC }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c.spoil(w)
				w.start()
				h := w.holdOf("one", w.spec())
				if a := w.ask(h); a.Grant == nil {
					t.Fatal(a.Refusal)
				}
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
				w.settle()
				if r := w.broker.last(); r.Phase != broker.PhaseBroken || r.HostFault != c.hostFault || r.Used != 0 {
					t.Errorf("last report: %+v", r)
				}
				w.mustStop()
			})
		})
	}
}

func TestHostThatCannotPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.runtime.fail = errors.New("no cgroups")
		w.start()
		if a := w.ask(w.holdOf("one", w.spec())); a.Grant != nil || !strings.Contains(a.Refusal, "no cgroups") {
			t.Errorf("answer: %+v", a)
		}
		w.settle()
		if len(w.broker.free()) != 2 {
			t.Error("the GPU was not freed")
		}
		w.mustStop()
	})
}

func TestProgressIsReportedButNotOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.images.wait = make(chan struct{})
		w.start()
		h := w.holdOf("one", w.spec())
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		if err := w.confirm(h.Lease); err != nil {
			t.Fatal(err)
		}
		w.settle()
		load := w.agent.workload(h.Lease)
		before := w.broker.taken()
		for i := range 50 {
			load.note(func(d *broker.Report) { d.Fetched.Peers = int64(i) })
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := w.broker.taken() - before; n < 4 || n > 6 {
			t.Errorf("%d reports in 5 s of progress, want one a second", n)
		}
		close(w.images.wait)
		w.settle()
		if r := w.broker.last(); r.Phase != broker.PhaseReady || r.Fetched.Peers != 100 || len(r.Held) != 1 {
			t.Errorf("last report: %+v", r)
		}
		w.mustStop()
	})
}

func TestPortsComeFromTheRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Ports = PortRange{First: 51000, Last: 51002}
		w.tunnels.taken[51000] = true // by a stranger
		w.start()
		for i, want := range []string{"192.0.2.7:51001", "192.0.2.7:51002"} {
			a := w.ask(w.holdOf(want, w.spec()))
			if a.Grant == nil || a.Grant.Endpoints[0] != want {
				t.Errorf("hold %d: got %+v, want %s", i, a, want)
			}
		}
		w.mustStop()
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		patient := make(chan error, 1)
		go func() { patient <- w.agent.Drain(context.Background(), false) }()
		w.settle()
		if a := w.ask(w.holdOf("two", w.spec())); a.Grant != nil {
			t.Error("a draining agent granted a hold")
		}
		if got := w.broker.free(); len(got) != 0 {
			t.Errorf("a draining agent offers %v", got)
		}
		select {
		case err := <-patient:
			t.Fatalf("drained while a job runs: %v", err)
		default:
		}
		if err := w.agent.Drain(context.Background(), true); err != nil {
			t.Error(err)
		}
		if err := <-patient; err != nil {
			t.Error(err)
		}
		if s := w.agent.Status(); !s.Draining || len(s.Leases) != 1 || s.Leases[0].Lease != lease || s.Leases[0].State != "ended" {
			t.Errorf("status: %+v", s)
		}
		w.mustStop()
	})
}

func TestLingeringIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.MaxLingering = 2
		w.start()
		var leases []broker.LeaseID
		for _, name := range []string{"one", "two", "three"} {
			lease := w.running(name)
			w.runtime.box(lease).finish(provider.Exit{})
			w.settle()
			time.Sleep(time.Second)
			leases = append(leases, lease)
		}
		synctest.Wait()
		left := w.runtime.list()
		want := slices.Sorted(slices.Values(leases[1:]))
		if !slices.Equal(left, want) {
			t.Errorf("lingering: %v, want the last two, %v", left, want)
		}
		w.mustStop()
	})
}

func TestReportsGoOutWhenTheBrokerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.broker.set(func(b *fakeBroker) { b.down = true })
		w.runtime.box(lease).finish(provider.Exit{Code: 1})
		time.Sleep(3 * time.Minute) // the pauses between retries have grown
		w.broker.set(func(b *fakeBroker) { b.down = false })
		w.net.up <- struct{}{}
		w.settle()
		if r := w.broker.last(); r.Phase != broker.PhaseExited {
			t.Errorf("last report: %+v", r)
		}
		if r := w.journal.get(lease); !r.Reported() {
			t.Error("the end waited for the next retry")
		}
		w.mustStop()
	})
}

func TestOffersAreSentAgainAfterReconnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		first := w.broker.offered()[len(w.broker.offered())-1]
		n := len(w.broker.offered())
		w.net.gone(w.broker.key.ID())
		if s := w.agent.Status(); s.Brokers[0].Connected {
			t.Error("status shows a lost connection as up")
		}
		w.net.up <- struct{}{}
		w.settle()
		if len(w.broker.offered()) != n+1 {
			t.Fatalf("%d offer sets after the reconnection, want %d", len(w.broker.offered()), n+1)
		}
		again := w.broker.offered()[n]
		if again.Boot != first.Boot || again.Seq <= first.Seq || again.Offers[0].ID != first.Offers[0].ID {
			t.Errorf("sent %+v after %+v", again, first)
		}
		if o := again.Offers[0]; !o.Simulated() || o.Rate != rate || o.CPUs != 2 || o.Host != "host-1" {
			t.Errorf("offer: %+v", o)
		}
		w.mustStop()
	})
}
