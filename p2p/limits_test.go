package p2p_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"rialto/p2p"
	"rialto/p2p/p2ptest"
)

// Loopback is exempt from the limits per address, so tests there cannot see them: this one runs in a network namespace
// of its own, where every connection comes from one routed address.
func TestManyFromOneAddress(t *testing.T) {
	const inside = "RIALTO_TEST_NETNS"
	if os.Getenv(inside) != "" {
		manyFromOneAddress(t)
		return
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs Linux and root, for a network namespace")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestManyFromOneAddress$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	inNewNetns(cmd) // which ends with the process, with all that is in it
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

func manyFromOneAddress(t *testing.T) {
	t.Helper()
	const address = "10.99.0.1"
	addAddress(t, address)
	listen := []string{"/ip4/" + address + "/tcp/0"}
	connected := func(l p2p.Limits, clients int) (n int) {
		server := p2ptest.New(t, p2p.Config{Listen: listen, Limits: l})
		handleEcho(server)
		for range clients {
			client := p2ptest.New(t, p2p.Config{Listen: listen})
			if _, err := client.Connect(t.Context(), server.Addrs()[0]); err != nil {
				continue
			}
			if _, err := client.Request(t.Context(), server.ID(), echo, nil); err == nil {
				n++
			}
		}
		return n
	}
	for name, l := range map[string]p2p.Limits{"broker": p2p.BrokerLimits(), "provider": p2p.ProviderLimits()} {
		if n := connected(l, 30); n != 30 {
			t.Errorf("%s: %d of 30 clients behind one address connected", name, n)
		}
	}
	few := p2p.BrokerLimits()
	few.ConnsPerIP = 3
	if n := connected(few, 5); n != 3 {
		t.Errorf("%d of 5 clients connected, want the 3 that are allowed", n)
	}
	slow := p2p.BrokerLimits()
	slow.NewPerIP, slow.BurstPerIP = 1e-6, 4
	if n := connected(slow, 6); n != 4 {
		t.Errorf("%d of 6 clients connected, want the first 4", n)
	}
}
