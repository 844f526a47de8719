//go:build linux

package images_test

import (
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/broker"
	"rialto/provider"
)

// What came from peers is counted by peer, also what comes after the image was shown.
func TestWhoServedIsCounted(t *testing.T) {
	s := openShop(t)
	w := s.push(t, "app", someLayers(40)...)
	a, b, c := newHost(t, nil), newHost(t, nil), newHost(t, nil)
	w.Root = ensure(t, a, w).Root
	ensure(t, b, w)
	a.awaitHeld(t, 1)
	b.awaitHeld(t, 1)
	s.down.Store(true)
	w.Sources = []broker.BlockSource{a.source(), b.source()}
	var mu sync.Mutex
	var last broker.Fetched
	told := make(chan struct{}, 1000)
	img, err := c.Ensure(t.Context(), w, func(f broker.Fetched) {
		mu.Lock()
		last = f
		mu.Unlock()
		told <- struct{}{}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Release()
	if len(img.Fetched.From) == 0 { // the list of its files
		t.Errorf("shown after %+v, which names nobody", img.Fetched)
	}
	sum := func() (bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range last.From {
			bytes += p.Bytes
		}
		return bytes
	}
	for sum() < 3_700_000 {
		select {
		case <-told:
		case <-t.Context().Done():
			t.Fatalf("fetched %+v", last)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	stats := c.x.Stats().Fetched
	for _, p := range last.From {
		if p.Bytes != stats[string(p.Peer)].Bytes || p.Peer != a.source().Peer && p.Peer != b.source().Peer {
			t.Errorf("%+v, the exchange counted %+v", p, stats)
		}
	}
	if img.Fetched.Peers < img.Fetched.From[0].Bytes {
		t.Errorf("shown after %+v: more came from one peer than from all", img.Fetched)
	}
	if last.Peers < 3_700_000 || last.Registry != 0 {
		t.Errorf("fetched %+v", last)
	}
}

// small is a host whose store has room for three images.
func small(t *testing.T) *hostNode {
	t.Helper()
	n := newHost(t, nil)
	n.store.Close()
	var err error
	if n.store, err = disk.Open(t.Context(), disk.Config{Dir: filepath.Join(n.dir, "blocks"), Reserve: -1, Quota: 12 << 20}); err != nil {
		t.Fatal(err)
	}
	n.open(t, nil)
	return n
}

// use runs an image and lets go of it.
func (n *hostNode) use(t *testing.T, w provider.Want, seed uint64) (root string) {
	t.Helper()
	img, err := n.Ensure(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.wantTree(t, img, seed)
	img.Release()
	return img.Root
}

func (n *hostNode) holds(t *testing.T, root string) bool {
	t.Helper()
	held, _, err := n.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(held, func(h broker.ImageHeld) bool { return h.Root == root })
}

// What a broker knows of other hosts decides what goes, for as long as it holds; and a job's image has room all the same.
func TestAdviceDecidesWhatGoes(t *testing.T) {
	const other = broker.PeerID("other broker")
	for name, tc := range map[string]struct {
		advice func(root string) (a []broker.RootAdvice, from broker.PeerID, until time.Duration)
		stays  bool
	}{
		"none": {func(string) ([]broker.RootAdvice, broker.PeerID, time.Duration) { return nil, "", time.Hour }, false},
		"the last in its region": {func(root string) ([]broker.RootAdvice, broker.PeerID, time.Duration) {
			return []broker.RootAdvice{{Root: root, LastInRegion: true}}, "", time.Hour
		}, true},
		"a keeper": {func(root string) ([]broker.RootAdvice, broker.PeerID, time.Duration) {
			return []broker.RootAdvice{{Root: root, Replicas: 9, Keeper: true}}, "", time.Hour
		}, true},
		"another broker knows of replicas": {func(root string) ([]broker.RootAdvice, broker.PeerID, time.Duration) {
			return []broker.RootAdvice{{Root: root, Replicas: 9}}, other, time.Hour
		}, false},
		"advice of the past": {func(root string) ([]broker.RootAdvice, broker.PeerID, time.Duration) {
			return []broker.RootAdvice{{Root: root, LastInRegion: true}}, "", -time.Second
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := openShop(t), small(t)
			first := n.use(t, s.push(t, "app", someLayers(20)...), 20)
			advice, from, until := tc.advice(first)
			if from == other { // whose word takes the other's back
				n.Advise("", []broker.RootAdvice{{Root: first, LastInRegion: true}}, time.Now().Add(time.Hour))
			}
			n.Advise(from, advice, time.Now().Add(until))
			for seed := uint64(320); seed < 1300; seed += 300 {
				n.use(t, s.push(t, "app", someLayers(seed)...), seed)
			}
			if got := n.holds(t, first); got != tc.stays {
				t.Errorf("the image that was used least is here: %v, want %v", got, tc.stays)
			}
		})
	}
}

// A host whose images nobody near it has runs new ones nevertheless.
func TestTheLastInARegionDoNotKeepJobsOut(t *testing.T) {
	s, n := openShop(t), small(t)
	var advice []broker.RootAdvice
	for seed := uint64(20); seed < 1700; seed += 300 {
		root := n.use(t, s.push(t, "app", someLayers(seed)...), seed)
		advice = append(advice, broker.RootAdvice{Root: root, LastInRegion: true})
		n.Advise("", advice, time.Now().Add(time.Hour))
	}
}

// Images that nobody uses make room for others than images; the one that is used stays.
func TestYield(t *testing.T) {
	s, n := openShop(t), newHost(t, nil)
	if err := n.Yield(t.Context(), 1); err == nil {
		t.Error("a host without images has made room")
	}
	used := ensure(t, n, s.push(t, "app", someLayers(20)...))
	idle := []string{n.use(t, s.push(t, "app", someLayers(320)...), 320), n.use(t, s.push(t, "app", someLayers(620)...), 620)}
	n.awaitHeld(t, 3)
	before := n.store.Stats().Bytes
	if err := n.Yield(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if freed := before - n.store.Stats().Bytes; freed < 1<<20 || freed > 5<<20 || n.holds(t, idle[0]) || !n.holds(t, idle[1]) {
		t.Errorf("freed %d bytes, want one image of two", freed)
	}
	if err := n.Yield(t.Context(), 100<<20); err != nil {
		t.Fatal(err)
	}
	if n.holds(t, idle[1]) || !n.holds(t, used.Root) {
		t.Error("the image in use has gone, or the other one has not")
	}
	if err := n.Yield(t.Context(), 1); !errors.Is(err, blockstore.ErrNoSpace) {
		t.Errorf("when all is in use: %v, want ErrNoSpace", err)
	}
}
