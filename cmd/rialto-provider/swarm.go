package main

import (
	"fmt"
	"io"
	"time"

	"rialto/blockstore/exchange"
	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/provider/agent"
)

// accuse tells brokers of a wrong block. Bytes whose hash nobody knows prove nothing.
func accuse(a *agent.Agent, p exchange.Poison) {
	if p.Got.IsZero() {
		return
	}
	r := broker.PoisonReport{Accused: broker.PeerID(p.Peer), Got: p.Got.Digest().String(), Size: int64(p.Size), Time: time.Now().Round(0).UTC()}
	if !p.Want.IsZero() {
		r.Want = p.Want.String()
	}
	a.Accuse(r)
}

// traffic joins what peers served us with what we served them.
func traffic(s exchange.Stats) []agent.PeerTraffic {
	by := make(map[string]agent.PeerTraffic, len(s.Fetched)+len(s.Peers))
	for p, n := range s.Fetched {
		by[p] = agent.PeerTraffic{Peer: broker.PeerID(p), Fetched: n.Bytes}
	}
	for p, n := range s.Peers {
		t := by[p]
		t.Peer, t.Served = broker.PeerID(p), n.Bytes
		by[p] = t
	}
	all := make([]agent.PeerTraffic, 0, len(by))
	for _, t := range by {
		all = append(all, t)
	}
	return all
}

// shownPeers is how many peers a status lists for people; --json has more.
const shownPeers = 10

func writePeers(w io.Writer, s agent.Status) error {
	t := cli.Table{Columns: []cli.Column{{Title: "PEER"}, {Title: "FETCHED FROM", Align: cli.Right}, {Title: "SERVED TO", Align: cli.Right}}}
	for _, p := range s.Peers[:min(len(s.Peers), shownPeers)] {
		t.Add(cli.Clean(string(p.Peer)), cli.FormatBytes(p.Fetched), cli.FormatBytes(p.Served))
	}
	if err := t.Write(w); err != nil {
		return err
	}
	if more := len(s.Peers) - shownPeers; more > 0 {
		fmt.Fprintf(w, "and %d more with --json\n", more)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// writeAccused says what brokers heard of this host.
func writeAccused(w io.Writer, s agent.Status) {
	for _, b := range s.Brokers {
		if b.Accusers == 0 {
			continue
		}
		hosts, named := "1 host says", ""
		if b.Accusers > 1 {
			hosts = fmt.Sprintf("%d hosts say", b.Accusers)
		}
		if !b.DistrustedUntil.IsZero() {
			named = fmt.Sprintf(", and the broker names it as no source of blocks until %s", b.DistrustedUntil.Local().Format(time.DateTime))
		}
		line := fmt.Sprintf("%s that this one sent wrong blocks%s: check its memory and its disk", hosts, named)
		fmt.Fprintln(w, cli.Paint(w, cli.Bad, line))
	}
}
