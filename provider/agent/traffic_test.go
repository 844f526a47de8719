package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
)

// takesTraffic makes the broker one that knows reports with traffic.
func (w *world) takesTraffic() { w.broker.advice = &broker.Advice{TTL: time.Hour} }

// next waits for the workload's next reports.
func (w *world) next() broker.Report {
	w.t.Helper()
	before := w.broker.taken()
	time.Sleep(time.Minute)
	synctest.Wait()
	if w.broker.taken() == before {
		w.t.Error("the broker took no report")
	}
	return w.broker.last()
}

// Reports say what the tunnel carried since it was opened, whatever it counted before, over a restart of the agent, and up
// to the workload's end.
func TestTrafficIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takesTraffic()
		w.tunnels.begin = tunnel.Stats{ReceivedBytes: 1000, SentBytes: 2000} // of a kernel's device that was there
		w.start()
		lease := w.running("one")
		w.tunnels.carry(10, 20)
		if got := w.next().Traffic; got != (broker.Traffic{Ingress: 10, Egress: 20}) {
			t.Errorf("reported %+v", got)
		}
		w.tunnels.carry(1, 2)
		w.mustStop()
		if got := w.journal.get(lease).Report.Traffic; got != (broker.Traffic{Ingress: 11, Egress: 22}) {
			t.Errorf("left %+v to the next agent", got)
		}
		w.start()
		w.settle()
		w.tunnels.carry(100, 200)
		if got := w.next().Traffic; got != (broker.Traffic{Ingress: 111, Egress: 222}) {
			t.Errorf("reported %+v after the restart", got)
		}
		device := w.tunnels.carry(1000, 2000)
		w.runtime.box(lease).finish(provider.Exit{})
		w.settle()
		want := broker.Traffic{Ingress: 1111, Egress: 2222}
		if r := w.broker.last(); r.Phase != broker.PhaseExited || r.Traffic != want {
			t.Errorf("last report: %+v, want %+v", r, want)
		}
		if w.tunnels.carry(5, 5) != device || w.tunnels.count() != 1 {
			t.Fatal("the tunnel does not linger")
		}
		w.mustStop()
		w.start()
		w.settle()
		w.tunnels.carry(5, 5)
		if got := w.agent.workload(lease).traffic.read(); got != want {
			t.Errorf("what an ended workload's tunnel carries is counted: %+v", got)
		}
		w.mustStop()
	})
}

// What the tunnel carried for a sandbox that is lost was carried all the same.
func TestTrafficOfALostSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takesTraffic()
		w.start()
		lease := w.running("one")
		w.tunnels.carry(10, 20)
		w.runtime.box(lease).lose()
		w.settle()
		if r := w.broker.last(); r.Phase != broker.PhaseBroken || r.Traffic != (broker.Traffic{Ingress: 10, Egress: 20}) {
			t.Errorf("last report: %+v", r)
		}
		w.mustStop()
	})
}

// A device that does not answer has carried what it had before.
func TestTrafficNeverShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.takesTraffic()
		w.start()
		w.running("one")
		d := w.tunnels.carry(10, 20)
		want := broker.Traffic{Ingress: 10, Egress: 20}
		if got := w.next().Traffic; got != want {
			t.Errorf("reported %+v", got)
		}
		w.tunnels.mu.Lock()
		d.fail = errors.New("no such device")
		w.tunnels.mu.Unlock()
		if got := w.next().Traffic; got != want {
			t.Errorf("reported %+v", got)
		}
		w.tunnels.mu.Lock()
		d.fail, d.stats = nil, tunnel.Stats{}
		w.tunnels.mu.Unlock()
		if got := w.next().Traffic; got != want {
			t.Errorf("reported %+v", got)
		}
		w.mustStop()
	})
}

