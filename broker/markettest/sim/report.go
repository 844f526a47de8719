package sim

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// metric names a figure of a policy on a seed.
type metric int

const (
	welfareUSD metric = iota
	surplusUSD
	priceRatio
	paidOverFair
	fillRate
	finishedShare
	failedShare
	unservedShare
	triesLost
	waitP50
	waitP99
	indexError
	indexBias
	indexFirm
	wash1
	wash3
	wash1Far
	wash3Far
	turnover24h
	metrics
)

// figures are one policy's of one seed, by metric; NaN or infinite: there is none.
type figures [metrics]float64

// column is how a metric is shown.
type column struct {
	name   string // in JSON, with its unit
	title  string
	format string
	scale  float64
}

func columns() [metrics]column {
	return [metrics]column{
		welfareUSD:    {"welfare_usd", "welfare $", "%.0f", 1},
		surplusUSD:    {"surplus_usd", "customers' surplus $", "%.0f", 1},
		priceRatio:    {"price_ratio", "price / cheapest", "%.3f", 1},
		paidOverFair:  {"paid_over_fair", "paid / fair", "%.3f", 1},
		fillRate:      {"fill_rate", "fill rate %", "%.1f", 100},
		finishedShare: {"finished_share", "finished %", "%.1f", 100},
		failedShare:   {"failed_share", "failed %", "%.1f", 100},
		unservedShare: {"unserved_share", "unserved %", "%.1f", 100},
		triesLost:     {"failures_per_job", "failures / 100 jobs", "%.1f", 100},
		waitP50:       {"wait_p50_s", "wait p50 s", "%.0f", 1},
		waitP99:       {"wait_p99_s", "wait p99 s", "%.0f", 1},
		indexError:    {"index_error", "index error %", "%.2f", 100},
		indexBias:     {"index_bias", "index vs fair %", "%.1f", 100},
		indexFirm:     {"index_firm_share", "index firm %", "%.0f", 100},
		wash1:         {"wash_1pct_by_1_usd", "wash 1 % by 1, $", "%.2f", 1},
		wash3:         {"wash_1pct_by_3_usd", "wash 1 % by 3, $", "%.2f", 1},
		wash1Far:      {"wash_10pct_by_1_usd", "wash 10 % by 1, $", "%.2f", 1},
		wash3Far:      {"wash_10pct_by_3_usd", "wash 10 % by 3, $", "%.2f", 1},
		turnover24h:   {"turnover_24h_usd", "all others, 24 h, $", "%.2f", 1},
	}
}

// Estimate is a mean over seeds and half of its 95 % interval by Student's t. What a seed has no figure of, such as an
// index that no wash moves, is left out of it and of Seeds.
type Estimate struct {
	Mean  float64 `json:"mean"`
	Half  float64 `json:"half,omitzero"` // of one seed there is none
	Seeds int     `json:"seeds"`
}

// Row is a policy's figures. Diff is the policy's less the real market's, seed by seed.
type Row struct {
	Policy  string              `json:"policy"`
	Figures map[string]Estimate `json:"figures"`
	Diff    map[string]Estimate `json:"diff,omitempty"`
}

// Report is a simulation's outcome, the real market first.
type Report struct {
	Seeds int     `json:"seeds"`
	First uint64  `json:"first_seed"`
	Hosts int     `json:"hosts"`
	Hours float64 `json:"hours"`
	Load  float64 `json:"load"`
	Rows  []Row   `json:"rows"`

	raw [][]figures // by policy and seed
}

func newReport(cfg Config) *Report {
	r := &Report{Seeds: cfg.Seeds, First: cfg.First, Hosts: cfg.Hosts, Hours: cfg.Span.Hours(), Load: cfg.Load}
	r.raw = make([][]figures, len(policies()))
	return r
}

func (r *Report) add(policy int, f figures) { r.raw[policy] = append(r.raw[policy], f) }

func (r *Report) sum() {
	for i, p := range policies() {
		row := Row{Policy: p.name, Figures: map[string]Estimate{}}
		if i > 0 {
			row.Diff = map[string]Estimate{}
		}
		for m, c := range columns() {
			var values, diffs []float64
			for k, f := range r.raw[i] {
				values = append(values, f[m])
				diffs = append(diffs, f[m]-r.raw[0][k][m])
			}
			row.Figures[c.name] = estimate(values)
			if i > 0 {
				row.Diff[c.name] = estimate(diffs)
			}
		}
		r.Rows = append(r.Rows, row)
	}
}

func estimate(values []float64) Estimate {
	var e Estimate
	var sum, squares float64
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			e.Seeds++
			sum += v
		}
	}
	if e.Seeds == 0 {
		return e
	}
	e.Mean = sum / float64(e.Seeds)
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			squares += (v - e.Mean) * (v - e.Mean)
		}
	}
	if n := e.Seeds; n > 1 {
		e.Half = student(n-1) * math.Sqrt(squares/float64(n-1)/float64(n))
	}
	return e
}

// student returns the 0.975 quantile of Student's t. Beyond the table it is the normal one with the first term of its
// expansion (Abramowitz and Stegun 26.7.5).
func student(freedom int) float64 {
	table := [...]float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228}
	if freedom <= len(table) {
		return table[freedom-1]
	}
	const z = 1.959964
	n := float64(freedom)
	return z + (z*z*z+z)/(4*n) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*n*n)
}

// String is a table of all policies, each figure with half of its 95 % interval. A star says that the difference to the
// first policy, seed by seed, is clear of zero.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seeds: %d from %d; %d hosts, %g h, load %g; mean ± half of the 95 %% interval; * differs from %s, seed by seed\n",
		r.Seeds, r.First, r.Hosts, r.Hours, r.Load, r.Rows[0].Policy)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t", row.Policy)
	}
	fmt.Fprintln(w)
	for _, c := range columns() {
		fmt.Fprintf(w, "%s\t", c.title)
		for _, row := range r.Rows {
			e := row.Figures[c.name]
			text := "none"
			if e.Seeds > 0 {
				text = fmt.Sprintf(c.format, e.Mean*c.scale)
			}
			if e.Seeds > 1 {
				text += fmt.Sprintf(" ± "+c.format, e.Half*c.scale)
			}
			if e.Seeds > 0 && e.Seeds < r.Seeds {
				text = fmt.Sprintf("%s (%d of %d)", text, e.Seeds, r.Seeds)
			}
			if d := row.Diff[c.name]; d.Seeds > 1 && math.Abs(d.Mean) > d.Half {
				text += "*"
			} else {
				text += " "
			}
			fmt.Fprintf(w, "%s\t", text)
		}
		fmt.Fprintln(w)
	}
	w.Flush() //nolint:errcheck // to memory
	return b.String()
}
