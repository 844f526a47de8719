package vast

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

const (
	// maxPoints bounds a series: a step that gives more is raised, as Vast's command line expects, and the answer says to what.
	maxPoints = 1000
	minStep   = time.Minute
	maxSpan   = 366 * 24 * time.Hour
)

// metricsQuery is which GPUs are counted.
type metricsQuery struct {
	verified string // yes, no or all
	gpus     int    // GPUs of a host's offer; zero: any number
}

func readMetrics(p url.Values, more ...string) (metricsQuery, error) {
	var q metricsQuery
	names := append([]string{"verified", "hosting_type", "num_gpus", "api_key"}, more...)
	for key := range p {
		if !slices.Contains(names, key) || len(p[key]) > 1 {
			return q, &broker.FieldError{Field: clipped(key), Problem: "this market does not know the parameter, or it comes twice", Nearest: broker.Nearest(key, names)}
		}
	}
	if q.verified = cmp.Or(p.Get("verified"), "all"); !slices.Contains([]string{"yes", "no", "all"}, q.verified) {
		return q, invalid("verified", clipped(q.verified)+": want yes, no or all")
	}
	if h := cmp.Or(p.Get("hosting_type"), "all"); h != "all" {
		return q, invalid("hosting_type", clipped(h)+": nobody knows here which hosts are in a datacenter; want all")
	}
	if n := cmp.Or(p.Get("num_gpus"), "all"); n != "all" {
		count, err := strconv.Atoi(n)
		if err != nil || count < 1 || count > 64 {
			return q, invalid("num_gpus", clipped(n)+": want all or a number from 1 to 64")
		}
		q.gpus = count
	}
	return q, nil
}

// live returns all live offers that a query counts, those without a free GPU too.
func (s *Server) live(ctx context.Context, q metricsQuery) ([]broker.Match, error) {
	got, err := s.c.Market.Search(ctx, broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Concat(got.Matches, got.Busy), func(m broker.Match) bool {
		verified := isVerified(&m.Offer)
		return q.gpus != 0 && len(m.Offer.GPUs) != q.gpus || q.verified == "yes" && !verified || q.verified == "no" && verified
	}), nil
}

func isVerified(o *broker.Offer) bool {
	return !slices.ContainsFunc(o.GPUs, func(g broker.GPU) bool { return g.Level < broker.LevelNVML })
}

// tally counts the GPUs of one model.
type tally struct {
	name  string
	count map[[2]bool]int // by rented, verified
	asks  []ask
}

// ask is GPUs at one price.
type ask struct {
	rate pricing.Rate // per GPU-hour
	gpus int
}

// metricsNow answers GET /metrics/gpu/current/: what is offered now, and at what prices.
func (s *Server) metricsNow(c *call) (any, error) {
	q, err := readMetrics(c.URL.Query())
	if err != nil {
		return nil, err
	}
	offers, err := s.live(c.Context(), q)
	if err != nil {
		return nil, err
	}
	models := map[string]*tally{}
	for i := range offers {
		o := &offers[i].Offer
		name := vastModel(o.GPUs[0].Model)
		t := models[name]
		if t == nil {
			t = &tally{name: name, count: map[[2]bool]int{}}
			models[name] = t
		}
		free, verified := len(o.Free), isVerified(o)
		t.count[[2]bool{false, verified}] += free
		t.count[[2]bool{true, verified}] += len(o.GPUs) - free
		t.asks = append(t.asks, ask{o.Rate, len(o.GPUs)})
	}
	rows := []row{}
	for _, t := range models {
		rows = append(rows, t.row())
	}
	order(rows, []sorting{{key: "total", down: true}, {key: "gpu_name"}})
	return row{{"success", true}, {"gpus", rows}}, nil
}

// row tells a tally. Prices are those of firm asks, for one GPU and hour; what is not free counts as rented.
func (t *tally) row() row {
	rented := t.count[[2]bool{true, true}] + t.count[[2]bool{true, false}]
	free := t.count[[2]bool{false, true}] + t.count[[2]bool{false, false}]
	return row{
		{"gpu_name", t.name},
		{"total", int64(rented + free)},
		{"available", int64(free)},
		{"rented_verified", int64(t.count[[2]bool{true, true}])},
		{"avail_verified", int64(t.count[[2]bool{false, true}])},
		{"rented_unverified", int64(t.count[[2]bool{true, false}])},
		{"avail_unverified", int64(t.count[[2]bool{false, false}])},
		{"usage", ratio(100*int64(rented), max(1, rented+free))},
		{"usage_30d", nil},
		{"dlperf", nil},
		{"tflops", nil},
		{"price_p10", percentile(t.asks, 10)},
		{"price_p25", percentile(t.asks, 25)},
		{"price_median", percentile(t.asks, 50)},
		{"price_p75", percentile(t.asks, 75)},
		{"price_p90", percentile(t.asks, 90)},
		{"tflops_per_dollar", nil},
		{"dlperf_per_dollar", nil},
	}
}

// percentile is the lowest price at which at least p of a hundred GPUs are to be had: the nearest-rank method, so that it
// is a price that somebody asked.
func percentile(asks []ask, p int) any {
	all := 0
	for _, a := range asks {
		all += a.gpus
	}
	if all == 0 {
		return nil
	}
	asks = slices.Clone(asks)
	slices.SortFunc(asks, func(a, b ask) int { return cmp.Compare(a.rate, b.rate) })
	seen := 0
	for _, a := range asks {
		if seen += a.gpus; seen*100 >= p*all {
			return dollars(int64(a.rate))
		}
	}
	return nil
}

