// Package sim is a market that lives in virtual time: hosts that lie, bait and vanish, jobs that somebody wants, and
// the real [rialto/broker.Market] beside placers as simple as those of other markets. Equal configurations give equal
// reports, byte for byte.
//
// # World
//
// A seed makes hosts and jobs before any policy sees them, and each draws from a stream of random numbers of its own:
// all policies meet the same hosts, failures and jobs. Models, memory and prices are the medians of 67 real offers;
// an owner asks a log-normal factor more or less than the fair price of the model, which wanders by 2 % a day. Hosts
// fail at a rate that differs between them (a gamma distribution), chosen so that 100 nodes over a week show the 182
// reallocations and the mean life of 35 h of an interrupted run that Salad published of its own in 2025.
//
// An owner is honest; or lies (his GPUs have half the memory that they claim and less speed: jobs run out of memory
// or time); or baits (asks too little, refuses or ignores most holds, then asks more for a while); or vanishes with
// one job in four; or baits with a cheap GPU whose disk and traffic are dear. Other hosts ask little for these. A
// liar counts all the traffic that a job's customer would pay for. Jobs arrive by a Poisson process. Each has a
// value per GPU-hour, which is its highest price; an image that the host fetches unless it holds it; a time that it
// needs at the speed of its model; and a customer who, when it fails, submits it again elsewhere up to twice, and
// gives up in the end.
//
// # Figures
//
// Welfare is the value of jobs that finished in time less what all hosts' time did cost their owners, prices aside:
// a price only says who gets it. Customers' surplus is the same value less all that they paid. The price ratio is a
// lease's price per GPU-hour over the lowest of a host that would have granted it at that moment, with the job's
// disk and traffic if it takes as long as it should. Paid over fair is all that was paid, failures too, over the
// fair price of the work that finished, usual prices of disk and traffic included. The index is
// [rialto/pricing.Compute]'s of each policy's own leases; its error is against the mean rate of the GPUs of honest
// hosts that run at that moment, its bias against the fair price, which buyers of the cheapest stay below. The cost
// of a wash is the least turnover of trades with oneself, by so many operators, that raises the print of the most
// traded model by 1 or 10 %. Of that turnover the manipulator loses the market's fee, and what his GPUs would have
// earned.
//
// The naive placers have the market's own protocol, timeouts and retries: only whom they ask differs. They see the price
// of GPUs, and keep to a job's highest price by it.
package sim

import (
	"cmp"
	"fmt"
	"time"

	"rialto/pricing"
)

// Config is a simulation. The zero value is a short one.
type Config struct {
	Seeds int           // default 10
	First uint64        // the first seed; default 1
	Hosts int           // default 60
	Span  time.Duration // in which jobs arrive; default 48 h
	Load  float64       // GPU time wanted over GPU time there is; default 0.6
	// AuditEvery is after how many steps all of the real market is audited, which it is at the end anyway; default never.
	// Its transfers are added up and compared with its accounts at every step.
	AuditEvery int
}

func (c Config) withDefaults() (Config, error) {
	c.Seeds = cmp.Or(c.Seeds, 10)
	c.First = cmp.Or(c.First, 1)
	c.Hosts = cmp.Or(c.Hosts, 60)
	// The index looks back a day: the second day has full windows.
	c.Span = cmp.Or(c.Span, 48*time.Hour)
	c.Load = cmp.Or(c.Load, 0.6)
	switch {
	case c.Seeds < 1 || c.Seeds > 10_000:
		return c, fmt.Errorf("seeds: %d: want 1 to 10000", c.Seeds)
	case c.Hosts < 1 || c.Hosts > 5000:
		return c, fmt.Errorf("hosts: %d: want 1 to 5000", c.Hosts)
	case c.AuditEvery < 0:
		return c, fmt.Errorf("audit every %d steps: want 0 or more", c.AuditEvery)
	case c.Span < time.Hour || c.Span > 90*24*time.Hour:
		return c, fmt.Errorf("span: %v: want 1h to 2160h", c.Span)
	case !(c.Load > 0 && c.Load <= 10):
		return c, fmt.Errorf("load: %v: want more than 0, at most 10", c.Load)
	}
	return c, nil
}

// Of the protocol, the same for all policies. Leases are renewed less often than in a real market, where it is every
// 15 s: a simulated week has to end.
const (
	holdTTL      = 20 * time.Second
	leaseTTL     = 5 * time.Minute
	prepareTTL   = 30 * time.Minute
	lapse        = leaseTTL + leaseTTL/50 + 2*time.Second // as the market has it
	renewEvery   = leaseTTL / 3
	tickEvery    = 15 * time.Second
	patience     = 30 * time.Minute // that a job waits for a place
	askAgain     = 5 * time.Minute  // for a job of which there is no offer at all
	maxTries     = 3                // submissions of a job
	feePPM       = 30_000
	maxOverrun   = 2 // a job is ended after so many times of what it should take
	indexEvery   = time.Hour
	indexFrom    = 12 * time.Hour
	wanderHourly = 0.004 // deviation of the log of the fair price
)

// Run simulates every policy on every seed.
func Run(cfg Config) (*Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := newReport(cfg)
	for seed := cfg.First; seed < cfg.First+uint64(cfg.Seeds); seed++ { //nolint:gosec // checked
		for i, p := range policies() {
			figures, err := simulate(cfg, seed, p)
			if err != nil {
				return nil, fmt.Errorf("seed %d: %s: %w", seed, p.name, err)
			}
			r.add(i, figures)
		}
	}
	r.sum()
	return r, nil
}

// policy is a way to choose who is asked.
type policy struct {
	name string
	open func(*engine) (venue, error)
}

func policies() []policy {
	return []policy{
		{"rialto", openMarket},
		{"price sort", func(e *engine) (venue, error) { return openNaive(e, byPrice), nil }},
		{"score sort", func(e *engine) (venue, error) { return openNaive(e, byScore), nil }},
		{"random of 2", func(e *engine) (venue, error) { return openNaive(e, ofTwo), nil }},
	}
}

// simulate plays one seed under one policy.
func simulate(cfg Config, seed uint64, p policy) (figures, error) {
	e := newEngine(cfg, seed)
	v, err := p.open(e)
	if err != nil {
		return figures{}, err
	}
	e.venue = v
	if err := e.play(); err != nil {
		return figures{}, err
	}
	return e.figures(), nil
}

// dollars is an amount as a figure.
func dollars[M pricing.Money | pricing.Rate](m M) float64 { return float64(m) / float64(pricing.USD) }
