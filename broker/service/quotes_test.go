package service_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/wire"
	"rialto/pricing"
)

// quote asks for a firm quote and returns its envelope too.
func (w *world) quote(key string, firm time.Duration) (broker.Job, []byte) {
	w.t.Helper()
	spec := w.spec()
	spec.Firm = firm
	envelope := w.seal(spec)
	j, err := w.FirmQuote(w.t.Context(), w.account, key, envelope)
	if err != nil {
		w.t.Fatalf("quote: %v", err)
	}
	return j, envelope
}

// A quote is signed by its provider, survives a restart of the broker, and becomes its job when it is accepted, however
// often that is said.
func TestQuoteIsAccepted(t *testing.T) {
	store := memory()
	w := newWorld(t, store)
	a := newAgent(t, w)
	a.offer()
	j, envelope := w.quote("once", time.Minute)
	hold := next(t, "hold", a.holds)
	if j.State != broker.JobQuoted || j.Quote.Rate != pricing.Rate(pricing.USD)/2 || hold.TTL < time.Minute+10*time.Second {
		t.Fatalf("quote %+v, hold for %v", j, hold.TTL)
	}
	l, err := w.Lease(t.Context(), w.account, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	answer, signer, err := wire.OpenAnswer(l.Answer)
	if err != nil || signer != a.id() || answer.Grant.Rate != l.Rate || answer.Grant.Firm != time.Minute || answer.Grant.Job != j.ID {
		t.Errorf("the quote's answer: %+v by %s, %v", answer, signer, err)
	}
	if again, err := w.FirmQuote(t.Context(), w.account, "once", envelope); err != nil || again.ID != j.ID {
		t.Errorf("the same key again: %+v, %v", again, err)
	}
	if _, err := w.AcceptQuote(t.Context(), "a-other", j.ID); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("another account accepts: %v, want ErrNotFound", err)
	}

	w.stop()
	w.start()
	a.w = w
	a.offer()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got, err := w.AcceptQuote(t.Context(), w.account, j.ID); err != nil || got.ID != j.ID || got.Quote.Taken.IsZero() {
				t.Errorf("accepted %+v: %v", got, err)
			}
		})
	}
	wg.Wait()
	if c := next(t, "confirm", a.confirms); c.Lease != hold.Lease {
		t.Errorf("confirm %+v", c)
	}
	if _, err := w.DropQuote(t.Context(), w.account, j.ID); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("an accepted quote is given back: %v, want ErrConflict", err)
	}
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady})
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseExited, Used: time.Hour})
	w.until(j.ID, broker.JobDone)
	if len(a.holds) != 0 || len(a.confirms) != 0 {
		t.Errorf("%d more holds, %d more confirmations", len(a.holds), len(a.confirms))
	}
}

// A quote that expires or is given back frees the GPU at its host and returns all money.
func TestQuoteComesToNothing(t *testing.T) {
	store := memory()
	w := newWorld(t, store)
	a := newAgent(t, w)
	a.offer()
	late, _ := w.quote("late", time.Second)
	if late.Hold == 0 {
		t.Error("a quote holds no money")
	}
	w.until(late.ID, broker.JobExpired)
	if r := next(t, "release", a.releases); r.Lease != late.Lease {
		t.Errorf("released %+v", r)
	}
	if _, err := w.AcceptQuote(t.Context(), w.account, late.ID); !errors.Is(err, broker.ErrJobTerminal) {
		t.Errorf("an expired quote is accepted: %v, want ErrJobTerminal", err)
	}
	var dropped broker.Job
	w.eventually("the GPU is free again", func() bool {
		found, err := w.Search(t.Context(), broker.Query{})
		return err == nil && len(found.Matches) == 1
	})
	dropped, _ = w.quote("dropped", time.Minute)
	if got, err := w.DropQuote(t.Context(), w.account, dropped.ID); err != nil || got.State != broker.JobCancelled {
		t.Errorf("dropped %+v: %v", got, err)
	}
	if r := next(t, "release", a.releases); r.Lease != dropped.Lease {
		t.Errorf("released %+v", r)
	}
	if acc, err := w.Account(t.Context(), w.account); err != nil || acc.Held != 0 || acc.Available != 10*pricing.USD {
		t.Errorf("%+v: %v", acc, err)
	}
	w.stop()
	if audit, err := ledger.Audit(t.Context(), store.(ledger.Books).Store); err != nil || audit.Available != 10*pricing.USD {
		t.Errorf("audit %+v: %v", audit, err)
	}
}

func TestQuoteRefuses(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.refuse = "not today"
	a.offer()
	if j, _ := w.quote("refused", time.Minute); j.State != broker.JobFailed || j.Hold != 0 {
		t.Errorf("nobody quotes: %+v", j)
	}
	if _, err := w.FirmQuote(t.Context(), w.account, "no quote", w.seal(w.spec())); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("a job as a quote: %v, want ErrInvalid", err)
	}
	job := w.submit("job")
	if _, err := w.DropQuote(t.Context(), w.account, job.ID); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("a job is given back: %v, want ErrConflict", err)
	}
	if _, err := w.AcceptQuote(t.Context(), w.account, job.ID); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("a job is accepted: %v, want ErrConflict", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.FirmQuote(ctx, w.account, "gone", w.seal(w.spec())); err == nil {
		t.Error("who has left gets a quote")
	}
}
