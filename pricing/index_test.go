package pricing

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const (
	at  = int64(1_800_000_000)
	usd = Rate(USD)
)

var cell = Cell{Model: "RTX 4090", Term: OnDemand, Region: AnyRegion, Tier: TierNVML}

// trade is a lease of one GPU of an operator, settled some seconds ago.
func trade(operator string, rate Rate, hours float64, ago int64) Trade {
	return Trade{
		ID: TradeID(fmt.Sprint(operator, rate, hours, ago)), Settled: at - ago, Agreed: at - ago - int64(hours*3600), GPUs: 1, Rate: rate,
		GPUSeconds: int64(hours * 3600), Provider: "p-" + operator, Operator: operator, Customer: "c-" + operator, CPUs: 8, MemoryMiB: 32768,
	}
}

// naive is the index by floating point, step by step as it is written down.
func naive(trades []Trade) (index float64, n, operators int) {
	type item struct {
		p, w float64
		op   string
	}
	var items []item
	newest := int64(0)
	for _, t := range trades {
		if t.Settled < at && t.Settled >= at-86400 && t.GPUSeconds >= 600*int64(t.GPUs) && t.Operator != t.Customer && !t.Canary {
			newest = max(newest, t.Settled)
		}
	}
	for _, t := range trades {
		if t.Settled < at && t.Settled >= at-86400 && t.GPUSeconds >= 600*int64(t.GPUs) && t.Operator != t.Customer && !t.Canary {
			paid := min(t.GPUSeconds, (t.Settled-(at-86400))*int64(t.GPUs))
			items = append(items, item{float64(t.Rate), float64(paid) * math.Exp2(-float64(newest-t.Settled)/21600), t.Operator})
		}
	}
	ops := map[string]float64{}
	for _, i := range items {
		ops[i.op] += i.w
	}
	if len(items) == 0 {
		return 0, 0, 0
	}
	share := max(0.2, 1/float64(len(ops)))
	for range 5000 { // cut whoever is above the share, again and again
		total := 0.0
		for _, w := range ops {
			total += w
		}
		for op, w := range ops {
			ops[op] = min(w, share*total)
		}
	}
	before := map[string]float64{}
	for _, i := range items {
		before[i.op] += i.w
	}
	for k := range items {
		items[k].w *= ops[items[k].op] / before[items[k].op]
	}
	middle := func(of func(item) float64) float64 {
		s := slices.SortedFunc(slices.Values(items), func(a, b item) int { return cmp.Compare(of(a), of(b)) })
		total, below := 0.0, 0.0
		for _, i := range s {
			total += i.w
		}
		for _, i := range s {
			if below += i.w; below >= total/2*(1-1e-9) {
				return of(i)
			}
		}
		panic("unreachable")
	}
	mid := middle(func(i item) float64 { return math.Log(i.p) })
	mad := max(math.Log(1.01), middle(func(i item) float64 { return math.Abs(math.Log(i.p) - mid) }))
	kept := slices.DeleteFunc(slices.Clone(items), func(i item) bool { return math.Abs(math.Log(i.p)-mid) > 3.5*mad/0.6745 })
	slices.SortFunc(kept, func(a, b item) int { return cmp.Compare(a.p, b.p) })
	total := 0.0
	for _, i := range kept {
		total += i.w
	}
	below, sum, weight := 0.0, 0.0, 0.0
	for _, i := range kept {
		part := max(0, min(below+i.w, 0.9*total)-max(below, 0.1*total))
		below += i.w
		sum, weight = sum+part*i.p, weight+part
	}
	return sum / weight, len(items), len(ops)
}

