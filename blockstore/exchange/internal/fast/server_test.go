package fast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/wire"
	"rialto/blockstore/storetest"
	"rialto/p2p/p2ptest"
)

// serve returns a host that is connected to a server, and the server's name.
func serve(t *testing.T, s *Server) (host.Host, peer.ID) {
	t.Helper()
	a, b := p2ptest.Pair(t)
	if s.Store == nil {
		s.Store = new(blockstore.Memory)
	}
	s.Logger = slog.New(slog.DiscardHandler)
	if s.Sent == nil {
		s.Sent = func(peer.ID, int) {}
	}
	b.Libp2p().SetStreamHandler(Protocol, func(stream network.Stream) { s.Handle(context.Background(), stream) })
	t.Cleanup(s.Close)
	return a.Libp2p(), b.Libp2p().ID()
}

func raw(t *testing.T, h host.Host, p peer.ID) network.Stream {
	t.Helper()
	stream, err := h.NewStream(t.Context(), p, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Reset() })
	return stream
}

func blocks(t *testing.T, s blockstore.Store, n, size int) []blockstore.CID {
	t.Helper()
	var cids []blockstore.CID
	for i := range n {
		b := storetest.Block(t, fmt.Sprint("block", i), size)
		if s != nil {
			if err := s.Put(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		cids = append(cids, b.CID())
	}
	return cids
}

func began() error { return nil }

// The conversation byte by byte.
func TestConversation(t *testing.T) {
	store := new(blockstore.Memory)
	h, p := serve(t, &Server{Store: store})
	here := blocks(t, store, 2, 1000)
	absent := blockstore.Sum([]byte("absent"))
	stream := raw(t, h, p)
	var in []byte
	in = wire.AppendAsk(in, wire.Have, []blockstore.CID{absent, here[0], here[1]})
	in = wire.AppendAsk(in, wire.Want, []blockstore.CID{here[1], absent, here[0]})
	if _, err := stream.Write(in); err != nil {
		t.Fatal(err)
	}
	stream.CloseWrite()
	got, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	want = append(want, 5, 0, 0, 0, 3, 0b0110_0000)
	want = append(want, 1, 0, 0, 0x03, 0xe8)
	want = append(want, storetest.Block(t, "block1", 1000).Data()...)
	want = append(want, 2, 0, 0, 0, 0)
	want = append(want, 1, 0, 0, 0x03, 0xe8)
	want = append(want, storetest.Block(t, "block0", 1000).Data()...)
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that begin with %x, want %d", len(got), got[:min(len(got), 11)], len(want))
	}
}

// ended waits until the server has ended the stream.
func ended(t *testing.T, stream network.Stream) {
	t.Helper()
	stream.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := io.Copy(io.Discard, stream); err == nil || timeout(err) {
		t.Errorf("the stream goes on after %d bytes: %v", n, err)
	}
}

func TestServerEndsStreams(t *testing.T) {
	name := []blockstore.CID{{1}}
	tests := []struct {
		name string
		in   func(s *Server) []byte
	}{
		{"unknown type", func(*Server) []byte { return wire.AppendAsk(nil, 9, name) }},
		{"no names", func(*Server) []byte { return wire.AppendAsk(nil, wire.Want, nil) }},
		{"slowly", func(s *Server) []byte { s.idle, s.frame = time.Minute, 50*time.Millisecond; return []byte{1, 0} }},
		{"silently", func(s *Server) []byte { s.idle, s.frame = 50*time.Millisecond, time.Minute; return nil }},
		{"busily", func(s *Server) []byte { // nobody reads the answers
			s.idle, s.frame = time.Minute, time.Minute
			var in []byte
			for range 5 {
				in = wire.AppendAsk(in, wire.Want, slices.Repeat(blocks(t, s.Store, 1, blockstore.MaxBlock), wire.MaxNames))
			}
			return in
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := &Server{Store: new(blockstore.Memory)}
			in := tc.in(s)
			h, p := serve(t, s)
			stream := raw(t, h, p)
			if _, err := stream.Write(in); err != nil {
				t.Fatal(err)
			}
			ended(t, stream)
		})
	}
}

// A client that takes nothing loses its stream, and not before the time that the slowest line needs.
func TestServerEndsAStuckClient(t *testing.T) {
	store := new(blockstore.Memory)
	cids := blocks(t, store, 256, 60_000) // in all more than any window
	ended := make(chan error, 1)
	s := &Server{Store: store, idle: time.Minute, frame: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler), Sent: func(peer.ID, int) {}}
	a, b := p2ptest.Pair(t)
	b.Libp2p().SetStreamHandler(Protocol, func(stream network.Stream) {
		s.Handle(context.Background(), stream)
		ended <- nil
	})
	stream := raw(t, a.Libp2p(), b.Libp2p().ID())
	if _, err := stream.Write(wire.AppendAsk(nil, wire.Want, cids)); err != nil {
		t.Fatal(err)
	}
	<-ended
	s.Close()
}

func TestServerBoundsStreams(t *testing.T) {
	h, p := serve(t, &Server{})
	for range MaxStreams {
		stream := raw(t, h, p)
		stream.Write(wire.AppendAsk(nil, wire.Have, []blockstore.CID{{1}}))
		if _, err := wire.ReadAnswer(stream, began); err != nil {
			t.Fatal(err)
		}
	}
	stream := raw(t, h, p)
	stream.Write(wire.AppendAsk(nil, wire.Have, []blockstore.CID{{1}}))
	ended(t, stream)
}

