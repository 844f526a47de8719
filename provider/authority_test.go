package provider

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
)

func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func TestAuthorityLife(t *testing.T) {
	t.Parallel()
	a, now := NewAuthority(map[string]uint64{"g1": 7}), start()

	c, err := a.Hold(now, "l-1", "broker", []string{"g1", "g2"}, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if want := []broker.GPULease{{UUID: "g1", Epoch: 8}, {UUID: "g2", Epoch: 1}}; !slices.Equal(c.GPUs, want) {
		t.Fatalf("got %v, want %v", c.GPUs, want)
	}
	if _, err := a.Hold(now, "l-2", "broker", []string{"g3", "g2"}, time.Second); !errors.Is(err, ErrTaken) {
		t.Errorf("hold of a taken GPU: got %v, want %v", err, ErrTaken)
	}
	if !a.Free("g3") || a.Epoch("g3") != 0 {
		t.Error("a refused hold changed a GPU")
	}
	if _, err := a.Confirm(now, "l-1", "other", time.Minute); !errors.Is(err, broker.ErrForbidden) {
		t.Errorf("confirm by another broker: got %v", err)
	}
	if err := a.Renew(now, "l-1", c.GPUs, time.Minute); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("renewal of a hold: got %v", err)
	}
	if _, err := a.Confirm(now.Add(9*time.Second), "l-1", "broker", time.Minute); err != nil {
		t.Fatal(err)
	}
	stale := []broker.GPULease{{UUID: "g1", Epoch: 7}, {UUID: "g2", Epoch: 1}}
	if err := a.Renew(now.Add(20*time.Second), "l-1", stale, time.Minute); !errors.Is(err, broker.ErrFencedEpoch) {
		t.Errorf("renewal under a stale epoch: got %v", err)
	}
	if err := a.Renew(now.Add(20*time.Second), "l-1", c.GPUs, time.Minute); err != nil {
		t.Fatal(err)
	}
	over := now.Add(80 * time.Second)
	if err := a.Renew(over, "l-1", c.GPUs, time.Minute); !errors.Is(err, ErrLapsed) {
		t.Errorf("renewal at the deadline: got %v", err)
	}
	if got := a.Lapsed(over); !slices.Equal(got, []broker.LeaseID{"l-1"}) {
		t.Errorf("lapsed: got %v", got)
	}
	if a.Free("g1") {
		t.Error("a lapsed lease gave its GPU away before it was released")
	}
	a.Release("l-1")
	a.Release("l-1")
	c, err = a.Hold(over, "l-3", "broker", []string{"g1"}, time.Second)
	if err != nil || c.GPUs[0].Epoch != 9 {
		t.Errorf("next hold: got %v, %v, want epoch 9", c.GPUs, err)
	}
}

func TestAuthorityRefusesBadHolds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		uuids []string
		ttl   time.Duration
		want  error
	}{
		{"no GPU", nil, time.Second, broker.ErrInvalid},
		{"no time", []string{"g"}, 0, broker.ErrInvalid},
		{"same GPU twice", []string{"g", "g"}, time.Second, ErrTaken},
	} {
		a := NewAuthority(nil)
		if _, err := a.Hold(start(), "l", "b", c.uuids, c.ttl); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if len(a.Claims()) != 0 || a.Epoch("g") != 0 {
			t.Errorf("%s: a refused hold left something", c.name)
		}
	}
}

func TestAuthorityRestoreFencesStaleClaims(t *testing.T) {
	t.Parallel()
	a := NewAuthority(map[string]uint64{"g": 5})
	stale := Claim{Lease: "old", GPUs: []broker.GPULease{{UUID: "g", Epoch: 4}}}
	if err := a.Restore(stale); !errors.Is(err, broker.ErrFencedEpoch) {
		t.Errorf("stale claim: got %v", err)
	}
	if err := a.Restore(Claim{Lease: "new", GPUs: []broker.GPULease{{UUID: "g", Epoch: 5}}}); err != nil {
		t.Error(err)
	}
	if err := a.Restore(Claim{Lease: "twin", GPUs: []broker.GPULease{{UUID: "g", Epoch: 6}}}); !errors.Is(err, ErrTaken) {
		t.Errorf("second claim: got %v", err)
	}
}

// naive is the authority as one would explain it: a list of claims, searched from the front.
type naive struct {
	epochs map[string]uint64
	claims []Claim
}

func (n *naive) holder(uuid string) broker.LeaseID {
	for _, c := range n.claims {
		for _, g := range c.GPUs {
			if g.UUID == uuid {
				return c.Lease
			}
		}
	}
	return ""
}

func (n *naive) find(lease broker.LeaseID) *Claim {
	for i := range n.claims {
		if n.claims[i].Lease == lease {
			return &n.claims[i]
		}
	}
	return nil
}

func TestAuthorityAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, m, now := NewAuthority(nil), &naive{epochs: map[string]uint64{}}, start()
		gpus := []string{"g0", "g1", "g2", "g3"}
		lease := func() broker.LeaseID {
			return broker.LeaseID(fmt.Sprintf("l%d", rapid.IntRange(0, 4).Draw(t, "lease")))
		}
		ttl := func() time.Duration { return time.Duration(rapid.IntRange(1, 20).Draw(t, "ttl")) * time.Second }
		t.Repeat(map[string]func(*rapid.T){
			"hold": func(t *rapid.T) {
				id, d := lease(), ttl()
				uuids := rapid.SliceOfNDistinct(rapid.SampledFrom(gpus), 1, 3, rapid.ID[string]).Draw(t, "uuids")
				ok := m.find(id) == nil && !slices.ContainsFunc(uuids, func(u string) bool { return m.holder(u) != "" })
				c, err := a.Hold(now, id, "b", uuids, d)
				if ok != (err == nil) {
					t.Fatalf("hold %s %v: got %v, want ok=%v", id, uuids, err, ok)
				}
				if !ok {
					return
				}
				want := Claim{Lease: id, Owner: "b", Deadline: now.Add(d)}
				for _, u := range uuids {
					m.epochs[u]++
					want.GPUs = append(want.GPUs, broker.GPULease{UUID: u, Epoch: m.epochs[u]})
				}
				m.claims = append(m.claims, want)
				if !slices.Equal(c.GPUs, want.GPUs) {
					t.Fatalf("got %v, want %v", c.GPUs, want.GPUs)
				}
			},
			"confirm": func(t *rapid.T) {
				id, d := lease(), ttl()
				c := m.find(id)
				ok := c != nil && now.Before(c.Deadline)
				if _, err := a.Confirm(now, id, "b", d); ok != (err == nil) {
					t.Fatalf("confirm %s: got %v, want ok=%v", id, err, ok)
				}
				if ok {
					c.Confirmed, c.Deadline = true, now.Add(d)
				}
			},
			"renew": func(t *rapid.T) {
				id, d := lease(), ttl()
				c := m.find(id)
				var gpus []broker.GPULease
				if c != nil {
					gpus = slices.Clone(c.GPUs)
				}
				stale := len(gpus) > 0 && rapid.Bool().Draw(t, "stale")
				if stale {
					gpus[0].Epoch--
				}
				ok := c != nil && c.Confirmed && !stale && now.Before(c.Deadline)
				if err := a.Renew(now, id, gpus, d); ok != (err == nil) {
					t.Fatalf("renew %s: got %v, want ok=%v", id, err, ok)
				}
				if ok {
					c.Deadline = now.Add(d)
				}
			},
			"release": func(t *rapid.T) {
				id := lease()
				a.Release(id)
				m.claims = slices.DeleteFunc(m.claims, func(c Claim) bool { return c.Lease == id })
			},
			"wait":    func(t *rapid.T) { now = now.Add(ttl()) },
			"restart": func(t *rapid.T) { a = restarted(t, a, m.epochs) },
			"": func(t *rapid.T) {
				for _, g := range gpus {
					if a.Free(g) != (m.holder(g) == "") || a.Epoch(g) != m.epochs[g] {
						t.Fatalf("GPU %s: free %v epoch %d, model %q %d", g, a.Free(g), a.Epoch(g), m.holder(g), m.epochs[g])
					}
				}
				if len(a.Claims()) != len(m.claims) {
					t.Fatalf("got %d claims, want %d", len(a.Claims()), len(m.claims))
				}
				for _, id := range a.Lapsed(now) {
					if c := m.find(id); c == nil || now.Before(c.Deadline) {
						t.Fatalf("%s lapsed too early", id)
					}
				}
			},
		})
	})
}

func restarted(t *rapid.T, old *Authority, epochs map[string]uint64) *Authority {
	a := NewAuthority(epochs)
	for _, c := range old.Claims() {
		if err := a.Restore(c); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func TestStateMovesForward(t *testing.T) {
	t.Parallel()
	allowed := map[[2]State]bool{
		{StateHeld, StateConfirmed}: true, {StateConfirmed, StateRunning}: true,
		{StateHeld, StateEnded}: true, {StateConfirmed, StateEnded}: true, {StateRunning, StateEnded}: true,
		{StateHeld, StateGone}: true, {StateConfirmed, StateGone}: true, {StateRunning, StateGone}: true, {StateEnded, StateGone}: true,
	}
	for from := range StateGone + 2 {
		for to := range StateGone + 2 {
			if got, want := from.CanBecome(to), allowed[[2]State{from, to}]; got != want {
				t.Errorf("%v to %v: got %v, want %v", from, to, got, want)
			}
		}
		text, err := from.MarshalText()
		if !from.Valid() {
			if err == nil {
				t.Errorf("%v: marshalled", from)
			}
			continue
		}
		var back State
		if err := back.UnmarshalText(text); err != nil || back != from {
			t.Errorf("%s: got %v, %v", text, back, err)
		}
	}
}