// metricsThen answers GET /metrics/gpu/history/: the leases that ran. What was offered then is not recorded, nor how far
// the GPUs were proved: all count as unverified.
func (s *Server) metricsThen(c *call) (any, error) {
	p := c.URL.Query()
	q, err := readMetrics(p, "gpu_name", "start", "end", "step")
	if err != nil {
		return nil, err
	}
	if q.gpus != 0 || q.verified == "yes" {
		return nil, invalid("num_gpus", "of the past it is recorded which leases ran, and not on how large or how far proved a host: want num_gpus=all and verified=all")
	}
	now := time.Now()
	from, to, step, err := span(p, now)
	if err != nil {
		return nil, err
	}
	leases, err := s.c.Market.Executed(c.Context(), from, to)
	if err != nil {
		return nil, err
	}
	byModel := map[string][]broker.Ending{}
	for _, l := range leases {
		byModel[vastModel(l.Model)] = append(byModel[vastModel(l.Model)], l)
	}
	var names []string
	if name := cmp.Or(p.Get("gpu_name"), "all"); name == "all" {
		for name := range byModel {
			names = append(names, name)
		}
		slices.Sort(names)
	} else {
		for name := range strings.SplitSeq(name, ",") {
			names = append(names, strings.TrimSpace(strings.ReplaceAll(name, "_", " ")))
		}
	}
	if len(names) > maxKeys {
		return nil, invalid("gpu_name", fmt.Sprintf("more than %d", maxKeys))
	}
	slices.Sort(names)
	var out row
	for _, name := range slices.Compact(names) {
		out = append(out, cell{clipped(name), history(byModel[name], from, to, step)})
	}
	return row{{"success", true}, {"step", int64(step / time.Second)}, {"gpus", out}}, nil
}

// span reads the times of a series: the last day in steps of an hour unless they are given.
func span(p url.Values, now time.Time) (from, to time.Time, step time.Duration, err error) {
	unix := func(key string, otherwise time.Time) time.Time {
		s := p.Get(key)
		if s == "" {
			return otherwise
		}
		n, bad := strconv.ParseInt(s, 10, 64)
		if bad != nil || n < 0 || n > 1<<40 {
			err = invalid(key, clipped(s)+": want seconds since 1970")
		}
		return time.Unix(n, 0)
	}
	to = unix("end", now)
	from = unix("start", to.Add(-24*time.Hour))
	step = time.Hour
	if s := p.Get("step"); s != "" {
		n, bad := strconv.ParseInt(s, 10, 32)
		if step = time.Duration(n) * time.Second; bad != nil || step < minStep {
			err = invalid("step", clipped(s)+": want at least 60 seconds")
		}
	}
	switch {
	case err != nil:
	case !from.Before(to) || to.Sub(from) > maxSpan:
		err = invalid("start", "want a time before end, and at most a year before it")
	default:
		least := (to.Sub(from) + maxPoints - 1) / maxPoints
		step = max(step, (least + minStep - 1).Truncate(minStep))
	}
	return from, to, step, err
}

// history tells the leases of one model: at each time how many GPUs were leased, and the prices of those that ran until
// the next.
func history(leases []broker.Ending, from, to time.Time, step time.Duration) row {
	stamps, rented, nothing := []int64{}, []int64{}, []any{}
	prices := map[int][]any{10: {}, 50: {}, 90: {}}
	for at := from; at.Before(to); at = at.Add(step) {
		var asks []ask
		gpus := 0
		for i := range leases {
			l := &leases[i]
			if l.Ready.Before(at.Add(step)) && (l.Ended.IsZero() || l.Ended.After(at)) {
				asks = append(asks, ask{l.Rate, l.GPUs})
				if !l.Ready.After(at) {
					gpus += l.GPUs
				}
			}
		}
		stamps, rented, nothing = append(stamps, at.Unix()), append(rented, int64(gpus)), append(nothing, nil)
		for p := range prices {
			prices[p] = append(prices[p], percentile(asks, p))
		}
	}
	none := make([]int64, len(stamps))
	return row{
		{"supply_demand", row{
			{"timestamps", stamps},
			{"rented_verified", none},
			{"rented_unverified", rented},
			{"avail_verified", nothing},
			{"avail_unverified", nothing},
			{"total", nothing},
		}},
		{"pricing", row{
			{"timestamps", stamps},
			{"rented_p10", prices[10]},
			{"rented_median", prices[50]},
			{"rented_p90", prices[90]},
			{"avail_p10", nothing},
			{"avail_median", nothing},
			{"avail_p90", nothing},
		}},
		{"stats", row{{"tflops", nil}, {"dlperf", nil}, {"tflops_per_dollar", nil}}},
	}
}

// metricsWhere answers GET /metrics/gpu/locations/: where hosts say that they are.
func (s *Server) metricsWhere(c *call) (any, error) {
	if _, err := readMetrics(c.URL.Query()); err != nil {
		return nil, err
	}
	offers, err := s.live(c.Context(), metricsQuery{verified: "all"})
	if err != nil {
		return nil, err
	}
	rows := []row{}
	for i := range offers {
		o := &offers[i].Offer
		base := row{
			{"gpu_name", vastModel(o.GPUs[0].Model)},
			{"city", nil},
			{"country_code", known(o.Region)},
			{"latitude", nil},
			{"longitude", nil},
			{"verified", isVerified(o)},
			{"datacenter", nil},
		}
		if n := len(o.Free); n > 0 {
			rows = append(rows, append(slices.Clone(base), cell{"num_gpus", int64(n)}, cell{"rented", false}))
		}
		if n := len(o.GPUs) - len(o.Free); n > 0 {
			rows = append(rows, append(slices.Clone(base), cell{"num_gpus", int64(n)}, cell{"rented", true}))
		}
	}
	return row{{"success", true}, {"locations", rows}}, nil
}
