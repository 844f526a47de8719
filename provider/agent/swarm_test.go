package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/provider"
)

// newPeer names a peer.
func newPeer(t *testing.T) broker.PeerID {
	t.Helper()
	return broker.PeerID(newKey(t).ID())
}

func poison(accused broker.PeerID) broker.PoisonReport {
	return broker.PoisonReport{Accused: accused, Got: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 7, Time: time.Now()}
}

// TestAccusationNamesTheLease whose hold named the peer, and comes once an hour however often it sends wrong blocks.
func TestAccusationNamesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := newWorld(t), newPeer(t)
		w.start()
		w.running("other")
		h := w.holdOf("one", w.spec())
		h.Sources = []broker.BlockSource{{Peer: peer}}
		if a := w.ask(h); a.Grant == nil {
			t.Fatal(a.Refusal)
		}
		for range 3 {
			w.agent.Accuse(poison(peer))
			w.settle()
		}
		told := w.broker.accused()
		if len(told) != 1 || told[0].Lease != h.Lease || told[0].Accused != peer || told[0].Size != 7 {
			t.Fatalf("told %+v", told)
		}
		time.Sleep(accuseEvery)
		w.agent.Accuse(poison(peer))
		w.settle()
		if told := w.broker.accused(); len(told) != 2 {
			t.Errorf("an hour later: told %+v", told)
		}
		w.mustStop()
	})
}

// TestAccusationWithoutALease goes to the brokers that are there.
func TestAccusationWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := newWorld(t), newPeer(t)
		w.start()
		w.settle()
		w.agent.Accuse(poison(peer))
		w.settle()
		if told := w.broker.accused(); len(told) != 1 || told[0].Lease != "" {
			t.Errorf("told %+v", told)
		}
		w.mustStop()
	})
}

// TestAccusationWaitsForItsBroker for a while; one that nobody took is made anew.
func TestAccusationWaitsForItsBroker(t *testing.T) {
	for away, want := range map[time.Duration]int{time.Second: 1, 20 * time.Second: 1, time.Minute: 0} {
		synctest.Test(t, func(t *testing.T) {
			w, peer := newWorld(t), newPeer(t)
			w.start()
			w.settle()
			w.broker.set(func(b *fakeBroker) { b.down = true })
			w.agent.Accuse(poison(peer))
			time.Sleep(away)
			w.broker.set(func(b *fakeBroker) { b.down = false })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if told := w.broker.accused(); len(told) != want {
				t.Errorf("away for %v: told %v", away, told)
			}
			w.agent.Accuse(poison(peer))
			w.settle()
			if told := w.broker.accused(); len(told) != 1 {
				t.Errorf("away for %v, then said again: told %v", away, told)
			}
			w.mustStop()
		})
	}
}

// TestAccusationsAreBounded: what does not fit is dropped, and nobody waits.
func TestAccusationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := newWorld(t), newPeer(t)
		w.start()
		w.settle()
		w.broker.set(func(b *fakeBroker) { b.down = true })
		for range 10 * maxPoisons {
			w.agent.Accuse(poison(peer))
		}
		if n := len(w.agent.poisons); n > maxPoisons {
			t.Errorf("%d wait", n)
		}
		w.mustStop()
	})
}

