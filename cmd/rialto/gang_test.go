package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

// Lines of nodes do not mix, and the last one needs no end.
func TestNodesWriteWholeLines(t *testing.T) {
	var out bytes.Buffer
	apps, flush := (&app{stdout: &out, stderr: &out}).nodes(2)
	fmt.Fprint(apps[0].stdout, "one\nt")
	fmt.Fprint(apps[1].stdout, "un")
	fmt.Fprint(apps[0].stdout, "wo\n")
	fmt.Fprint(apps[0].stderr, "error\n")
	flush()
	if got, want := out.String(), "[0] one\n[0] two\n[0] error\n[1] un\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	fmt.Fprint(apps[1].stdout, strings.Repeat("x", 3*longestLine))
	if out.Len() < 2*longestLine {
		t.Errorf("%d bytes of an endless line came through", out.Len())
	}
}

// The money for a gang is enough for the hosts that the market would choose, whatever region it takes.
func TestDearestOfHosts(t *testing.T) {
	offer := func(host, region string, cents int64) api.Offer {
		return api.Offer{Provider: host, Region: region, RateNanoUSDPerHour: cents * int64(pricing.USD) / 100}
	}
	offers := []api.Offer{offer("a", "DE", 10), offer("a", "DE", 12), offer("b", "FR", 20), offer("c", "", 25), offer("d", "FR", 30), offer("e", "DE", 40)}
	for _, x := range []struct {
		nodes int
		same  bool
		want  int64 // cents; zero: there are too few
	}{{2, false, 20}, {3, false, 25}, {5, false, 40}, {6, false, 0}, {2, true, 40}, {3, true, 0}} {
		r := &request{nodes: x.nodes, sameRegion: x.same, gpu: broker.GPURequest{Count: 1}, duration: time.Hour}
		hosts := r.apart(offers)
		got, err := r.dearestHost(hosts)
		if want := pricing.Money(x.want*int64(x.nodes)) * pricing.USD / 100; err != nil || len(hosts) > 0 != (x.want > 0) || got != want {
			t.Errorf("%+v: got %v of %d hosts, %v; want %v", x, got, len(hosts), err, want)
		}
	}
	// The dearest is who asks the most with disk and traffic.
	beside := offer("b", "FR", 10)
	beside.DiskNanoUSDPerGiBHour, beside.EgressNanoUSDPerGB = 1_000_000, 5_000_000
	r := &request{nodes: 2, gpu: broker.GPURequest{Count: 1}, duration: time.Hour, diskMiB: 100 << 10, traffic: 2e9}
	if got, err := r.dearestHost([]api.Offer{offer("a", "DE", 20), beside}); err != nil || got != 2*(100+100+10)*pricing.USD/1000 {
		t.Errorf("with disk and traffic: got %v, %v", got, err)
	}
}

func TestGrouped(t *testing.T) {
	var got []string
	for _, j := range grouped([]api.Job{{ID: "z"}, {ID: "g2", Gang: "g", Rank: 2}, {ID: "g1", Gang: "g", Rank: 1}, {ID: "g", Gang: "g"}, {ID: "a"}}) {
		got = append(got, j.ID)
	}
	if want := "z g g1 g2 a"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
