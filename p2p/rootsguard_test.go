package p2p

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// record is an announcement of the root with a number.
func record(from peer.ID, n int) *dht_pb.Message {
	key := make([]byte, 34)
	key[0], key[1] = 0x12, 0x20
	binary.BigEndian.PutUint64(key[2:], uint64(n))
	return &dht_pb.Message{
		Type: dht_pb.Message_ADD_PROVIDER, Key: key,
		ProviderPeers: []*dht_pb.Message_Peer{{Id: []byte("other")}, {Id: []byte(from), Addrs: make([][]byte, 50)}},
	}
}

func TestGuardBoundsRecords(t *testing.T) {
	g := newGuard()
	now := time.Unix(1000, 0)
	for n := range rootsPerPeer {
		m := record("a", n)
		if !g.allow("a", m, now) {
			t.Fatalf("record %d was refused", n)
		}
		if len(m.ProviderPeers) != 1 || string(m.ProviderPeers[0].Id) != "a" || len(m.ProviderPeers[0].Addrs) != maxAddrs {
			t.Fatalf("an announcement kept %v", m.ProviderPeers)
		}
		now = now.Add(time.Second / asksPerSecond)
	}
	if g.allow("a", record("a", rootsPerPeer), now) {
		t.Error("a host may announce more than its share")
	}
	now = now.Add(time.Second)
	if !g.allow("a", record("a", 0), now) {
		t.Error("a record may not be renewed")
	}
	if g.records != rootsPerPeer {
		t.Errorf("%d records, want %d", g.records, rootsPerPeer)
	}
	g.records = maxRecords
	if g.allow("b", record("b", 0), now) {
		t.Error("more records than all may have")
	}
	g.records = rootsPerPeer
	g.sweep(now.Add(recordLife))
	if g.records != rootsPerPeer {
		t.Errorf("%d records while they count, want %d", g.records, rootsPerPeer)
	}
	g.sweep(now.Add(2 * recordLife))
	if g.records != 0 || len(g.peers) != 0 {
		t.Errorf("%d records of %d peers are left", g.records, len(g.peers))
	}
}

func TestGuardBoundsQuestions(t *testing.T) {
	g := newGuard()
	now := time.Unix(1000, 0)
	ping := &dht_pb.Message{Type: dht_pb.Message_PING}
	allowed := 0
	for range 10 * asksAtOnce {
		if g.allow("a", ping, now) {
			allowed++
		}
	}
	if allowed != asksAtOnce {
		t.Errorf("%d questions at once, want %d", allowed, asksAtOnce)
	}
	if !g.allow("b", ping, now) {
		t.Error("one host's flood is held against another")
	}
	if now = now.Add(time.Second); !g.allow("a", ping, now) {
		t.Error("a host that has waited is refused")
	}
	g.sweep(now)
	if _, known := g.peers["a"]; !known || len(g.peers) != 1 {
		t.Errorf("%d peers are remembered, want the one that may not ask as much as others yet", len(g.peers))
	}
}

// stream is one of peer "a" that counts its resets; conn is its connection.
type (
	stream struct {
		network.Stream

		resets int
	}
	conn struct{ network.Conn }
)

func (s *stream) Conn() network.Conn { return conn{} }
func (s *stream) Reset() error       { s.resets++; return nil }
func (conn) RemotePeer() peer.ID     { return "a" }

// What is refused is emptied, for the DHT handles it all the same.
func TestGuardEmptiesWhatItRefuses(t *testing.T) {
	g, s := newGuard(), new(stream)
	good, bad := record("a", 1), record("a", 2)
	bad.Key = []byte("no root")
	g.admit(t.Context(), s, good)
	if s.resets != 0 || len(good.GetKey()) == 0 || len(good.GetProviderPeers()) != 1 {
		t.Errorf("a good record became %v", good)
	}
	g.admit(t.Context(), s, bad)
	if s.resets != 1 || len(bad.GetKey()) != 0 || len(bad.GetProviderPeers()) != 0 {
		t.Errorf("after %d resets a bad record is %v", s.resets, bad)
	}
}

// Whatever a peer sends, what is let through is a question, or says something about its sender alone.
func FuzzGuard(f *testing.F) {
	for _, m := range []*dht_pb.Message{record("a", 1), {Type: dht_pb.Message_PING}, {Type: dht_pb.Message_FIND_NODE, Key: []byte("x")}} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(dht_pb.Message)
		if proto.Unmarshal(raw, m) != nil || !newGuard().allow("a", m, time.Unix(1000, 0)) {
			return
		}
		switch m.GetType() {
		case dht_pb.Message_PING:
		case dht_pb.Message_FIND_NODE:
			if len(m.GetKey()) > maxKey {
				t.Errorf("a key of %d bytes", len(m.GetKey()))
			}
		case dht_pb.Message_ADD_PROVIDER:
			if p := m.GetProviderPeers(); len(p) != 1 || string(p[0].GetId()) != "a" || len(p[0].GetAddrs()) > maxAddrs {
				t.Errorf("an announcement of %v", p)
			}
			fallthrough
		case dht_pb.Message_GET_PROVIDERS:
			if len(m.GetKey()) != 34 {
				t.Errorf("a key of %d bytes", len(m.GetKey()))
			}
		default:
			t.Errorf("let through %v", m.GetType())
		}
	})
}
