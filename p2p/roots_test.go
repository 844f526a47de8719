package p2p_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	dht_pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

// member is a host with its part of the DHT.
type member struct {
	*p2p.Host
	*p2p.Roots

	stop func()
}

// join makes a host that takes part in the DHT.
func join(tb testing.TB, c p2p.RootsConfig) member {
	tb.Helper()
	h := p2ptest.New(tb, p2p.Config{Tell: true})
	c.Host = h
	r, err := p2p.NewRoots(c)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(stop)
	return member{h, r, stop}
}

// await waits until a host finds exactly these others.
func (m member) await(tb testing.TB, root p2p.Root, want ...member) {
	tb.Helper()
	var got []string
	wanted := make([]string, 0, len(want))
	for _, w := range want {
		wanted = append(wanted, string(w.ID()))
	}
	slices.Sort(wanted)
	for ctx := tb.Context(); ctx.Err() == nil; {
		got = got[:0]
		for _, p := range m.Find(ctx, root, 8) {
			if len(p.Addrs) == 0 {
				tb.Fatalf("provider %v without an address", p.ID)
			}
			got = append(got, string(p.ID))
		}
		if slices.Sort(got); slices.Equal(got, wanted) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatalf("found %v, want %v", got, wanted)
}

func rootOf(s string) p2p.Root { return sha256.Sum256([]byte(s)) }

// A broker joins hosts that know nobody else; when it is gone, they know each other.
func TestRoots(t *testing.T) {
	broker := join(t, p2p.RootsConfig{Passive: true})
	a, b, c := join(t, p2p.RootsConfig{}), join(t, p2p.RootsConfig{}), join(t, p2p.RootsConfig{})
	for _, m := range []member{a, b, c} {
		p2ptest.Connect(t, m.Host, broker.Host)
	}
	first := rootOf("first")
	a.Provide([]p2p.Root{first})
	c.await(t, first, a)
	a.await(t, first) // a host does not find itself
	b.Provide([]p2p.Root{rootOf("other"), first})
	c.await(t, first, a, b)

	began := time.Now()
	if got := c.Find(t.Context(), rootOf("unknown"), 8); len(got) != 0 {
		t.Errorf("found %v for a root that nobody has", got)
	}
	t.Logf("an unknown root: %v", time.Since(began))

	broker.stop()
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	c.await(t, first, a, b)
	last := rootOf("last")
	b.Provide([]p2p.Root{last})
	a.await(t, last, b)

	// What was found can be dialed.
	found := c.Find(t.Context(), last, 1)
	if len(found) != 1 {
		t.Fatalf("found %v, want one", found)
	}
	if id, err := join(t, p2p.RootsConfig{}).Connect(t.Context(), found[0].Addrs[0]+"/p2p/"+string(found[0].ID)); err != nil || id != b.ID() {
		t.Errorf("dialed %v, %v", id, err)
	}
}

// Whoever asks outside of Run, or alone, gets an answer at once.
func TestRootsAlone(t *testing.T) {
	h := p2ptest.New(t, p2p.Config{Tell: true})
	r, err := p2p.NewRoots(p2p.RootsConfig{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Find(t.Context(), rootOf("x"), 8); got != nil {
		t.Errorf("found %v before Run", got)
	}
	alone := join(t, p2p.RootsConfig{})
	alone.Provide([]p2p.Root{rootOf("x")})
	if got := alone.Find(t.Context(), rootOf("x"), 8); got != nil {
		t.Errorf("found %v alone", got)
	}
	if _, err := p2p.NewRoots(p2p.RootsConfig{Host: p2ptest.New(t, p2p.Config{})}); err == nil {
		t.Error("no error on a host that tells nobody where it is")
	}
}

// ask sends messages to the DHT on one stream and says whether the last one was answered.
func ask(t *testing.T, from, to *p2p.Host, messages ...*dht_pb.Message) bool {
	t.Helper()
	p, err := peer.Decode(string(to.ID()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := from.Libp2p().NewStream(t.Context(), p, p2p.ProtocolRoots)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	w := msgio.NewVarintWriter(s)
	for _, m := range messages {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteMsg(raw); err != nil {
			return false
		}
	}
	_, err = msgio.NewVarintReaderSize(s, network.MessageSizeMax).ReadMsg()
	return err == nil
}

// Records that are no root's, of another host, or of a kind that the DHT does not have, are refused.
func TestRootsRefuseGarbage(t *testing.T) {
	m := join(t, p2p.RootsConfig{})
	liar := p2ptest.New(t, p2p.Config{})
	p2ptest.Connect(t, liar, m.Host)
	root := rootOf("wanted")
	key := append([]byte{0x12, 0x20}, root[:]...)
	self, other := []byte(liar.Libp2p().ID()), []byte(join(t, p2p.RootsConfig{}).Libp2p().ID())
	addrs := [][]byte{liar.Libp2p().Network().ListenAddresses()[0].Bytes()}
	ping := &dht_pb.Message{Type: dht_pb.Message_PING}
	add := func(key, id []byte) *dht_pb.Message {
		return &dht_pb.Message{Type: dht_pb.Message_ADD_PROVIDER, Key: key, ProviderPeers: []*dht_pb.Message_Peer{{Id: id, Addrs: addrs}}}
	}
	for _, tc := range []struct {
		name string
		m    *dht_pb.Message
		want bool
	}{
		{"a ping", ping, true},
		{"another host", add(key, other), false},
		{"a key of another kind", add([]byte("a key"), self), false},
		{"a short key", add(key[:30], self), false},
		{"nobody", &dht_pb.Message{Type: dht_pb.Message_ADD_PROVIDER, Key: key}, false},
		{"a value", &dht_pb.Message{Type: dht_pb.Message_PUT_VALUE, Key: key}, false},
		{"a question for a value", &dht_pb.Message{Type: dht_pb.Message_GET_VALUE, Key: key}, false},
		{"an unknown kind", &dht_pb.Message{Type: 99, Key: key}, false},
		{"a long key", &dht_pb.Message{Type: dht_pb.Message_FIND_NODE, Key: make([]byte, 100)}, false},
	} {
		// Only a stream whose messages were all right goes on to answer the ping.
		if got := ask(t, liar, m.Host, tc.m, ping); got != tc.want {
			t.Errorf("%s: answered = %v, want %v", tc.name, got, tc.want)
		}
	}
	if got := m.Find(t.Context(), root, 8); len(got) != 0 {
		t.Errorf("found %v after nothing but garbage", got)
	}
	if !ask(t, liar, m.Host, add(key, self), ping) {
		t.Error("a good record was refused")
	}
	if got := m.Find(t.Context(), root, 8); len(got) != 1 || got[0].ID != liar.ID() {
		t.Errorf("found %v, want the host that said so", got)
	}
}

// A question's time, on hosts that have nothing else to do. Hosts refuse more than 20 questions a second.
func BenchmarkRootsFind(b *testing.B) {
	for _, size := range []int{3, 30} {
		b.Run(fmt.Sprintf("hosts=%d", size), func(b *testing.B) {
			broker := join(b, p2p.RootsConfig{Passive: true})
			var all []member
			for range size {
				m := join(b, p2p.RootsConfig{})
				p2ptest.Connect(b, m.Host, broker.Host)
				all = append(all, m)
			}
			root := rootOf("bench")
			all[0].Provide([]p2p.Root{root})
			asker := all[size-1]
			asker.await(b, root, all[0])
			find := func(b *testing.B, root func() p2p.Root) {
				b.Helper()
				var took []time.Duration
				for b.Loop() {
					time.Sleep(60 * time.Millisecond)
					next, began := root(), time.Now()
					asker.Find(b.Context(), next, 1)
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
				b.ReportMetric(float64(took[len(took)*9/10].Microseconds())/1000, "p90-ms")
			}
			b.Run("known", func(b *testing.B) { find(b, func() p2p.Root { return root }) })
			n := 0
			b.Run("unknown", func(b *testing.B) {
				find(b, func() p2p.Root { n++; return rootOf(fmt.Sprint(n)) })
			})
		})
	}
}
