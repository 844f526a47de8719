// Package tenant is what a customer does beside talking to the broker: he asks a registry what an image's name means
// before he signs it, and opens the tunnel to a job from the answer that its provider signed. `rialto` does it for a
// person, rialto-broker for the accounts whose key it holds.
package tenant

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/tunnel"
	"rialto/tunnel/client"
)

// Resolve asks the registry which digest a reference means, so that nobody can change what runs between now and then.
// Providers fetch anonymously, so the registry should ask anonymously too.
func Resolve(ctx context.Context, registry image.Registry, reference string) (blockstore.Digest, error) {
	digest, err := registry.Resolve(ctx, reference)
	if errors.Is(err, image.ErrNoImage) {
		return digest, cli.Hint(registryAnswer(reference, err), "check the name and the tag; hosts fetch without your password: `docker save` such an image and `rialto image add --private` it")
	}
	if unreachable, ok := errors.AsType[*net.OpError](err); ok {
		return digest, cli.Hint(fmt.Errorf("image %s: its registry cannot be reached: %w", cli.Clean(reference), unreachable), "check the name of the registry, and your network")
	}
	return digest, err
}

// registryAnswer says what a registry without the image answered, in its own words but not all of them.
func registryAnswer(reference string, err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok || len(answer.Errors) == 0 {
		return err
	}
	text := cmp.Or(answer.Errors[0].Message, string(answer.Errors[0].Code))
	return fmt.Errorf("image %s: its registry does not have it: %s", cli.Clean(reference), cli.Clean(text))
}

// Lease is what a customer is told about the lease of his job.
type Lease struct {
	ID       broker.LeaseID
	Job      broker.JobID
	Provider broker.PeerID
	Host     string
	Answer   []byte // the provider's signed answer
}

// TunnelConfig builds the customer's end of a lease's tunnel from the grant, after checking that the provider which
// the lease names signed it for this very job. The key is the one whose public half the job's spec names.
func TunnelConfig(l Lease, key tunnel.PrivateKey) (client.Config, error) {
	host := HostName(l.Host, string(l.Provider))
	answer, signer, err := wire.OpenAnswer(l.Answer)
	if err != nil {
		return client.Config{}, fmt.Errorf("provider %s: its answer: %w", host, err)
	}
	g := answer.Grant
	switch {
	case signer != l.Provider:
		return client.Config{}, fmt.Errorf("provider %s: its answer is signed by somebody else, %s", host, signer)
	case g == nil || g.Lease != l.ID || g.Job != l.Job:
		return client.Config{}, fmt.Errorf("provider %s: its answer is not for job %s", host, l.Job)
	}
	plan := tunnel.NewPlan(string(l.ID))
	c := client.Config{Tunnel: tunnel.Config{
		PrivateKey: key, Address: plan.Customer,
		Peer: tunnel.Peer{PublicKey: g.TunnelKey, Address: plan.Job, Keepalive: tunnel.Keepalive},
	}}
	for _, text := range g.Endpoints {
		endpoint, err := tunnel.ParseEndpoint(text)
		if err != nil {
			return client.Config{}, fmt.Errorf("provider %s: %w", host, err)
		}
		c.Endpoints = append(c.Endpoints, endpoint)
	}
	if len(c.Endpoints) == 0 {
		return client.Config{}, fmt.Errorf("provider %s: it gave no endpoint", host)
	}
	c.Tunnel.Peer.Endpoint = c.Endpoints[0]
	return c, nil
}

// HostName names a provider for people: the name that its owner chose, and the end of its id, which nobody chose.
func HostName(host, provider string) string {
	host = cli.Clean(host)
	if len(provider) <= 8 {
		return cmp.Or(host, provider)
	}
	return strings.TrimSpace(host + " …" + provider[len(provider)-8:])
}