// TestIndexAgreesWithNaiveModel: operators are many enough that the naive cutting converges fast.
func TestIndexAgreesWithNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trades []Trade
		for i := range rapid.IntRange(0, 60).Draw(t, "n") {
			x := trade(fmt.Sprint("op", rapid.IntRange(0, 11).Draw(t, "operator")), Rate(rapid.Int64Range(1e8, 9e9).Draw(t, "rate")),
				float64(rapid.IntRange(1, 60000).Draw(t, "seconds"))/3600, rapid.Int64Range(-100, 90000).Draw(t, "ago"))
			x.ID, x.GPUs = TradeID(fmt.Sprint(i)), rapid.IntRange(1, 8).Draw(t, "gpus")
			x.GPUSeconds *= int64(x.GPUs)
			x.Canary = rapid.IntRange(0, 9).Draw(t, "canary") == 0
			if rapid.IntRange(0, 9).Draw(t, "related") == 0 {
				x.Customer = x.Operator
			}
			trades = append(trades, x)
		}
		want, n, operators := naive(trades)
		got := Compute(Inputs{Cell: cell, At: at, Trades: trades})
		if got.Trades != n || got.Operators != operators {
			t.Fatalf("got %d trades of %d operators, want %d of %d", got.Trades, got.Operators, n, operators)
		}
		if firm := n >= 5 && operators >= 3; (got.Quality == Firm) != firm {
			t.Fatalf("got %s with %d trades of %d operators", got.Quality, n, operators)
		}
		if got.Quality != Firm {
			if got.Quality != Stale || got.Index != 0 {
				t.Fatalf("got %s at %v without an ask", got.Quality, got.Index)
			}
			return
		}
		if operators > 5 && math.Abs(float64(got.Index)/want-1) > 1e-4 {
			t.Fatalf("got %d, want %.0f", got.Index, want)
		}
		low, high := got.P10, got.P90
		if low > got.P25 || got.P25 > got.P50 || got.P50 > got.P75 || got.P75 > high || got.HHI < 0 || got.HHI > 10_000 {
			t.Fatalf("percentiles or concentration out of order: %+v", got)
		}
		slices.Reverse(trades)
		if again := Compute(Inputs{Cell: cell, At: at, Trades: trades}); again != got {
			t.Fatalf("the order of trades matters: %+v, %+v", got, again)
		}
	})
}

func TestOperatorCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []weighted
		operators := rapid.IntRange(1, 12).Draw(t, "operators")
		for i := range operators {
			for range rapid.IntRange(1, 3).Draw(t, "trades") {
				list = append(list, weighted{trade: &Trade{Operator: fmt.Sprint(i)}, weight: rapid.Uint64Range(1<<20, 1<<50).Draw(t, "weight")})
			}
		}
		capOperators(list)
		total, by := float64(sum(list)), map[string]float64{}
		for _, w := range list {
			by[w.trade.Operator] += float64(w.weight)
		}
		for op, w := range by {
			if limit := max(0.2, 1/float64(operators)); w/total > limit+1e-4 {
				t.Fatalf("operator %s of %d has %.4f of the weight, at most %.4f", op, operators, w/total, limit)
			}
		}
	})
}

// market is 40 trades of 8 operators around $0.40, an hour each and half an hour apart.
func honest() []Trade {
	var trades []Trade
	for i := range 40 {
		trades = append(trades, trade(fmt.Sprint("op", i%8), usd*40/100+Rate(i%5-2)*usd/100, 1, int64(60+i*1800)))
	}
	return trades
}

