package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/broker/service"
	"rialto/broker/vast"
	"rialto/broker/wire"
	"rialto/cmd/internal/tenant"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
	"rialto/tunnel/client"
	"rialto/tunnel/console"
)

const (
	// maxLinks bounds the tunnels that are open at once; each has a network stack of its own.
	maxLinks = 64
	// resolvePatience is how long a registry may take to say what an image is.
	resolvePatience = 30 * time.Second
)

// custodian does for custodial accounts what `rialto` does on a customer's machine, and on the same way: it signs a spec,
// submits it, verifies the provider's grant, and reaches into the job through its tunnel. It keeps nothing: the account's
// key is derived from the broker's, and a job's tunnel key from the account's and the nonce of the job's spec.
type custodian struct {
	market   *service.Service
	self     broker.PeerID
	registry image.Registry

	mu    sync.Mutex
	links map[broker.LeaseID]*link
}

// link is the customer's end of one job's tunnel. A WireGuard key has one end at a time, so that all who reach into a job
// at once share it; with the last of them it is closed.
type link struct {
	users int // guarded by the custodian's mu
	once  sync.Once
	end   *client.Client
	err   error
}

var _ vast.Custodian = (*custodian)(nil)

// newCustodian returns a custodian that asks registries like a provider does. The caller closes it when nobody uses it
// any more.
func newCustodian(market *service.Service, key identity.Key, registry image.Registry) *custodian {
	return &custodian{market: market, self: broker.PeerID(key.ID()), registry: registry, links: map[broker.LeaseID]*link{}}
}

// Close drops idle connections.
func (c *custodian) Close() error {
	(&http.Client{Transport: c.registry.Transport}).CloseIdleConnections()
	return nil
}

// Start implements vast.Custodian.
func (c *custodian) Start(ctx context.Context, o vast.Order) (broker.Job, error) {
	key, err := c.market.Custody(ctx, o.Account)
	if err != nil {
		return broker.Job{}, err
	}
	spec := o.Spec
	if err := c.resolve(ctx, &spec, o.Append); err != nil {
		return broker.Job{}, err
	}
	spec.Customer, spec.Broker, spec.Created, spec.Nonce = broker.PeerID(key.ID()), c.self, time.Now().UTC(), rand.Text()
	private, err := tunnelKey(key, spec.Nonce)
	if err != nil {
		return broker.Job{}, err
	}
	if spec.TunnelKey, err = private.Public(); err != nil {
		return broker.Job{}, err
	}
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		return broker.Job{}, err
	}
	return c.market.SubmitTagged(ctx, o.Account, "custodian "+spec.Nonce, envelope, o.Tag)
}

// Bid implements vast.Custodian. What the job costs at most stays, so that at a higher price it runs for less.
func (c *custodian) Bid(ctx context.Context, j broker.Job, bid pricing.Rate) (broker.Job, error) {
	key, err := c.market.Custody(ctx, j.Account)
	if err != nil {
		return broker.Job{}, err
	}
	envelope, err := wire.SealBidChange(key, broker.BidChange{
		Customer: j.Spec.Customer, Broker: j.Spec.Broker, Nonce: j.Spec.Nonce, Bid: bid, MaxCost: j.Spec.MaxCost, Created: time.Now().UTC(),
	})
	if err != nil {
		return broker.Job{}, err
	}
	return c.market.ChangeBid(ctx, j.Account, j.ID, envelope)
}

// resolve fills in what an image's name means now, and puts the command behind the image's entrypoint if that is wanted.
func (c *custodian) resolve(ctx context.Context, spec *broker.JobSpec, behind bool) error {
	if broker.IsLocalImage(spec.Image) {
		return &broker.FieldError{Field: "image", Problem: spec.Image + ": images of a customer's own machine need an account with a key of his own"}
	}
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	digest, err := tenant.Resolve(ctx, c.registry, spec.Image)
	if err != nil {
		return &broker.FieldError{Field: "image", Problem: err.Error()}
	}
	spec.Digest = digest.String()
	if behind {
		entrypoint, err := c.entrypoint(ctx, spec.Image, digest)
		if err != nil {
			return &broker.FieldError{Field: "image", Problem: err.Error()}
		}
		spec.Command = append(entrypoint, spec.Command...)
	}
	if known, err := c.market.Image(ctx, spec.Digest); err == nil && known.State == broker.BuildReady {
		spec.Root = known.Root
	}
	return nil
}

