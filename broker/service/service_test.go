package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/service"
	"rialto/broker/wire"
	"rialto/pricing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestJobRunsAndIsPaid takes a job from submission to its receipt over real connections.
func TestJobRunsAndIsPaid(t *testing.T) {
	store := memory()
	w := newWorld(t, store)
	a := newAgent(t, w)
	a.offer()
	j := w.submit("once")
	hold := next(t, "hold", a.holds)
	if hold.Job != j.ID || hold.Rate != pricing.Rate(pricing.USD)/2 || len(hold.Sources) != 0 {
		t.Errorf("hold %+v", hold)
	}
	w.until(j.ID, broker.JobLeased)
	if c := next(t, "confirm", a.confirms); c.Lease != hold.Lease || c.TTL <= 0 || c.MaxDuration <= 0 {
		t.Errorf("confirm %+v", c)
	}
	l, err := w.Lease(t.Context(), w.account, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	if answer, signer, err := wire.OpenAnswer(l.Answer); err != nil || signer != a.id() || answer.Grant == nil {
		t.Errorf("the lease's answer: %+v by %s, %v", answer, signer, err)
	}
	if _, err := w.Receipt(t.Context(), w.account, j.ID); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("receipt before the end: %v, want ErrNotFound", err)
	}

	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhasePreparing})
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady})
	w.until(j.ID, broker.JobReady)
	if r := a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady, Used: time.Nanosecond}); r.TTL <= 0 {
		t.Errorf("renewal %+v", r)
	}
	used := time.Hour // claimed; only what the broker saw is billed
	if r := a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseExited, ExitCode: 7, Used: used}); r.TTL != 0 {
		t.Errorf("renewal after the end: %+v, want no time left", r)
	}
	w.until(j.ID, broker.JobDone)
	envelope, err := w.Receipt(t.Context(), w.account, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	r, signer, err := wire.OpenReceipt(envelope)
	if err != nil || signer != broker.PeerID(w.key.ID()) {
		t.Fatalf("receipt by %s: %v", signer, err)
	}
	if r.ExitCode != 7 || r.Used != used || r.Billed <= 0 || r.Billed >= patience || r.Cost <= 0 {
		t.Errorf("receipt %+v: want little billed of what was claimed", r)
	}
	customer, err := w.Account(t.Context(), w.account)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := w.Account(t.Context(), broker.AccountID(a.id()))
	if err != nil {
		t.Fatal(err)
	}
	if customer.Held != 0 || customer.Available+r.Cost != 10*pricing.USD || customer.Spent != r.Cost || provider.Payable != r.Cost-r.Fee {
		t.Errorf("after a bill of %v with a fee of %v: customer %+v, provider %+v", r.Cost, r.Fee, customer, provider)
	}
	w.stop()
	audit, err := ledger.Audit(t.Context(), store.(ledger.Books).Store)
	if err != nil || audit.Available+audit.Payable+audit.Fee != 10*pricing.USD || audit.Fee != r.Fee {
		t.Errorf("audit %+v: %v", audit, err)
	}
}

// TestRestartContinues stops the broker while a job runs and starts it again on the same store.
func TestRestartContinues(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.offer()
	envelope := w.seal(w.spec())
	j, err := w.Submit(t.Context(), w.account, "once", envelope)
	if err != nil {
		t.Fatal(err)
	}
	hold := next(t, "hold", a.holds)
	next(t, "confirm", a.confirms)
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady})
	before := w.until(j.ID, broker.JobReady)
	w.stop()

	if _, err := w.Job(t.Context(), w.account, j.ID); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a stopped market answered: %v", err)
	}
	w.start()
	if id, err := w.Authenticate(w.token); err != nil || id != w.account {
		t.Errorf("token after the restart: %q, %v", id, err)
	}
	if after := w.until(j.ID, broker.JobReady); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("history changed from %q to %q", before, after)
	}
	if again, err := w.Submit(t.Context(), w.account, "once", envelope); err != nil || again.ID != j.ID {
		t.Errorf("submitted again after the restart: %s, %v; want %s", again.ID, err, j.ID)
	}
	a.offer()
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseExited, Used: time.Second})
	w.until(j.ID, broker.JobDone)
	if _, err := w.Receipt(t.Context(), w.account, j.ID); err != nil {
		t.Errorf("receipt: %v", err)
	}
}

