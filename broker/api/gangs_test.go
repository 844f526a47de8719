package api_test

import (
	"testing"

	"rialto/broker"
	"rialto/pricing"
)

// A gang is found by any of its nodes, and says what all of them hold.
func TestGang(t *testing.T) {
	g, err := client(t, start(t, &market{}, nil), ownerToken).Gang(t.Context(), broker.MemberID("g-1", 1))
	if err != nil || g.ID != "g-1" || g.State != "ready" || g.Started == nil || g.HeldNanoUSD != int64(2*pricing.USD) {
		t.Fatalf("%+v: %v", g, err)
	}
	if len(g.Nodes) != 2 || g.Nodes[0].ID != "g-1" || g.Nodes[1].Rank != 1 || g.Nodes[1].Gang != "g-1" || g.Nodes[1].Nodes != 2 {
		t.Errorf("nodes: %+v", g.Nodes)
	}
}