// TestAdviceIsFollowed and asked for again before it ends, with offers that are no news.
func TestAdviceIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := broker.RootAdvice{Root: "bafyimage", Replicas: 3, Keeper: true}
		w.broker.advice = &broker.Advice{TTL: 30 * time.Minute, Roots: []broker.RootAdvice{want}, Accusers: 2, Distrusted: time.Hour}
		w.start()
		w.settle()
		took := func() []fakeAdvice {
			w.images.mu.Lock()
			defer w.images.mu.Unlock()
			return slices.Clone(w.images.advice)
		}
		all, before := took(), w.broker.offered()
		if len(all) == 0 || !slices.Equal(all[0].roots, []broker.RootAdvice{want}) || string(all[0].from) != string(w.broker.key.ID()) {
			t.Fatalf("advice %+v", all)
		}
		if left := time.Until(all[0].until); left <= 29*time.Minute || left > 30*time.Minute {
			t.Errorf("advice for %v", left)
		}
		if b := w.agent.Status().Brokers[0]; b.Accusers != 2 || time.Until(b.DistrustedUntil) <= 59*time.Minute {
			t.Errorf("status: %+v", b)
		}
		time.Sleep(10*time.Minute + adviceTick)
		w.settle()
		if got := took(); len(got) != len(all)+1 {
			t.Errorf("advice came %d times within eleven minutes, want one more than %d", len(got), len(all))
		}
		after := w.broker.offered()
		if last, first := after[len(after)-1], before[len(before)-1]; last.Seq != first.Seq {
			t.Errorf("offers that did not change have number %d, before %d", last.Seq, first.Seq)
		}
		w.agent.Touch()
		w.settle()
		if last := w.broker.offered(); last[len(last)-1].Seq != before[len(before)-1].Seq+1 {
			t.Errorf("offers that changed have number %d", last[len(last)-1].Seq)
		}
		time.Sleep(time.Hour)
		w.broker.set(func(b *fakeBroker) { b.advice = nil })
		w.mustStop()
	})
}

// TestAdviceOnOtherOffersIsRefused, and an older broker's silence is none.
func TestAdviceOnOtherOffersIsRefused(t *testing.T) {
	for name, advice := range map[string]*broker.Advice{
		"another boot":      {TTL: time.Hour, Boot: "another"},
		"another number":    {TTL: time.Hour, Seq: 1},
		"an older broker's": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.broker.advice = advice
				w.start()
				w.settle()
				n := len(w.broker.offered())
				time.Sleep(time.Hour)
				if got := w.images.advice; got != nil {
					t.Errorf("took %+v", got)
				}
				if got := w.broker.offered(); len(got) != n || n == 0 {
					t.Errorf("offers were sent %d times, then %d", n, len(got))
				}
				w.mustStop()
			})
		})
	}
}

// TestReportsNameWhoServed, unless the broker is too old to read it.
func TestReportsNameWhoServed(t *testing.T) {
	for name, advice := range map[string]*broker.Advice{"new": {TTL: time.Hour}, "old": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, peer := newWorld(t), newPeer(t)
				w.broker.advice = advice
				w.images.from = []broker.PeerBytes{{Peer: peer, Bytes: 100}}
				w.start()
				spec := w.spec()
				spec.Weights = []broker.WeightsMount{{Name: "w", Root: "bafyw", Path: "/w"}}
				h := w.holdOf("one", spec)
				w.ask(h)
				if err := w.confirm(h.Lease); err != nil {
					t.Fatal(err)
				}
				w.settle()
				w.runtime.box(h.Lease).finish(provider.Exit{})
				w.settle()
				var want []broker.PeerBytes
				if advice != nil {
					want = []broker.PeerBytes{{Peer: peer, Bytes: 200}} // image and weights
				}
				if got := w.broker.last(); got.Phase != broker.PhaseExited || !slices.Equal(got.Fetched.From, want) {
					t.Errorf("last report: %+v, want %v", got, want)
				}
				w.mustStop()
			})
		})
	}
}

func TestTopTraffic(t *testing.T) {
	all := []PeerTraffic{{Peer: "a", Fetched: 1}, {Peer: "b", Served: 3}, {Peer: "c", Fetched: 2, Served: 2}}
	for range maxPeers {
		all = append(all, PeerTraffic{Peer: "z"})
	}
	got := TopTraffic(all)
	if len(got) != maxPeers || got[0].Peer != "c" || got[1].Peer != "b" || got[2].Peer != "a" || all[0].Peer != "a" {
		t.Errorf("got %+v", got[:3])
	}
}
