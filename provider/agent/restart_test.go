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
)

func TestNewAgentAdoptsRunningWorkload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		time.Sleep(45 * time.Second)
		synctest.Wait()
		before := w.broker.last()
		key, port := w.journal.get(lease).TunnelKey, w.journal.get(lease).TunnelPort
		w.mustStop()
		if box := w.runtime.box(lease); box == nil || w.runtime.wasRemoved(lease) || w.agent.Left() != 1 {
			t.Fatalf("the workload did not survive its agent, which left %d", w.agent.Left())
		}
		time.Sleep(10 * time.Second)

		w.start()
		if c := w.tunnels.opened[len(w.tunnels.opened)-1]; c.PrivateKey != key || c.ListenPort != port {
			t.Errorf("the tunnel came back on port %d with another key, want port %d", c.ListenPort, port)
		}
		r := w.broker.last()
		if r.Phase != broker.PhaseReady || r.Seq <= before.Seq || r.Used < 45*time.Second || r.Used > 46*time.Second {
			t.Errorf("first report after the restart: %+v, last one before: %+v; want the 45 s that an agent watched", r, before)
		}
		if got := w.broker.free(); !slices.Equal(got, []string{"SIM-2"}) {
			t.Errorf("offered %v while SIM-1 is leased", got)
		}
		w.runtime.box(lease).finish(provider.Exit{Code: 0})
		w.settle()
		if r := w.broker.last(); r.Phase != broker.PhaseExited || len(r.Steps) != len(before.Steps) {
			t.Errorf("last report: %+v", r)
		}
		// A later hold of the same GPU must fence the first lease, also across the restart.
		if a := w.ask(w.holdOf("two", w.spec())); a.Grant == nil || a.Grant.GPUs[0].Epoch != 2 {
			t.Errorf("next grant: %+v", a)
		}
		w.mustStop()
	})
}

// What an earlier agent showed is let go when the workloads that it left have their images again, or have ended.
func TestNewAgentSettlesImages(t *testing.T) {
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			if w.images.settled() != 1 {
				t.Error("an agent without workloads did not settle")
			}
			lease := w.running("one")
			if err := w.stop(); err != nil {
				t.Error(err)
			}
			if w.images.used != 1 {
				t.Error("what a workload uses that runs on was released")
			}
			wait := make(chan struct{})
			w.images.used, w.images.wait = 0, wait
			w.start()
			if w.images.settled() != 1 {
				t.Error("settled before the workload has its image again")
			}
			if ends {
				w.runtime.box(lease).finish(provider.Exit{Code: 0})
			} else {
				close(wait)
			}
			w.settle()
			if w.images.settled() != 2 {
				t.Errorf("settled %d times", w.images.settled())
			}
			w.mustStop()
		})
	}
}

func TestNewAgentResumesPreparation(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.images.wait = make(chan struct{})
			w.start()
			h := w.holdOf("one", w.spec())
			grant := w.ask(h).Grant
			if grant == nil {
				t.Fatal("refused")
			}
			if confirmed {
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
			}
			w.settle()
			w.mustStop()
			w.start()
			if again := w.ask(h).Grant; again == nil || again.TunnelKey != grant.TunnelKey || !slices.Equal(again.Endpoints, grant.Endpoints) {
				t.Errorf("confirmed %v: the grant changed from %+v to %+v", confirmed, grant, again)
			}
			if !confirmed {
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
			}
			close(w.images.wait)
			w.settle()
			if got := w.broker.last().Phase; got != broker.PhaseReady {
				t.Errorf("confirmed %v: phase %d after the restart", confirmed, got)
			}
			w.release(h.Lease, "enough")
			time.Sleep(20 * time.Minute)
			w.mustStop()
		})
	}
}

// TestCrashedAgentsTimeIsNotMetered kills an agent: its successor knows no more than the last report says.
func TestCrashedAgentsTimeIsNotMetered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		time.Sleep(45 * time.Second)
		synctest.Wait()
		before, record := w.broker.last(), w.journal.get(lease)
		w.mustStop()
		w.journal.mu.Lock()
		w.journal.records[lease] = record // what a crash leaves
		w.journal.mu.Unlock()
		time.Sleep(10 * time.Second)

		w.start()
		if used := w.agent.Status().Leases[0].UsedMS; used < before.Used.Milliseconds() || used > before.Used.Milliseconds()+1000 {
			t.Errorf("status says %d ms, the last report said %v", used, before.Used)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		used, seq := time.Duration(0), uint64(0)
		for _, r := range w.broker.history() {
			if r.Used < used || r.Seq <= seq {
				t.Errorf("report %d of %v comes after report %d of %v", r.Seq, r.Used, seq, used)
			}
			used, seq = r.Used, r.Seq
		}
		if used > before.Used+22*time.Second {
			t.Errorf("metered %v, of which nobody watched a part", used)
		}
		w.mustStop()
	})
}

func TestSuspendedHostLosesItsLease(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			lease := w.running("one")
			if restarted {
				w.mustStop()
			}
			w.asleep.Add(int64(2 * time.Minute)) // twice the lease's time, in which no timer here moved
			if restarted {
				w.start()
			}
			time.Sleep(2 * lookAgain)
			synctest.Wait()
			if r := w.broker.last(); r.Phase != broker.PhaseExited || !strings.Contains(r.Message, "lapsed") {
				t.Errorf("restarted %v: last report: %+v", restarted, r)
			}
			if len(w.broker.free()) != 2 {
				t.Errorf("restarted %v: lease %s still has its GPU", restarted, lease)
			}
			w.mustStop()
		})
	}
}

