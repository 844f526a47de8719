//go:build unix

package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/provider"
	"rialto/tunnel"
	"rialto/tunnel/console"
	"rialto/tunnel/tunneltest"
)

// unlock opens what is private with the customer's key.
func (i *images) unlock(ctx context.Context, w provider.Want) error {
	if !w.Private {
		return nil
	}
	root, err := blockstore.ParseCID(w.Root)
	if err != nil {
		return err
	}
	key, err := w.Key(ctx)
	if err == nil && w.Image != "" {
		var locked *blockstore.LockedImage
		if locked, err = blockstore.LoadLockedImage(ctx, root, i.blocks); err == nil {
			var m *blockstore.Image
			if m, err = locked.Open(key); err == nil {
				root, key = m.Tree, m.TreeKey
			}
		}
	}
	if err == nil {
		var locked *blockstore.LockedTree
		if locked, err = blockstore.LoadLockedTree(ctx, root, i.blocks); err == nil {
			_, err = locked.Open(key)
		}
	}
	return err
}

// doorman is a host that takes keys, and nothing else.
type doorman struct {
	console.Backend
	got chan string // root and key
}

func (d doorman) Key(_ context.Context, root string, key console.Secret) error {
	if root == "" {
		return console.ErrNotPrivate
	}
	d.got <- root + " " + blockstore.Key(key).Base64()
	return nil
}

// privateJob is the record of a job with a private image, whose key is in a home.
func privateJob(t *testing.T, h home, change func(*broker.JobSpec)) (record, string) {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	me := broker.PeerID(id.ID())
	root := blockstore.Sum([]byte("image"))
	key := blockstore.NewSalt().Key(nil)
	if err := h.saveBlockKey(root, key); err != nil {
		t.Fatal(err)
	}
	spec := broker.JobSpec{
		Image: broker.LocalImage("mine"), Root: root.String(), Digest: root.Digest().String(), Private: true,
		GPU: broker.GPURequest{Model: "any", Count: 1}, MaxCost: 1, MaxDuration: 1e9, TunnelKey: tunnel.Key{1}, Customer: me, Broker: me,
		Created: time.Now().UTC(), Nonce: "n",
	}
	change(&spec)
	envelope, err := wire.SealJobSpec(id, spec)
	if err != nil {
		t.Fatal(err)
	}
	return record{Envelope: envelope}, root.String() + " " + key.Base64()
}

// TestKeysAreBroughtAgain: when the host's agent may be a new one, it may have lost them.
func TestKeysAreBroughtAgain(t *testing.T) {
	p := tunneltest.New(t)
	ln, err := p.Job.Listen(netip.AddrPortFrom(p.Plan.Job, tunnel.ConsolePort))
	if err != nil {
		t.Fatal(err)
	}
	d := doorman{got: make(chan string)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- console.Serve(ctx, ln, p.Plan.Customer, d, nil) }()
	h := home(t.TempDir())
	r, want := privateJob(t, h, func(*broker.JobSpec) {})
	s := &session{link: &link{}, console: console.NewClient(p.Customer.DialContext, p.Plan.Job), lost: make(chan struct{}, 1)}
	done, err := s.unlock(t.Context(), h, r, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := <-d.got; got != want {
			t.Errorf("the host got %.20q…, want another key or root", got)
		}
		<-done
		s.mayHaveLost()
	}
	<-d.got
	s.close()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestKeysAreForTheProviderThatTheJobNames, whatever the broker says.
func TestKeysAreForTheProviderThatTheJobNames(t *testing.T) {
	h := home(t.TempDir())
	var pinned broker.PeerID
	r, _ := privateJob(t, h, func(s *broker.JobSpec) { s.Provider, pinned = s.Customer, s.Customer })
	s := &session{lease: api.Lease{Provider: "12D3KooWanother"}, link: &link{}, lost: make(chan struct{}, 1)}
	if _, err := s.unlock(t.Context(), h, r, func(error) {}); err == nil || !strings.Contains(err.Error(), "it gets no key") {
		t.Errorf("another provider than %s: got %v", pinned, err)
	}
}

func TestSaltIsMadeOnce(t *testing.T) {
	h := home(filepath.Join(t.TempDir(), "home"))
	salts := make(chan blockstore.Salt, 8)
	for range cap(salts) {
		go func() {
			s, err := h.salt()
			if err != nil {
				t.Error(err)
			}
			salts <- s
		}()
	}
	first := <-salts
	for range cap(salts) - 1 {
		if s := <-salts; s != first {
			t.Error("two salts were made")
		}
	}
	if info, err := os.Stat(h.path("salt")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("salt file: %v, %v", info, err)
	}
	if left, err := filepath.Glob(h.path(".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.WriteFile(h.path("salt"), []byte("secret nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.salt(); err == nil || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("damaged salt: got %v, want an error without its text", err)
	}
}