func TestRefusalAndCancel(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.refuse = "busy with maintenance"
	a.offer()
	j := w.submit("k")
	next(t, "hold", a.holds)
	w.eventually("the refusal is told", func() bool {
		got, err := w.Job(t.Context(), w.account, j.ID)
		return err == nil && slices.ContainsFunc(got.Log, func(e broker.JobEvent) bool {
			return strings.Contains(e.Text, "busy with maintenance")
		})
	})
	if _, err := w.Cancel(t.Context(), w.account, j.ID, "changed my mind"); err != nil {
		t.Fatal(err)
	}
	w.until(j.ID, broker.JobCancelled)
	if a, err := w.Account(t.Context(), w.account); err != nil || a.Held != 0 || a.Available != 10*pricing.USD {
		t.Errorf("money after a job that never ran: %+v, %v", a, err)
	}
	if _, err := w.Cancel(t.Context(), "a-other", j.ID, ""); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("another account's cancel: %v, want ErrNotFound", err)
	}
}

func TestOfferLeavesWithItsProvider(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.offer()
	offers := func() int {
		found, err := w.Search(t.Context(), broker.Query{GPU: broker.GPURequest{Model: "any", Count: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return found.Offers
	}
	if got := offers(); got != 1 {
		t.Fatalf("%d offers after the answer, want 1", got)
	}
	if err := a.host.Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the offer is gone", func() bool { return offers() == 0 })
}

func TestSubmitRefuses(t *testing.T) {
	w := newWorld(t, memory())
	newAgent(t, w).offer()
	stranger := newKey(t)
	foreign := w.spec()
	foreign.Broker = broker.PeerID(stranger.ID())
	poor := w.spec()
	poor.MaxCost = 11 * pricing.USD
	good := w.seal(w.spec())
	if _, err := w.Submit(t.Context(), w.account, "used", good); err != nil {
		t.Fatal(err)
	}
	stolen := w.spec()
	stolen.Customer = broker.PeerID(stranger.ID())
	byStranger, err := wire.SealJobSpec(stranger, stolen)
	if err != nil {
		t.Fatal(err)
	}
	none, _, err := w.OpenAccount(t.Context(), "no key", nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		account  broker.AccountID
		key      string
		envelope []byte
		want     error
		text     string
	}{
		"no idempotency key":     {w.account, "", w.seal(w.spec()), broker.ErrInvalid, "Idempotency-Key"},
		"used key, other spec":   {w.account, "used", w.seal(w.spec()), broker.ErrInvalid, "another spec"},
		"same spec, other key":   {w.account, "other", good, broker.ErrConflict, ""},
		"not an envelope":        {w.account, "k", []byte("junk"), broker.ErrInvalid, ""},
		"large":                  {w.account, "k", make([]byte, service.MaxSpec+1), broker.ErrInvalid, "at most"},
		"another broker's":       {w.account, "k", w.seal(foreign), broker.ErrInvalid, "spec.broker"},
		"another's key":          {w.account, "k", byStranger, broker.ErrForbidden, "signed by"},
		"account without a key":  {none.ID, "k", w.seal(w.spec()), broker.ErrForbidden, "bind one first"},
		"unknown account":        {"a-none", "k", w.seal(w.spec()), broker.ErrNotFound, ""},
		"more than the money":    {w.account, "k", w.seal(poor), broker.ErrNoFunds, ""},
		"bit flipped in transit": {w.account, "k", flip(w.seal(w.spec())), broker.ErrInvalid, ""},
	}
	for name, tt := range tests {
		if _, err := w.Submit(t.Context(), tt.account, tt.key, tt.envelope); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, tt.want, tt.text)
		}
	}
	if jobs, _, err := w.Jobs(t.Context(), w.account, "", 100); err != nil || len(jobs) != 1 {
		t.Errorf("%d jobs, %v; want the first only", len(jobs), err)
	}
}

func flip(p []byte) []byte {
	p[len(p)/2] ^= 1
	return p
}

// TestSameKeyAtOnce submits one spec many times at once under one idempotency key.
func TestSameKeyAtOnce(t *testing.T) {
	w := newWorld(t, memory())
	newAgent(t, w).offer()
	envelope := w.seal(w.spec())
	ids := make([]broker.JobID, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			j, err := w.Submit(t.Context(), w.account, "one", envelope)
			if err != nil {
				t.Errorf("submit: %v", err)
			}
			ids[i] = j.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("jobs %s and %s under one key", ids[0], id)
		}
	}
}

func TestAgentsAreHeldToTheirKeys(t *testing.T) {
	w := newWorld(t, memory())
	a, thief := newAgent(t, w), newAgent(t, w)
	a.offer()
	thief.offer()
	j := w.submit("k")
	var owner, other *agent
	select {
	case h := <-a.holds:
		owner, other = a, thief
		a.holds <- h
	case h := <-thief.holds:
		owner, other = thief, a
		thief.holds <- h
	case <-time.After(patience):
		t.Fatal("no hold came")
	}
	hold := next(t, "hold", owner.holds)
	next(t, "confirm", owner.confirms)
	other.epoch = 1
	if _, err := other.report(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady}); err == nil {
		t.Error("a report by another provider was taken")
	}
	envelope, err := wire.SealReport(owner.key, broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady, Seq: 99, GPUs: owner.gpus()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.host.Request(t.Context(), w.key.ID(), wire.ProtocolReport, envelope); err == nil {
		t.Error("a report that another provider delivered was taken")
	}
	if got, err := w.Job(t.Context(), w.account, j.ID); err != nil || got.State != broker.JobLeased {
		t.Errorf("job is %v, %v; want leased", got.State, err)
	}
}