// TestLeasesEndWithTheHostsStart starts the next agent with a lease that has time left, and on a host that was
// started anew, where none has.
func TestLeasesEndWithTheHostsStart(t *testing.T) {
	for boot, want := range map[string]broker.Phase{"first": broker.PhaseReady, "second": broker.PhaseExited} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			w.running("one")
			w.mustStop()
			w.config.Clock.Boot = boot
			w.start()
			w.settle()
			if r := w.broker.last(); r.Phase != want {
				t.Errorf("start %q: last report: %+v", boot, r)
			}
			w.mustStop()
		})
	}
}

func TestNewAgentFindsItsWorkloadLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.mustStop()
		delete(w.runtime.boxes, lease) // the host was rebooted
		w.start()
		r := w.broker.last()
		if r.Phase != broker.PhaseBroken || !strings.Contains(r.Message, "lost") {
			t.Errorf("last report: %+v", r)
		}
		if len(w.broker.free()) != 2 || w.journal.get(lease).State != provider.StateGone {
			t.Error("the lost workload still has its GPU or its record")
		}
		w.mustStop()
	})
}

func TestLastReportSurvivesBrokerAndAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		lease := w.running("one")
		w.broker.set(func(b *fakeBroker) { b.down = true })
		w.runtime.box(lease).finish(provider.Exit{Code: 7})
		w.settle()
		time.Sleep(11 * time.Minute) // the linger is over, the report is not taken
		synctest.Wait()
		if w.runtime.box(lease) != nil {
			t.Error("the sandbox waits for the broker")
		}
		w.mustStop()
		if r := w.journal.get(lease); r.State != provider.StateEnded || r.Reported() {
			t.Fatalf("journal: %+v", r)
		}
		w.start()
		w.broker.set(func(b *fakeBroker) { b.down = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if r := w.broker.last(); r.Phase != broker.PhaseExited || r.ExitCode != 7 {
			t.Errorf("last report: %+v", r)
		}
		if r := w.journal.get(lease); r.State != provider.StateGone {
			t.Errorf("record is %v after the acknowledgement", r.State)
		}
		n := w.broker.taken()
		time.Sleep(time.Hour)
		if w.broker.taken() != n {
			t.Error("an acknowledged end was reported again")
		}
		w.mustStop()
	})
}

func TestLeftoversGoBeforeAnythingIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stray := broker.LeaseID(newID("l", "stray"))
		w.runtime.boxes[stray] = &fakeBox{runtime: w.runtime, exited: make(chan struct{})}
		w.start()
		if w.runtime.box(stray) != nil || !w.runtime.wasRemoved(stray) || !slices.Contains(w.tunnels.removed, deviceName(stray)) {
			t.Error("a sandbox that the journal does not know was left")
		}
		w.mustStop()
	})
}

func TestUnansweredHoldDoesNotSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		lease := broker.LeaseID(newID("l", "half"))
		h := w.holdOf("half", w.spec())
		// A crash between the intent and the answer.
		w.journal.records[lease] = provider.Record{
			Lease: lease, Job: h.Job, Broker: broker.PeerID(w.broker.key.ID()), State: provider.StateHeld, Spec: h.Spec,
			GPUs: []broker.GPULease{{UUID: "SIM-1", Epoch: 4}}, Deadline: provider.Instant{Boot: "first", Since: time.Minute},
		}
		w.journal.epochs["SIM-1"] = 4
		w.start()
		w.settle()
		if w.journal.get(lease).State != provider.StateGone || len(w.broker.free()) != 2 || w.broker.taken() != 0 {
			t.Errorf("state %v, free %v, %d reports", w.journal.get(lease).State, w.broker.free(), w.broker.taken())
		}
		w.mustStop()
	})
}

func TestStopJobsOnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.StopJobsOnExit = true
		w.start()
		lease := w.running("one")
		done := w.running("two")
		w.runtime.box(done).finish(provider.Exit{})
		w.settle()
		held := w.holdOf("three", w.spec())
		if a := w.ask(held); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		box := w.runtime.box(lease)
		w.mustStop()
		if _, stopped, _ := box.state(); stopped == "" {
			t.Error("the workload was not asked to stop")
		}
		if len(w.runtime.list()) != 0 {
			t.Errorf("left over: %v", w.runtime.boxes)
		}
		if r := w.broker.last(); r.Phase != broker.PhaseExited || r.ExitCode != 143 {
			t.Errorf("last report: %+v", r)
		}
		for id, r := range w.journal.records {
			if r.State != provider.StateGone {
				t.Errorf("%s is %v in the journal", id, r.State)
			}
		}
	})
}

func TestAgentEndsWhenItsJournalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.running("one")
		broken := errors.New("disk full")
		w.journal.mu.Lock()
		w.journal.fail = broken
		w.journal.mu.Unlock()
		time.Sleep(time.Minute)
		if err := w.stop(); !errors.Is(err, broken) {
			t.Errorf("run: got %v, want %v", err, broken)
		}
	})
}