func (c *custodian) entrypoint(ctx context.Context, name string, digest blockstore.Digest) ([]string, error) {
	source, err := c.registry.Open(ctx, name, digest)
	if err != nil {
		return nil, err
	}
	config, err := source.Config()
	return config.Entrypoint, err
}

// tunnelKey is the customer's end of the tunnel to the job whose spec has a nonce.
func tunnelKey(key identity.Key, nonce string) (tunnel.PrivateKey, error) {
	secret, err := key.Secret("rialto custodial tunnel 1\x00" + nonce)
	return tunnel.PrivateKey(secret), err
}

// Logs implements vast.Custodian.
func (c *custodian) Logs(ctx context.Context, account broker.AccountID, id broker.JobID, sink func([]byte) error) error {
	return c.reach(ctx, account, id, func(end *console.Client) error {
		_, _, err := end.Logs(ctx, false, func(_ byte, p []byte) error { return sink(p) })
		return err
	})
}

// Exec implements vast.Custodian.
func (c *custodian) Exec(ctx context.Context, account broker.AccountID, id broker.JobID, args []string, sink func([]byte) error) (code int, err error) {
	out := writer(sink)
	err = c.reach(ctx, account, id, func(end *console.Client) error {
		code, err = end.Exec(ctx, console.Exec{Args: args, Stdout: out, Stderr: out})
		return err
	})
	return code, err
}

// writer makes an io.Writer of a sink. A console calls it from one goroutine.
type writer func([]byte) error

func (w writer) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// reach calls do with the console of a job.
func (c *custodian) reach(ctx context.Context, account broker.AccountID, id broker.JobID, do func(*console.Client) error) error {
	lease, config, err := c.config(ctx, account, id)
	if err != nil {
		return err
	}
	l, err := c.borrow(lease)
	if err != nil {
		return err
	}
	l.once.Do(func() { l.end, l.err = client.Open(config) }) //nolint:contextcheck // others share the tunnel
	if l.err != nil {
		return errors.Join(l.err, c.giveBack(lease, l))
	}
	err = do(console.NewClient(l.end.DialContext, config.Tunnel.Peer.Address))
	return cmp.Or(err, c.giveBack(lease, l))
}

// config is the customer's end of the tunnel of a job's lease, from the grant that its provider signed.
func (c *custodian) config(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.LeaseID, client.Config, error) {
	key, err := c.market.Custody(ctx, account)
	if err != nil {
		return "", client.Config{}, err
	}
	job, err := c.market.Job(ctx, account, id)
	if err != nil {
		return "", client.Config{}, err
	}
	l, err := c.market.Lease(ctx, account, id)
	if err != nil {
		return "", client.Config{}, err
	}
	if len(l.Answer) == 0 {
		return "", client.Config{}, fmt.Errorf("job %s has no container yet: %w", id, broker.ErrUnavailable)
	}
	private, err := tunnelKey(key, job.Spec.Nonce)
	if err != nil {
		return "", client.Config{}, err
	}
	config, err := tenant.TunnelConfig(tenant.Lease{ID: l.ID, Job: id, Provider: l.Provider, Host: l.Host, Answer: l.Answer}, private)
	return l.ID, config, err
}

func (c *custodian) borrow(id broker.LeaseID) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.links[id]
	if l == nil {
		if len(c.links) >= maxLinks {
			return nil, fmt.Errorf("%d tunnels are open: %w", maxLinks, broker.ErrUnavailable)
		}
		l = &link{}
		c.links[id] = l
	}
	l.users++
	return l, nil
}

func (c *custodian) giveBack(id broker.LeaseID, l *link) error {
	c.mu.Lock()
	l.users--
	last := l.users == 0
	if last {
		delete(c.links, id)
	}
	c.mu.Unlock()
	if !last || l.end == nil {
		return nil
	}
	return l.end.Close()
}