// TestManipulation shows how far somebody moves the index, in hundredths of a per cent.
func TestManipulation(t *testing.T) {
	base := Compute(Inputs{Cell: cell, At: at, Trades: honest()})
	if base.Quality != Firm || base.Index < usd*39/100 || base.Index > usd*41/100 {
		t.Fatalf("the honest market: %+v", base)
	}
	wash := func(n int, operator, customer string, rate Rate, hours float64) []Trade {
		var out []Trade
		for i := range n {
			x := trade(operator, rate, hours, int64(60+i))
			x.ID, x.Customer = TradeID(fmt.Sprint(operator, customer, rate, i)), customer
			out = append(out, x)
		}
		return out
	}
	back := wash(1, "z", "y", usd*44/100, 20)[0]
	back.Agreed = wash(1, "y", "z", usd*44/100, 20)[0].Agreed + 100
	for _, c := range []struct {
		name  string
		extra []Trade
		most  int64 // hundredths of a per cent
		moves bool
	}{
		{"one trade at a hundred times the price", wash(1, "x", "c", 40*usd, 20), 10, true},
		{"one trade at a hundredth of the price", wash(1, "x", "c", usd/250, 20), 10, true},
		{"one operator washes 200 days of GPUs 10 % dearer", wash(200, "x", "c", usd*44/100, 24), 200, true},
		{"one operator washes 200 days of GPUs at twice the price", wash(200, "x", "c", usd*80/100, 24), 60, true},
		{"related party, any amount", wash(200, "x", "x", usd*44/100, 24), 0, false},
		{"the provider buys from itself", wash(200, "x", "p-x", usd*44/100, 24), 0, false},
		{"traded back within two minutes", append(wash(1, "y", "z", usd*44/100, 20), back), 0, false},
		{"5000 runs of 9 minutes", wash(5000, "x", "c", usd*44/100, 0.15), 0, false},
		{"three operators of one owner wash 200 days each 10 % dearer", slices.Concat(
			wash(200, "x", "c", usd*44/100, 24), wash(200, "y", "c", usd*44/100, 24), wash(200, "z", "c", usd*44/100, 24)), 1100, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Compute(Inputs{Cell: cell, At: at, Trades: append(honest(), c.extra...)})
			moved := int64(got.Index-base.Index) * 10_000 / int64(base.Index)
			t.Logf("%v to %v: %+d.%02d %%", base.Index, got.Index, moved/100, max(moved, -moved)%100)
			if max(moved, -moved) > c.most || !c.moves && got.Index != base.Index {
				t.Errorf("moved by %d hundredths of a per cent, at most %d", moved, c.most)
			}
		})
	}
}

func TestQuality(t *testing.T) {
	asks := []Ask{{usd, 60, "a"}, {2 * usd, 100, "b"}, {usd / 2, 3, "c"}, {-1, 5, "d"}, {usd, 0, "d"}}
	few := honest()[:4]
	two := []Trade{trade("a", usd, 1, 60), trade("a", usd, 1, 61), trade("a", usd, 1, 62), trade("b", usd, 1, 63), trade("b", usd, 1, 64)}
	for _, c := range []struct {
		name    string
		trades  []Trade
		asks    []Ask
		quality Quality
		index   Rate
	}{
		{"four trades", few, asks, Indicative, usd},
		{"two operators", two, asks, Indicative, usd},
		{"two operators, no ask", two, nil, Stale, 0},
		{"nothing", nil, nil, Stale, 0},
		{"the first 64 GPUs only", nil, []Ask{{3 * usd, 1000, "b"}, {usd, 33, "a"}}, Indicative, usd},
		{"half of fewer", nil, []Ask{{3 * usd, 2, "b"}, {usd, 1, "a"}}, Indicative, 3 * usd},
		{"too old", func() []Trade {
			old := honest()
			for i := range old {
				old[i].Settled -= 86400
			}
			return old
		}(), nil, Stale, 0},
		{"not settled before the print", func() []Trade {
			later := honest()
			for i := range later {
				later[i].Settled = at
			}
			return later
		}(), nil, Stale, 0},
	} {
		got := Compute(Inputs{Cell: cell, At: at, Trades: c.trades, Asks: c.asks})
		if got.Quality != c.quality || got.Index != c.index {
			t.Errorf("%s: got %s at %v, want %s at %v", c.name, got.Quality, got.Index, c.quality, c.index)
		}
	}
}

