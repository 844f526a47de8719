package broker

import "time"

// Accused is a peer that providers say sent them wrong blocks.
type Accused struct {
	Peer        PeerID
	Accusers    int       // that count now
	Until       time.Time // not named as a source of blocks until then; zero: it is
	Accusations []Accusation
}

// Accusation is the last word of one provider against one peer.
type Accusation struct {
	Accuser PeerID
	Lease   LeaseID // empty: none
	Want    string  // CID; empty: not known
	Got     string  // digest of what came
	Size    int64   // bytes of what came
	At      time.Time
	Times   int  // that it said so
	Counts  bool // the lease's hold named the peer as a source
}