// A broker that may be too old to read it hears nothing of traffic, unless it named a price for it; one that did hear of it
// hears of it again, also in the first report after it was away or the agent was.
func TestTrafficIsToldToWhoReadsIt(t *testing.T) {
	for name, c := range map[string]struct {
		advises bool
		tariff  broker.Tariff
		told    bool
	}{"old": {}, "new": {advises: true, told: true}, "named a price": {tariff: tariff, told: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if c.advises {
					w.takesTraffic()
				}
				w.start()
				h := w.holdOf("one", w.spec())
				h.Tariff = c.tariff
				if a := w.ask(h); a.Grant == nil {
					t.Fatal(a.Refusal)
				}
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
				w.settle()
				w.tunnels.carry(10, 20)
				check := func(r broker.Report) {
					t.Helper()
					if told := r.Traffic.Ingress == 10 && r.Traffic.Egress == 20; told != c.told || !told && r.Traffic != (broker.Traffic{}) {
						t.Errorf("reported %+v", r.Traffic)
					}
				}
				check(w.next())
				w.mustStop()
				w.broker.set(func(b *fakeBroker) { b.advice = nil })
				before := w.broker.taken()
				w.start()
				w.settle()
				if w.broker.taken() == before {
					t.Error("nothing was reported after the restart")
				}
				check(w.broker.last())
				w.mustStop()
			})
		})
	}
}

// hasTraffic brings a job to run on a host with prices for traffic, which pays for 1 MB, and has its tunnel carry bytes.
func (w *world) hasTraffic(tariff broker.Tariff, in, out int64) broker.LeaseID {
	w.t.Helper()
	w.start()
	spec := w.spec()
	spec.Traffic = 1e6
	h := w.holdOf("one", spec)
	h.Tariff = tariff
	if a := w.ask(h); a.Grant == nil {
		w.t.Fatal(a.Refusal)
	}
	if err := w.confirm(h.Lease); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
	w.tunnels.carry(in, out)
	time.Sleep(trafficTick + progressPause)
	synctest.Wait()
	return h.Lease
}

// What is beyond the paid traffic is slow, once and in both directions, where the host charges for it.
func TestTrafficBeyondThePaidIsSlow(t *testing.T) {
	for name, c := range map[string]struct {
		tariff  broker.Tariff
		in, out int64
		message string
	}{
		"ingress":         {broker.Tariff{Ingress: 1}, 1e6 + 1, 0, "more than the 1 MB that are paid for reached the job"},
		"egress":          {broker.Tariff{Egress: 1}, 0, 1e6 + 1, "more than the 1 MB that are paid for left the job"},
		"all that is due": {broker.Tariff{Ingress: 1, Egress: 1}, 1e6, 1e6, ""},
		"other way in":    {broker.Tariff{Ingress: 1}, 0, 1e9, ""},
		"other way out":   {broker.Tariff{Egress: 1}, 1e9, 0, ""},
		"disk alone":      {broker.Tariff{Disk: 1}, 1e9, 1e9, ""},
		"free":            {broker.Tariff{}, 1e9, 1e9, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				lease := w.hasTraffic(c.tariff, c.in, c.out)
				check := func(d *fakeDevice) {
					t.Helper()
					var want []int64
					if c.message != "" {
						want = []int64{125_000}
					}
					r := w.next()
					if got := d.limited(); !slices.Equal(got, want) || !strings.HasSuffix(r.Message, c.message) || (r.Message == "") != (c.message == "") {
						t.Errorf("limited to %v, reported %q", got, r.Message)
					}
				}
				device := w.tunnels.carry(0, 0)
				check(device)
				w.mustStop()
				w.start()
				if w.tunnels.carry(0, 0) == device {
					t.Fatal("the next agent opened no device")
				}
				check(w.tunnels.carry(0, 0))
				w.runtime.box(lease).finish(provider.Exit{})
				w.settle()
				if r := w.broker.last(); r.Phase != broker.PhaseExited || r.Message != "" {
					t.Errorf("last report: %+v", r)
				}
				w.mustStop()
			})
		})
	}
}

func TestDecimal(t *testing.T) {
	for n, want := range map[int64]string{1: "0.000001 MB", 1e6: "1 MB", 999_500_000: "999.5 MB", 1e9: "1 GB", 1_500_000_000: "1.5 GB", 1e15: "1000000 GB"} {
		if got := decimal(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// A host that cannot slow traffic down goes on, and does not say that it did.
func TestTrafficThatCannotBeSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tunnels.unlimited = true
		w.hasTraffic(broker.Tariff{Egress: 1}, 0, 1e9)
		if r := w.next(); r.Message != "" || r.Phase != broker.PhaseReady || len(w.tunnels.carry(0, 0).limited()) != 1 {
			t.Errorf("reported %+v", r)
		}
		w.mustStop()
	})
}