func TestUploadsNameTheBrokerAsSource(t *testing.T) {
	self := broker.BlockSource{Addrs: []string{"/ip4/127.0.0.1/tcp/7071"}}
	w := newWorld(t, memory(), func(w *world) {
		self.Peer = broker.PeerID(w.key.ID())
		w.source = func() broker.BlockSource { return self }
	})
	a := newAgent(t, w)
	a.refuse = "busy"
	for name, c := range map[string]struct {
		change func(*broker.JobSpec)
		want   int
	}{
		"weights": {func(s *broker.JobSpec) {
			s.Weights = []broker.WeightsMount{{Name: "llama", Root: root, Path: "/weights"}}
		}, 1},
		"a local image":         {func(s *broker.JobSpec) { s.Image, s.Root = broker.LocalImage("mine"), root }, 1},
		"a registry's, vouched": {func(s *broker.JobSpec) { s.Root = root }, 0},
	} {
		a.offer()
		spec := w.spec()
		c.change(&spec)
		j, err := w.Submit(t.Context(), w.account, name, w.seal(spec))
		if err != nil {
			t.Fatal(err)
		}
		if h := next(t, "hold", a.holds); len(h.Sources) != c.want || c.want == 1 && h.Sources[0].Peer != self.Peer {
			t.Errorf("%s: sources %+v, want %d", name, h.Sources, c.want)
		}
		if _, err := w.Cancel(t.Context(), w.account, j.ID, "enough"); err != nil && !errors.Is(err, broker.ErrJobTerminal) {
			t.Fatal(err)
		}
	}
}

func TestOpenAccountRefuses(t *testing.T) {
	w := newWorld(t, memory())
	negative, much := -pricing.USD, 1_000_001*pricing.USD
	for name, deposit := range map[string]*pricing.Money{"": nil, "\x1b[2J": nil, strings.Repeat("x", 65): nil, "neg": &negative, "much": &much} {
		if _, _, err := w.OpenAccount(t.Context(), name, deposit); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("account %q: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := w.BindKey(t.Context(), w.account, "not a key"); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("bad key: %v, want ErrInvalid", err)
	}
	if _, err := w.Authenticate("rialto_nobody"); !errors.Is(err, broker.ErrForbidden) {
		t.Errorf("unknown token: %v, want ErrForbidden", err)
	}
}

// TestDepositCountsOnce makes the same deposit again, also after a restart, and others under its ref.
func TestDepositCountsOnce(t *testing.T) {
	w := newWorld(t, memory())
	check := func(want pricing.Money) {
		t.Helper()
		a, err := w.Deposit(t.Context(), w.account, 2*pricing.USD, "invoice 1")
		if err != nil || a.Available != want {
			t.Errorf("deposit: available %v, %v; want %v", a.Available, err, want)
		}
	}
	check(12 * pricing.USD)
	check(12 * pricing.USD)
	w.stop()
	w.start()
	check(12 * pricing.USD)
	if _, err := w.Deposit(t.Context(), w.account, pricing.USD, "invoice 1"); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("another amount under the same ref: %v", err)
	}
	if _, err := w.Deposit(t.Context(), "a-nobody", pricing.USD, "invoice 2"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("deposit for nobody: %v", err)
	}
}

// TestSearchesRunBesideTheWriter has readers search while jobs come and go. The race detector sees what they share.
func TestSearchesRunBesideTheWriter(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.offer()
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				found, err := w.Search(ctx, broker.Query{})
				if errors.Is(err, context.Canceled) {
					return
				}
				if err != nil || found.Offers != 1 {
					t.Errorf("search: %d offers, %v", found.Offers, err)
					return
				}
				if _, err := w.Quote(ctx, broker.QuoteRequest{Duration: time.Hour}); err != nil && !errors.Is(err, broker.ErrNoOffer) {
					t.Errorf("quote: %v", err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for i := range 20 {
		j := w.submit(fmt.Sprint("beside ", i))
		for len(a.holds)+len(a.confirms)+len(a.releases) > 0 { // an agent that nobody listens to stops
			select {
			case <-a.holds:
			case <-a.confirms:
			case <-a.releases:
			default:
			}
		}
		if _, err := w.Cancel(t.Context(), w.account, j.ID, "next"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	readers.Wait()
	if answered.Load() == 0 {
		t.Error("nobody was answered")
	}
}
