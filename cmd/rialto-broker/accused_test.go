package main

import (
	"strings"
	"testing"
	"time"

	"rialto/broker/api"
)

func TestAccusedAreShown(t *testing.T) {
	until := time.Date(2026, 11, 23, 19, 0, 0, 0, time.Local)
	var out strings.Builder
	err := writeAccused(&out, []api.Accused{
		{Peer: "bad", Accusers: 2, DistrustedUntil: &until, Accusations: []api.Accusation{{Accuser: "a", Lease: "l-1", Times: 3, Counts: true}}},
		{Peer: "other", Accusations: []api.Accusation{{Accuser: "b", Times: 1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bad", "not until 2026-11-23 19:00:00", "l-1", "other"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, out.String())
		}
	}
}
