package service_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
)

// accuse says over a lease that a peer sent a wrong block.
func (a *agent) accuse(lease broker.LeaseID, accused broker.PeerID) error {
	a.t.Helper()
	envelope, err := wire.SealPoison(a.key, broker.PoisonReport{
		Lease: lease, Accused: accused, Want: root, Got: digest, Size: 7, Time: time.Now().Round(0).UTC(),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	_, err = a.host.Request(a.t.Context(), a.w.key.ID(), wire.ProtocolPoison, envelope)
	return err
}

func (a *agent) mustAccuse(lease broker.LeaseID, accused broker.PeerID) {
	a.t.Helper()
	if err := a.accuse(lease, accused); err != nil {
		a.t.Fatalf("accusation: %v", err)
	}
}

// named takes a job of the image to the agent, whose lease it returns with the peers that its hold named.
func (a *agent) named() (broker.LeaseID, []broker.PeerID) {
	a.t.Helper()
	hold := a.begin(a.w.command(root, "serve"))
	var peers []broker.PeerID
	for _, s := range hold.Sources {
		peers = append(peers, s.Peer)
	}
	return hold.Lease, peers
}

// accused is what the broker says of a peer.
func (w *world) accused(p broker.PeerID) broker.Accused {
	w.t.Helper()
	list, err := w.Accused(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range list {
		if a.Peer == p {
			return a
		}
	}
	return broker.Accused{}
}

func wantNamed(t *testing.T, what string, got []broker.PeerID, p broker.PeerID, want bool) {
	t.Helper()
	if slices.Contains(got, p) != want {
		t.Errorf("%s: named %v, want the peer %s among them: %v", what, got, p, want)
	}
}

// TestTwoAccusersSilenceASource, one does not, however often it says so; over a restart, and the accused hears of it.
func TestTwoAccusersSilenceASource(t *testing.T) {
	w := newWorld(t, memory())
	bad, a, b, c := newAgent(t, w), newAgent(t, w), newAgent(t, w), newAgent(t, w)
	bad.offer(holding("DE", root))
	for _, x := range []*agent{a, b, c} {
		x.offer()
	}
	lease, peers := a.named()
	wantNamed(t, "before", peers, bad.id(), true)
	for range 3 {
		a.mustAccuse(lease, bad.id())
	}
	if got := w.accused(bad.id()); got.Accusers != 1 || !got.Until.IsZero() || len(got.Accusations) != 1 || !got.Accusations[0].Counts {
		t.Errorf("one accuser: %+v", got)
	}
	second, peers := b.named()
	wantNamed(t, "one accuser", peers, bad.id(), true)
	if advice := bad.offer(holding("DE", root)); advice.Accusers != 1 || advice.Distrusted != 0 {
		t.Errorf("advice after one accuser: %+v", advice)
	}
	b.mustAccuse(second, bad.id())
	advice := bad.offer(holding("DE", root))
	if advice.Accusers != 2 || advice.Distrusted <= 5*time.Hour || advice.Distrusted > 6*time.Hour {
		t.Errorf("advice after two accusers: %+v", advice)
	}
	_, peers = c.named()
	wantNamed(t, "two accusers", peers, bad.id(), false)

	before := w.accused(bad.id())
	w.stop()
	w.start()
	bad.offer(holding("DE", root))
	d := newAgent(t, w)
	d.offer()
	_, peers = d.named()
	wantNamed(t, "after a restart", peers, bad.id(), false)
	if after := w.accused(bad.id()); after.Accusers != 2 || !after.Until.Equal(before.Until) || len(after.Accusations) != 2 {
		t.Errorf("after a restart: %+v; before: %+v", after, before)
	}
}

// TestAccusationsThatDoNotCount are kept, and silence nobody.
func TestAccusationsThatDoNotCount(t *testing.T) {
	w := newWorld(t, memory())
	rival, a, b, c := newAgent(t, w), newAgent(t, w), newAgent(t, w), newAgent(t, w)
	rival.offer(holding("DE", root))
	for _, x := range []*agent{a, b, c} {
		x.offer()
	}
	a.mustAccuse("", rival.id())                             // no lease
	b.mustAccuse("l-aaaaaaaaaaaaaaaaaaaaaaaaaa", rival.id()) // one that the broker does not know
	other := c.begin(w.command(otherRoot, "serve"))          // of an image that the rival does not hold
	c.mustAccuse(other.Lease, rival.id())
	if got := w.accused(rival.id()); got.Accusers != 0 || !got.Until.IsZero() || len(got.Accusations) != 3 {
		t.Errorf("accused: %+v", got)
	}
	if err := a.accuse(other.Lease, rival.id()); err == nil || !strings.Contains(err.Error(), "not with") {
		t.Errorf("over another's lease: %v", err)
	}
	if err := a.accuse("", a.id()); err == nil {
		t.Error("a provider accused itself")
	}
	envelope, err := wire.SealPoison(a.key, broker.PoisonReport{Accused: rival.id(), Got: digest, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.host.Request(t.Context(), w.key.ID(), wire.ProtocolPoison, envelope); err == nil {
		t.Error("an accusation that another provider delivered was taken")
	}
}

// TestOneProviderAccusesFew: who accuses everybody is not heard further.
func TestOneProviderAccusesFew(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.offer()
	for range 8 {
		a.mustAccuse("", broker.PeerID(newKey(t).ID()))
	}
	if err := a.accuse("", broker.PeerID(newKey(t).ID())); err == nil || !strings.Contains(err.Error(), "8 others") {
		t.Errorf("the ninth: %v", err)
	}
}

// TestAdviceSaysWhoElseHolds what the provider holds, by region, without those that are gone.
func TestAdviceSaysWhoElseHolds(t *testing.T) {
	w := newWorld(t, memory())
	a, b, c, d := newAgent(t, w), newAgent(t, w), newAgent(t, w), newAgent(t, w)
	one := func(x *agent, region string, roots ...string) broker.RootAdvice {
		t.Helper()
		for _, r := range x.offer(holding(region, roots...)).Roots {
			if r.Root == root {
				return r
			}
		}
		t.Error("no advice on the root")
		return broker.RootAdvice{}
	}
	if got, want := one(a, "DE", root), (broker.RootAdvice{Root: root, LastInRegion: true, Keeper: true}); got != want {
		t.Errorf("alone: got %+v, want %+v", got, want)
	}
	if got, want := one(b, "FR", root, otherRoot), (broker.RootAdvice{Root: root, Replicas: 1, LastInRegion: true, Keeper: true}); got != want {
		t.Errorf("in another region: got %+v, want %+v", got, want)
	}
	one(c, "DE", root)
	one(d, "DE", root)
	keepers := 0
	for _, x := range []*agent{a, c, d} {
		got := one(x, "DE", root)
		if got.Replicas != 3 || got.LastInRegion {
			t.Errorf("got %+v, want 3 replicas, and not the last", got)
		}
		if got.Keeper {
			keepers++
		}
	}
	if keepers != 2 {
		t.Errorf("%d keepers in a region, want 2", keepers)
	}
	if got := d.offer().Roots; got != nil {
		t.Errorf("advice on nothing: %+v", got)
	}
	if err := c.host.Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the one that left is not counted", func() bool {
		return one(a, "DE", root) == broker.RootAdvice{Root: root, Replicas: 1, LastInRegion: true, Keeper: true}
	})
}
