package sim

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rialto/pricing"
)

// TestModels wants the table of models to be what real offers say.
func TestModels(t *testing.T) {
	f, err := os.Open("../../testdata/vast.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	prices, memory := map[string][]float64{}, map[string][]uint64{}
	for _, r := range rows[1:] { // host, model, gpus, gpu_memory_mib, usd_per_hour, region
		gpus, err1 := strconv.ParseFloat(r[2], 64)
		mib, err2 := strconv.ParseUint(r[3], 10, 64)
		usd, err3 := strconv.ParseFloat(r[4], 64)
		if err := cmp.Or(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		prices[r[1]] = append(prices[r[1]], usd/gpus)
		memory[r[1]] = append(memory[r[1]], mib)
	}
	for _, m := range models() {
		p, mib := prices[m.name], memory[m.name]
		slices.Sort(p)
		slices.Sort(mib)
		n := len(p)
		if n == 0 {
			t.Errorf("%s: no offer", m.name)
			continue
		}
		median := (p[(n-1)/2] + p[n/2]) / 2
		if math.Abs(m.price/median-1) > 0.01 || m.memoryMiB != mib[n/2] {
			t.Errorf("%s: %v $/h and %d MiB, want %v and %d", m.name, m.price, m.memoryMiB, median, mib[n/2])
		}
	}
}

// TestChurn runs 100 nodes for a week, each replaced when it fails, and wants what Salad published.
func TestChurn(t *testing.T) {
	const week, weeks, nodes = 168.0, 200, 100
	r := stream(1, "churn", 0)
	failures, life := 0, 0.0
	for range weeks * nodes {
		for at := 0.0; ; {
			lived := r.ExpFloat64() / gamma(r, hazardShape, hazardMean)
			if at += lived; at > week {
				break
			}
			failures++
			life += lived
		}
	}
	if got := float64(failures) / weeks; math.Abs(got/182-1) > 0.07 {
		t.Errorf("%v reallocations a week, want 182", got)
	}
	if got := life / float64(failures); math.Abs(got/35-1) > 0.07 {
		t.Errorf("interrupted runs lived %v h, want 35", got)
	}
}

// TestPlay plays a world under each policy and looks at what became of every job and host.
func TestPlay(t *testing.T) {
	cfg, err := Config{Hosts: 30, Span: 6 * time.Hour, First: 9}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var arrivals string
	for _, p := range policies() {
		e := newEngine(cfg, cfg.First)
		if e.venue, err = p.open(e); err != nil {
			t.Fatal(err)
		}
		if err := e.play(); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		won, lied, baited := 0, 0, 0
		var paid pricing.Money
		var seen strings.Builder
		for _, j := range e.jobs {
			fmt.Fprintln(&seen, j.arrived, j.work, j.gpus, j.memory, j.maxRate, j.image)
			paid += j.paid
			if !j.over {
				t.Errorf("%s: job %d is not over", p.name, j.id)
			}
			for _, h := range j.bad {
				if h.kind == liar {
					lied++
				}
			}
			if w := j.won; w != nil {
				won++
				ran := time.Duration(float64(j.work) / w.host.speed)
				if w.host.memory < j.memory || j.model != nil && w.host.model != j.model || w.rate > j.maxRate || len(w.slots) != j.gpus ||
					(w.ended-w.ready-ran).Abs() > time.Millisecond || j.paid <= 0 || slices.Contains(j.bad, w.host) {
					t.Errorf("%s: job %+v cannot have finished as %+v on %+v", p.name, j, w, w.host)
				}
			}
		}
		for _, h := range e.hosts {
			if h.free() != len(h.slots) {
				t.Errorf("%s: host %s still runs something: %v", p.name, h.name, h.slots)
			}
			if h.kind == baiter {
				baited++
			}
		}
		if n, ok := e.venue.(*naive); ok && (len(n.live) > 0 || len(n.queue) > 0 || slices.Max(n.busy) != 0 || slices.Min(n.busy) != 0) {
			t.Errorf("%s: at the end %d leases, %d in the queue, GPUs taken: %v", p.name, len(n.live), len(n.queue), n.busy)
		}
		if paid != e.tally.paid || won == 0 || won == len(e.jobs) || lied == 0 || baited == 0 || e.tally.lost == 0 || e.tally.granted == e.tally.asked {
			t.Errorf("%s: %d of %d jobs finished, liars failed %d, %d baiters, hosts lost %d, %d of %d holds granted, paid %v and %v",
				p.name, won, len(e.jobs), lied, baited, e.tally.lost, e.tally.granted, e.tally.asked, paid, e.tally.paid)
		}
		if arrivals == "" {
			arrivals = seen.String()
		}
		if seen.String() != arrivals {
			t.Errorf("%s met other jobs", p.name)
		}
	}
}

// TestFailuresInCommon wants hosts that do not vanish for a job to fail at the same moments under all policies.
func TestFailuresInCommon(t *testing.T) {
	cfg, err := Config{Hosts: 20, Span: 24 * time.Hour}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var first string
	for _, p := range policies() {
		e := newEngine(cfg, 5)
		v, err := p.open(e)
		if err != nil {
			t.Fatal(err)
		}
		w := &watched{venue: v, e: e}
		e.venue = w
		if err := e.play(); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = w.log
		}
		if w.log != first || w.log == "" {
			t.Errorf("%s: hosts failed at\n%swant\n%s", p.name, w.log, first)
		}
	}
}

// watched notes when hosts fail.
type watched struct {
	venue
	e   *engine
	log string
}

func (w *watched) gone(h *host) {
	if h.kind != vanisher && w.e.now < w.e.cfg.Span {
		w.log += fmt.Sprintln(h.name, w.e.now)
	}
	w.venue.gone(h)
}

// TestWash: what cannot be said of a seed is not said.
func TestWash(t *testing.T) {
	if got := wash(pricing.Inputs{}, 1, pricing.WashShare); !math.IsNaN(got) {
		t.Errorf("without trades: %v", got)
	}
	if got := wash(pricing.Inputs{Trades: make([]pricing.Trade, 1)}, 1, pricing.WashShare); !math.IsInf(got, 1) {
		t.Errorf("without a print: %v", got)
	}
}

func TestEstimate(t *testing.T) {
	got := estimate([]float64{1, 2, 3, math.NaN(), math.Inf(1)})
	want := Estimate{Mean: 2, Half: 4.303 / math.Sqrt(3), Seeds: 3}
	if got.Seeds != want.Seeds || math.Abs(got.Mean-want.Mean) > 1e-9 || math.Abs(got.Half-want.Half) > 1e-9 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for freedom, want := range map[int]float64{1: 12.706, 10: 2.228, 11: 2.201, 19: 2.093, 30: 2.042, 120: 1.980} {
		if got := student(freedom); math.Abs(got-want) > 0.0025 {
			t.Errorf("t of %d: %v, want %v", freedom, got, want)
		}
	}
	if got := quantile([]float64{1, 2, 3, 4}, 0.5); got != 2 {
		t.Errorf("median %v, want 2", got)
	}
}