func TestHedonic(t *testing.T) {
	fit := func(trades []Trade) Hedonic {
		obs, operators := Observations(trades, at)
		h := FitHedonic(obs, operators, at)
		slices.Reverse(obs)
		if err := h.Verify(obs); err != nil {
			t.Errorf("fitted again: %v", err)
		}
		return h
	}
	var trades []Trade
	for i := range 60 {
		x := trade(fmt.Sprint("op", i%7), 0, 1, int64(60+i))
		x.CPUs, x.MemoryMiB, x.GPUs = 4<<(i%3), 16384<<(i/3%3), 1<<(i/9%2)
		x.GPUSeconds *= int64(x.GPUs)
		x.Rate = Rate(4e8 * math.Pow(float64(x.CPUs)/8, 0.2) * math.Pow(float64(x.MemoryMiB)/32768, 0.1))
		trades = append(trades, x)
	}
	h := fit(trades)
	if h.Trades != 60 || h.Operators != 7 || h.IsIdentity() {
		t.Fatalf("got %+v", h)
	}
	for _, c := range []struct {
		name      string
		got, want int64
	}{{"GPUs", h.GPUs, 0}, {"CPUs", h.CPUs, 200_000}, {"memory", h.Memory, 100_000}} {
		if diff := c.got - c.want; diff > 10_000 || diff < -10_000 {
			t.Errorf("elasticity of %s: got %d, want %d", c.name, c.got, c.want)
		}
	}
	for _, x := range trades {
		if got := h.normalise(&x); got < 390_000_000 || got > 410_000_000 {
			t.Errorf("%v with %d CPUs and %d MiB: normalised to %v", x.Rate, x.CPUs, x.MemoryMiB, got)
		}
	}
	obs, operators := Observations(trades, at)
	for name, forge := range map[string]func(h *Hedonic, obs *[]Observation){
		"a coefficient":      func(h *Hedonic, _ *[]Observation) { h.CPUs += 100 },
		"a base":             func(h *Hedonic, _ *[]Observation) { h.BaseCPUs++ },
		"a trade less":       func(_ *Hedonic, obs *[]Observation) { *obs = (*obs)[1:] },
		"another rate":       func(_ *Hedonic, obs *[]Observation) { (*obs)[7].Rate *= 3 },
		"no rate":            func(_ *Hedonic, obs *[]Observation) { (*obs)[0].Rate = 0 },
		"no CPUs":            func(_ *Hedonic, obs *[]Observation) { (*obs)[0].CPUs = 0 },
		"too few operators":  func(h *Hedonic, _ *[]Observation) { h.Operators = 4 },
		"nothing looked at":  func(_ *Hedonic, obs *[]Observation) { *obs = nil },
		"an identity, as if": func(h *Hedonic, _ *[]Observation) { *h = Hedonic{FittedAt: h.FittedAt, Trades: 60, Operators: 7} },
	} {
		forged, some := FitHedonic(obs, operators, at), slices.Clone(obs)
		forge(&forged, &some)
		if err := forged.Verify(some); !errors.Is(err, ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	left := slices.Clone(trades)
	left[0].Settled, left[1].Settled, left[2].CPUs, left[3].MemoryMiB, left[4].Canary, left[5].Customer, left[6].GPUSeconds = at, at-HedonicWindow-1, 0, 0, true, left[5].Operator, 1
	if got, n := Observations(left, at); len(got) != 53 || n != 7 || !slices.IsSortedFunc(got, Observation.order) {
		t.Errorf("%d observations of %d operators, want 53 of 7 in order", len(got), n)
	}
	if few := fit(trades[:29]); !few.IsIdentity() || few.Trades != 29 {
		t.Errorf("29 trades: %+v", few)
	}
	if got := (&Hedonic{CPUs: 1_000_000, BaseCPUs: 1}).normalise(&Trade{Rate: usd, CPUs: 1 << 20}); got != usd/2 {
		t.Errorf("an absurd configuration moves a rate to %v, at most half", got)
	}
	unknown := Trade{Rate: usd}
	if got := h.normalise(&unknown); got < usd*99/100 || got > usd*101/100 && h.GPUs == 0 {
		t.Errorf("unknown attributes adjust to %v", got)
	}
	if got := HedonicTime(1_800_000_000); got%HedonicEvery != firstMonday%HedonicEvery || got > 1_800_000_000 || got <= 1_800_000_000-HedonicEvery {
		t.Errorf("fits are made at %d", got)
	}
}
