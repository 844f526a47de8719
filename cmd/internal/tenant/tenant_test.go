package tenant_test

import (
	"strings"
	"testing"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/cmd/internal/tenant"
	"rialto/p2p/identity"
	"rialto/tunnel"
)

func newKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTunnelConfigBelievesOnlyTheProvider(t *testing.T) {
	provider, stranger := newKey(t), newKey(t)
	const job, lease = "j-aaaaaaaaaaaaaaaaaaaaaaaaaa", "l-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	key, err := tunnel.ParsePrivateKey("YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	if err != nil {
		t.Fatal(err)
	}
	answer := func(k identity.Key, job broker.JobID, endpoint string) []byte {
		b, err := wire.SealAnswer(k, broker.Answer{Lease: lease, Grant: &broker.Grant{
			Lease: lease, Job: job, GPUs: []broker.GPULease{{UUID: "SIM-1", Epoch: 1}},
			TunnelKey: [32]byte{9}, Endpoints: []string{endpoint},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name   string
		answer []byte
		want   string
	}{
		{"good", answer(provider, job, "192.0.2.1:51820"), ""},
		{"a stranger's", answer(stranger, job, "192.0.2.1:51820"), "signed by somebody else"},
		{"another job's", answer(provider, "j-bbbbbbbbbbbbbbbbbbbbbbbbbb", "192.0.2.1:51820"), "is not for job"},
		{"nothing", nil, "its answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := tenant.Lease{ID: lease, Job: job, Provider: broker.PeerID(provider.ID()), Host: "alpha", Answer: tt.answer}
			c, err := tenant.TunnelConfig(l, key)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err == nil && c.Endpoints[0].String() != "192.0.2.1:51820" {
				t.Errorf("endpoint: got %v", c.Endpoints)
			}
		})
	}
}
