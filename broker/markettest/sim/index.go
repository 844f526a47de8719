package sim

import (
	"math"
	"slices"
	"time"

	"rialto/pricing"
)

// tally is what is counted while a seed is played.
type tally struct {
	asked, granted int
	lost           int // runs of hosts that went
	failed         int // submissions that ended in failure after they had a host
	cost           float64
	paid           pricing.Money
	ratios         float64 // sum over grants
	trades         map[string][]pricing.Trade

	prints, firm int
	errors, bias float64 // sums over firm prints with a truth
	compared     int
}

func (t *tally) price(r *run) { t.ratios += r.asks / r.cheapest }

// trade records a lease that was paid for.
func (t *tally) trade(e *engine, r *run, billed time.Duration) {
	if billed < time.Second {
		return
	}
	if t.trades == nil {
		t.trades = map[string][]pricing.Trade{}
	}
	name := r.host.model.name
	t.trades[name] = append(t.trades[name], pricing.Trade{
		ID: pricing.TradeID(r.id), Settled: unix(e.now), Agreed: unix(r.granted), GPUs: r.job.gpus, Rate: r.rate,
		GPUSeconds: int64(billed/time.Second) * int64(r.job.gpus), Provider: r.host.name, Operator: r.host.operator,
		Customer: customer(r.job.customer),
	})
}

// unix is a moment for the index, which wants Unix seconds.
func unix(at time.Duration) int64 { return 1_767_225_600 + int64(at/time.Second) }

func cellOf(model string) pricing.Cell {
	return pricing.Cell{Model: model, Term: pricing.OnDemand, Region: pricing.AnyRegion, Tier: pricing.TierNVML}
}

// observe compares each model's print with what is paid now.
func (e *engine) observe() {
	for _, m := range models() {
		gpus, paid := 0, 0.0
		for _, h := range e.hosts {
			for _, r := range h.slots {
				if r != nil && r.phase == running && h.kind == honest && h.model.name == m.name {
					gpus++
					paid += dollars(r.rate)
				}
			}
		}
		trades := e.tally.trades[m.name]
		if gpus == 0 || len(trades) == 0 {
			continue
		}
		e.tally.prints++
		p := pricing.Compute(pricing.Inputs{Cell: cellOf(m.name), At: unix(e.now), Trades: trades})
		if p.Quality != pricing.Firm {
			continue
		}
		e.tally.firm++
		index := dollars(p.Index)
		e.tally.errors += math.Abs(index/(paid/float64(gpus)) - 1)
		e.tally.bias += index/e.fairOf(&m, e.now) - 1
		e.tally.compared++
	}
}

// washable returns the inputs of the print of the most traded model at the end of the span, those in its window; no
// trades: no model has a firm print.
func (e *engine) washable() (in pricing.Inputs, turnover float64) {
	at, most := unix(e.cfg.Span), 0
	for _, m := range models() {
		next := pricing.Inputs{Cell: cellOf(m.name), At: at}
		next.Trades = slices.DeleteFunc(slices.Clone(e.tally.trades[m.name]), func(t pricing.Trade) bool {
			return t.Settled >= at || t.Settled < at-pricing.ParamsV1().Window
		})
		if p := pricing.Compute(next); p.Quality == pricing.Firm && p.Trades > most {
			in, most = next, p.Trades
		}
	}
	for _, t := range in.Trades {
		turnover += dollars(t.Rate) * float64(t.GPUSeconds) / 3600
	}
	return in, turnover
}

// wash returns the least turnover in dollars of trades with oneself that raises a print by a share in millionths, see
// [pricing.WashCost]; infinite if none does, and no number if there is no print.
func wash(in pricing.Inputs, operators int, share int64) float64 {
	if len(in.Trades) == 0 {
		return math.NaN()
	}
	turnover, ok := pricing.WashCost(in, operators, share)
	if !ok {
		return math.Inf(1)
	}
	return float64(turnover) / float64(pricing.USD)
}

// figures sums up a seed.
func (e *engine) figures() figures {
	t := &e.tally
	f := figures{}
	welfare, surplus, fair := 0.0, 0.0, 0.0
	finished, never := 0, 0
	var waits []float64
	for _, j := range e.jobs {
		switch {
		case j.won == nil && j.ready == 0:
			never++
		case j.won == nil:
		default:
			finished++
			fair += j.fair
			waits = append(waits, (j.won.ready - j.arrived).Seconds())
			if j.won.ended <= j.deadline() {
				welfare += j.value
				surplus += j.value
			}
		}
	}
	slices.Sort(waits)
	n := float64(len(e.jobs))
	share := func(a, b float64) float64 { return a / b } // of nothing is NaN, which reports leave out
	f[welfareUSD] = welfare - t.cost
	f[surplusUSD] = surplus - dollars(t.paid)
	f[priceRatio] = share(t.ratios, float64(t.granted))
	f[paidOverFair] = share(dollars(t.paid), fair)
	f[fillRate] = share(float64(t.granted), float64(t.asked))
	f[finishedShare] = share(float64(finished), n)
	f[failedShare] = share(n-float64(finished)-float64(never), n)
	f[unservedShare] = share(float64(never), n)
	f[triesLost] = share(float64(t.failed), n)
	f[waitP50], f[waitP99] = quantile(waits, 0.5), quantile(waits, 0.99)
	f[indexError], f[indexBias] = share(t.errors, float64(t.compared)), share(t.bias, float64(t.compared))
	f[indexFirm] = share(float64(t.firm), float64(t.prints))
	in, turnover := e.washable()
	f[turnover24h] = turnover
	f[wash1], f[wash3] = wash(in, 1, pricing.WashShare), wash(in, 3, pricing.WashShare)
	f[wash1Far], f[wash3Far] = wash(in, 1, 10*pricing.WashShare), wash(in, 3, 10*pricing.WashShare)
	return f
}

// quantile returns the value up to which a share of a sorted list lies.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
