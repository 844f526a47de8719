//go:build linux

package histories

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

// amount of the deposit under a ref.
func amount(ref int) pricing.Money { return pricing.USD/20 + pricing.Money(ref) }

func (c *customer) newDeposit(ctx context.Context) {
	c.mu.Lock()
	ref := c.deposits
	if ref < maxDeposits {
		c.deposits++
	}
	c.mu.Unlock()
	if ref == maxDeposits {
		return
	}
	c.deposit(ctx, ref, amount(ref))
}

// deposit pays until the outcome is known, or patience ends: one call.
func (c *customer) deposit(ctx context.Context, ref int, m pricing.Money) outcome {
	in := moneyInput{account: string(c.id), call: fund, ref: ref, amount: int64(m), wrong: m != amount(ref)}
	out := moneyOutput{outcome: unknown}
	begun := c.w.clock()
	for try := 0; try < unsureTries && out.outcome == unknown; try++ {
		if _, err := c.w.broker.await(ctx); err != nil {
			break
		}
		ask, stop := context.WithTimeout(ctx, patience)
		a, err := c.w.admin.Deposit(ask, c.id, m, fmt.Sprintf("%s payment %d", c.id, ref))
		stop()
		out = moneyOf(a, c.w.outcome(err))
	}
	c.w.record(&c.w.money, begun, in, out, out.outcome == unknown)
	if out.outcome == answered {
		c.w.record(&c.w.money, begun, moneyInput{account: in.account, call: look}, out, false)
	}
	if out.outcome == answered && !in.wrong {
		c.mu.Lock()
		if !slices.Contains(c.paid, ref) {
			c.paid = append(c.paid, ref)
		}
		c.mu.Unlock()
	}
	return out.outcome
}

// resolve makes sure of deposits whose outcome is not known.
func (c *customer) resolve(ctx context.Context) {
	for ref := range c.deposits {
		if !slices.Contains(c.paid, ref) && c.deposit(ctx, ref, amount(ref)) != answered {
			c.w.problem("deposit", "%d of account %s is not answered", ref, c.id)
		}
	}
}

// oldDeposit pays again what was paid, or another amount under the same ref.
func (c *customer) oldDeposit(ctx context.Context) {
	c.mu.Lock()
	var ref int
	n := len(c.paid)
	if n > 0 {
		ref = c.paid[c.random.IntN(n)]
	}
	c.mu.Unlock()
	if n > 0 {
		c.deposit(ctx, ref, amount(ref)+pricing.Money(c.intn(4)/3))
	}
}

func (c *customer) look(ctx context.Context) (api.Account, bool) {
	begun := c.w.clock()
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	a, err := c.client.Account(ctx)
	out := moneyOf(a, c.w.outcome(err))
	c.w.record(&c.w.money, begun, moneyInput{account: string(c.id), call: look}, out, out.outcome == unknown)
	return a, out.outcome == answered
}

func moneyOf(a api.Account, o outcome) moneyOutput {
	return moneyOutput{outcome: o, available: a.AvailableNanoUSD, held: a.HeldNanoUSD, spent: a.SpentNanoUSD}
}

// outcome says what a call's error tells about what happened. An answer that a right broker never gives is a problem.
func (w *world) outcome(err error) outcome {
	if err == nil {
		return answered
	}
	p, ok := errors.AsType[*api.Problem](err)
	switch {
	case !ok:
		if strings.Contains(err.Error(), "bad event stream") {
			return missing
		}
		return unknown
	case errors.Is(err, broker.ErrNoFunds), errors.Is(err, broker.ErrNoOffer):
		return refused
	case errors.Is(err, broker.ErrJobTerminal):
		return ended
	case errors.Is(err, broker.ErrConflict):
		return conflict
	case errors.Is(err, broker.ErrNotFound):
		return missing
	case p.Field == "Idempotency-Key":
		return reused
	case p.Status == 503, p.Status == 429:
		return unknown
	}
	w.problem("answer", "%v", err)
	return unknown
}