func TestCancel(t *testing.T) {
	store := new(blockstore.Memory)
	cids := blocks(t, store, 200, 100_000)
	var sent atomic.Int64
	h, p := serve(t, &Server{Store: store, Sent: func(peer.ID, int) { sent.Add(1) }})
	stream := raw(t, h, p)
	in := wire.AppendAsk(nil, wire.Want, cids)
	in = wire.AppendAsk(in, wire.Cancel, cids[1:]) // comes along, long before 20 MB went out
	stream.Write(in)
	kinds := make(map[wire.AnswerType]int)
	for range cids {
		a, err := wire.ReadAnswer(stream, began)
		if err != nil {
			t.Fatal(err)
		}
		io.CopyN(io.Discard, stream, int64(a.Follow()))
		kinds[a.Type]++
	}
	if kinds[wire.Data]+kinds[wire.Cancelled] != len(cids) || kinds[wire.Cancelled] < len(cids)/2 || int64(kinds[wire.Data]) != sent.Load() {
		t.Errorf("answers by type: %v, %d sent", kinds, sent.Load())
	}
}

// TestMove moves blocks that wait on one stream to another: each is sent once, on the other stream if it was not sent
// before, and both streams answer for it.
func TestMove(t *testing.T) {
	const n = 100
	store := new(blockstore.Memory)
	cids := blocks(t, store, n, 100_000)
	var sent atomic.Int64
	h, p := serve(t, &Server{Store: store, Sent: func(peer.ID, int) { sent.Add(1) }})
	bulk, urgent := raw(t, h, p), raw(t, h, p)
	var came [n]int
	read := func(stream network.Stream, i int) (data bool) {
		t.Helper()
		a, err := wire.ReadAnswer(stream, began)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, a.Follow())
		if _, err := io.ReadFull(stream, body); err != nil {
			t.Fatal(err)
		}
		if a.Type == wire.Data && blockstore.Sum(body) == cids[i] {
			came[i]++
		} else if a.Type != wire.Cancelled {
			t.Errorf("block %d: an answer of type %d", i, a.Type)
		}
		return a.Type == wire.Data
	}
	bulk.Write(wire.AppendAsk(nil, wire.Want, cids))
	read(bulk, 0) // so that all are asked for
	last := slices.Clone(cids[n-1:])
	urgent.Write(wire.AppendAsk(nil, wire.Move, append(last, cids[0], blockstore.CID{7})))
	if !read(urgent, n-1) {
		t.Error("the last of 10 MB was not moved")
	}
	if read(urgent, 0) {
		t.Error("a block that had come was moved")
	}
	if read(urgent, 0) {
		t.Error("a block that nobody asked for was moved")
	}
	for i := 1; i < n; i++ {
		read(bulk, i)
	}
	for i, times := range came {
		if times != 1 {
			t.Errorf("block %d came %d times", i, times)
		}
	}
	if got := sent.Load(); got != n {
		t.Errorf("%d blocks were sent, want %d", got, n)
	}
}

// lane opens one to a server that is a function.
func lane(t *testing.T, server func(network.Stream)) *Lane {
	t.Helper()
	a, b := p2ptest.Pair(t)
	b.Libp2p().SetStreamHandler(Protocol, server)
	l, err := Open(t.Context(), a.Libp2p(), b.Libp2p().ID())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLane(t *testing.T) {
	store := new(blockstore.Memory)
	cids := blocks(t, store, 3, 5000)
	h, p := serve(t, &Server{Store: store})
	l, err := Open(t.Context(), h, p)
	if err != nil {
		t.Fatal(err)
	}
	absent := blockstore.Sum([]byte("absent"))
	l.Have([]blockstore.CID{cids[0], absent})
	l.Want(cids[0])
	l.Want(absent)
	l.Want(cids[2])
	ctx, stop := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	var got []wire.AnswerType
	err = l.Run(ctx, func(r Reply) {
		switch {
		case r.Type == wire.Map && (!r.Bits.Has(0) || r.Bits.Has(1)):
			t.Errorf("map = %x", r.Bits)
		case r.Type == wire.Data && blockstore.Sum(r.Data) != r.CID:
			t.Error("other bytes than those asked for")
		}
		if got = append(got, r.Type); len(got) == 4 {
			stop(enough)
		}
	})
	if want := []wire.AnswerType{wire.Map, wire.Data, wire.Absent, wire.Data}; !errors.Is(err, enough) || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestLaneEnds(t *testing.T) {
	tests := []struct {
		name string
		out  []byte
		want error
	}{
		{"unknown type", []byte{9, 0, 0, 0, 0}, ErrProtocol},
		{"too long", []byte{1, 0, 0x10, 0, 1}, ErrProtocol},
		{"a map for a block", []byte{5, 0, 0, 0, 1, 0x80}, ErrProtocol},
		{"cut", []byte{1, 0, 0, 0, 9, 1}, io.ErrUnexpectedEOF},
		{"more than was asked", []byte{2, 0, 0, 0, 0, 2, 0, 0, 0, 0}, ErrProtocol},
		{"nothing", nil, io.ErrUnexpectedEOF},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			l := lane(t, func(s network.Stream) {
				if _, err := wire.ReadAsk(s, began); err != nil {
					t.Error(err)
				}
				s.Write(tc.out)
				s.Close()
			})
			l.Want(blockstore.CID{1})
			if err := l.Run(t.Context(), func(Reply) {}); !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	a, b := p2ptest.Pair(t)
	if _, err := Open(t.Context(), a.Libp2p(), b.Libp2p().ID()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error = %v", err)
	}
}
