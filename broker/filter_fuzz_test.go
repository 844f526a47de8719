package broker_test

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// FuzzParseFilter: whatever is taken has a canonical form that is taken too and means the same.
func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{
		`gpu_name in [RTX_4090,"RTX 3090"] num_gpus=2 gpu_ram>=24 price<=0.40/h region!=US`, "gpus not in [1] gpus=any", `host="a\"b"`,
		"driver_version>=535.86.05 cuda_max_good gte 12.8", "disk_space>1TB memory>=0.3GiB", "region=null", "price<=0.40/s", "gpus=>1", "storage_cost<=0.1 inet_up_cost<$0.02 ingress_price<=0.01/GB all_in_price<=0.5/h", "gpus in [1", "power_limit<350.5",
	} {
		f.Add(s)
	}
	o := fullOffer()
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := broker.ParseFilter(text)
		if err != nil {
			if _, err := broker.ParseFilter(err.Error()); err == nil {
				t.Errorf("%q: the error %v is a query", text, err)
			}
			return
		}
		canonical := filter.String()
		again, err := broker.ParseFilter(canonical)
		if err != nil || again.String() != canonical {
			t.Fatalf("%q: %q reads as %q, %v", text, canonical, again, err)
		}
		spec := &broker.JobSpec{GPU: broker.GPURequest{Count: 2}, MaxDuration: time.Hour}
		if _, a := filter.Fails(&o, spec); true {
			if _, b := again.Fails(&o, spec); a != b {
				t.Errorf("%q and %q differ", text, canonical)
			}
		}
	})
}

// FuzzParseOrder likewise.
func FuzzParseOrder(f *testing.F) {
	f.Add("price,-gpu_ram,cuda-")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := broker.ParseOrder(text)
		if err != nil {
			return
		}
		if again, err := broker.ParseOrder(o.String()); err != nil || again.String() != o.String() {
			t.Errorf("%q: %q reads as %q, %v", text, o, again, err)
		}
	})
}

// naive evaluates a query the way Vast's own client reads it, with its regular expression, in floating point, and
// returns the field of the first predicate that fails. It knows valid queries only.
func naive(t *rapid.T, query string, o *broker.Offer, s *broker.JobSpec) string {
	comparison := regexp.MustCompile(`^([a-zA-Z0-9_]+)( *[=><!]+| +(?:[lg]te?|nin|neq|eq|not ?eq|not ?in|in) )?( *)(\[[^\]]+\]|"[^"]+"|[^ ]+)?( *)`)
	type term struct{ field, op, value string }
	var terms []term
	for query != "" {
		m := comparison.FindStringSubmatch(query)
		if m == nil {
			t.Fatalf("naive cannot read %q", query)
		}
		query = query[len(m[0]):]
		op := strings.ReplaceAll(strings.TrimSpace(m[2]), " ", "")
		op = map[string]string{"==": "=", "eq": "=", "neq": "!=", "noteq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "nin": "notin"}[op] + map[bool]string{true: op}[slices.Contains([]string{"=", "!=", "<", "<=", ">", ">=", "in", "notin"}, op)]
		canonical := map[string]string{"model": "gpu_name", "geolocation": "region", "dph_total": "total_price", "dph_base": "base_price", "storage_cost": "disk_price", "storage_total_cost": "job_disk_price", "inet_down_cost": "ingress_price", "inet_up_cost": "egress_price", "cuda_max_good": "cuda", "cpu_ram": "memory", "disk_space": "disk", "driver_version": "driver"}[m[1]]
		if canonical == "" {
			canonical = m[1]
		}
		drop := op == "=" && slices.Contains([]string{"any", "*", "?"}, m[4])
		terms = slices.DeleteFunc(terms, func(x term) bool {
			return x.field == canonical && (drop || x.op == op && op != "!=" && op != "notin")
		})
		if !drop {
			value := m[4]
			if m[1] == "storage_cost" && value != "null" {
				value = monthly(t, value)
			}
			terms = append(terms, term{canonical, op, value})
		}
	}
	for _, x := range terms {
		if !naiveTerm(t, x.field, x.op, x.value, o, s) {
			return x.field
		}
	}
	return ""
}

// monthly makes hourly prices of a month's, of which Vast says that it has 720 hours.
func monthly(t *rapid.T, text string) string {
	var out []string
	for v := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
		price, err := strconv.ParseFloat(v, 64)
		if err != nil {
			t.Fatalf("naive: %v", err)
		}
		out = append(out, strconv.FormatFloat(math.RoundToEven(price/720*1e9)/1e9, 'f', 9, 64))
	}
	return strings.Join(out, ",")
}

// naiveTariff is what a job's disk costs in an hour, and its price per GPU-hour with all that it may carry, in nanodollars.
func naiveTariff(o *broker.Offer, s *broker.JobSpec) (disk, allIn float64) {
	gib, gb, rate := 10.0, 1.0, float64(o.Rate)
	if s.DiskMiB > 0 {
		gib = float64(s.DiskMiB) / 1024
	}
	if s.Traffic > 0 {
		gb = float64(s.Traffic) / 1e9
	}
	if s.Bid > 0 {
		rate = float64(o.MinBid)
	}
	disk = math.RoundToEven(float64(o.Tariff.Disk) * gib)
	traffic := math.RoundToEven(float64(o.Tariff.Ingress)*gb) + math.RoundToEven(float64(o.Tariff.Egress)*gb)
	return disk, math.Ceil(rate + (disk+traffic/s.MaxDuration.Hours())/float64(s.GPU.Count) - 1e-4)
}

func naiveTerm(t *rapid.T, field, op, text string, o *broker.Offer, s *broker.JobSpec) bool {
	g, n := o.GPUs[0], float64(s.GPU.Count)
	disk, allIn := naiveTariff(o, s)
	numbers := map[string]float64{
		"gpus": float64(len(o.GPUs)), "num_gpus": min(n, float64(len(o.GPUs))), "gpu_ram": float64(g.NominalMiB()) / 1024, "gpu_ram_mib": float64(g.MemoryMiB),
		"price": float64(o.Rate) / 1e9, "base_price": float64(o.Rate) / 1e9 * n, "total_price": (float64(o.Rate)*n + disk) / 1e9, "all_in_price": allIn / 1e9,
		"disk_price": float64(o.Tariff.Disk) / 1e9, "job_disk_price": disk / 1e9, "ingress_price": float64(o.Tariff.Ingress) / 1e9, "egress_price": float64(o.Tariff.Egress) / 1e9,
		"cpus": float64(o.CPUs) * n, "memory": float64(o.MemoryMiB) * n * 1.048576 / 1000,
		"disk": float64(o.DiskMiB) * 1.048576 / 1000, "compute_cap": float64(g.ComputeMajor*100 + g.ComputeMinor*10), "cuda": decimalVersion(g.CUDA), "driver": decimalVersion(g.Driver),
	}
	texts := map[string]string{"gpu_name": g.Model, "region": o.Region, "simulated": strconv.FormatBool(o.Simulated())}
	known := map[string]bool{"region": o.Region != "", "disk": o.DiskMiB > 0, "compute_cap": g.ComputeMajor > 0, "cuda": g.CUDA != "", "driver": g.Driver != ""}
	isKnown, listed := known[field]
	isKnown = isKnown || !listed
	if text == "null" {
		return isKnown == (op == "!=")
	}
	if !isKnown {
		return false
	}
	equal := false
	order := 0.0
	for v := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
		v = strings.Trim(v, `"`)
		if have, ok := texts[field]; ok {
			equal = equal || strings.EqualFold(have, strings.ReplaceAll(v, "_", " "))
			continue
		}
		have, ok := numbers[field]
		if !ok {
			t.Fatalf("naive does not know %s", field)
		}
		var want float64
		if field == "cuda" || field == "driver" {
			want = decimalVersion(v)
		} else {
			var err error
			if want, err = strconv.ParseFloat(v, 64); err != nil {
				t.Fatalf("naive: %v", err)
			}
		}
		order = have - want
		if order < 5e-10 && order > -5e-10 {
			order = 0
		}
		equal = equal || order == 0
	}
	return map[string]bool{"=": equal, "in": equal, "!=": !equal, "notin": !equal, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[op]
}

func decimalVersion(s string) float64 {
	v := 0.0
	for i, part := range strings.Split(s, ".") {
		n, _ := strconv.ParseFloat(part, 64)
		v += n * []float64{1e6, 1e3, 1}[i]
	}
	return v
}

// queryText draws a valid query in which values are near what offers have.
func queryText(t *rapid.T) string {
	ordered := []string{"=", "==", "!=", "<", "<=", ">", ">=", " = ", " >= ", " lt ", " lte ", " gt ", " gte ", " eq ", " neq ", " not eq ", " noteq "}
	equality := []string{"=", " == ", "!=", " eq ", " neq ", " not eq "}
	lists := []string{" in ", " notin ", " not in ", " nin "}
	values := map[string][]string{
		"gpus": {"1", "2", "4"}, "num_gpus": {"1", "2"}, "gpu_ram": {"24", "23.9", "47", "48"}, "gpu_ram_mib": {"24564", "24576"}, "price": {"0.4", "0.39", "0.5"}, "total_price": {"0.8", "0.4"},
		"dph_total": {"0.8", "0.81", "0.85"}, "base_price": {"0.4", "0.8"}, "dph_base": {"0.8"}, "all_in_price": {"0.4", "0.41", "0.42", "0.45", "0.475", "0.5", "2.8"},
		"disk_price": {"0", "0.001", "0.0001"}, "storage_cost": {"0", "0.72", "0.1", "0.8"}, "job_disk_price": {"0.01", "0.05", "0.1"}, "storage_total_cost": {"0.05"},
		"ingress_price": {"0", "0.02", "0.01"}, "inet_down_cost": {"0.02"}, "egress_price": {"0", "0.02", "0.05"}, "inet_up_cost": {"0.05"},
		"cpus": {"8", "16"}, "cpu_ram": {"34", "68"}, "disk_space": {"100", "1000", "1100"}, "compute_cap": {"890", "860"}, "cuda": {"12.2", "12", "13.0"},
		"cuda_max_good": {"12.8"}, "driver_version": {"535", "535.86.05", "550.54"}, "gpu_name": {"RTX_4090", `"RTX 4090"`, "rtx_3090", "T4"}, "model": {"RTX_4090"},
		"region": {"DE", "us", "FR"}, "geolocation": {"DE"}, "simulated": {"true", "false"},
	}
	names := make([]string, 0, len(values))
	for n := range values {
		names = append(names, n)
	}
	slices.Sort(names)
	var parts []string
	for range rapid.IntRange(0, 6).Draw(t, "predicates") {
		name := rapid.SampledFrom(names).Draw(t, "field")
		named := slices.Contains([]string{"gpu_name", "model", "region", "geolocation", "simulated"}, name)
		value := rapid.SampledFrom(values[name])
		switch rapid.IntRange(0, 9).Draw(t, "form") {
		case 0:
			parts = append(parts, name+rapid.SampledFrom([]string{"=any", " = *", "=?", " eq any"}).Draw(t, "any"))
		case 1:
			parts = append(parts, name+rapid.SampledFrom([]string{"=null", "!=null"}).Draw(t, "null"))
		case 2, 3:
			list := strings.Join(rapid.SliceOfN(value, 1, 3).Draw(t, "list"), ",")
			parts = append(parts, name+rapid.SampledFrom(lists).Draw(t, "in")+"["+list+"]")
		default:
			ops := ordered
			if named {
				ops = equality
			}
			parts = append(parts, name+rapid.SampledFrom(ops).Draw(t, "op")+value.Draw(t, "value"))
		}
	}
	return strings.Join(parts, rapid.SampledFrom([]string{" ", "  "}).Draw(t, "space"))
}

func anyOffer(t *rapid.T) broker.Offer {
	model := rapid.SampledFrom([]string{"RTX 4090", "RTX 3090", "T4"}).Draw(t, "model")
	o := markettest.Offer("host", model, rapid.IntRange(1, 4).Draw(t, "gpus"), 400_000_000)
	o.Region = rapid.SampledFrom([]string{"DE", "US", ""}).Draw(t, "region")
	o.DiskMiB = rapid.SampledFrom([]uint64{0, 95368, 1 << 20}).Draw(t, "disk")
	o.CPUs, o.MemoryMiB, o.MinBid = 8, 32<<10, 100_000_000
	o.Tariff = broker.Tariff{
		Disk:    pricing.Rate(rapid.SampledFrom([]int64{0, 1_000_000, 138_889}).Draw(t, "disk price")), // the last is $0.10 a month
		Ingress: pricing.Money(rapid.SampledFrom([]int64{0, 20_000_000}).Draw(t, "ingress price")),
		Egress:  pricing.Money(rapid.SampledFrom([]int64{0, 20_000_000, 50_000_000, 33_333_333}).Draw(t, "egress price")),
	}
	known := rapid.Bool().Draw(t, "known")
	memory := rapid.SampledFrom([]uint64{24564, 46068, 24576}).Draw(t, "memory")
	for i := range o.GPUs {
		g := &o.GPUs[i]
		g.MemoryMiB = memory
		g.Driver, g.CUDA, g.ComputeMajor, g.ComputeMinor = "", "", 0, 0
		if known {
			g.Driver, g.CUDA, g.ComputeMajor, g.ComputeMinor = "535.86.05", "12.2", 8, 9
		}
	}
	return o
}

func anySpec(t *rapid.T) *broker.JobSpec {
	return &broker.JobSpec{
		GPU:         broker.GPURequest{Count: rapid.IntRange(1, 2).Draw(t, "count")},
		MaxDuration: rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 2 * time.Hour, 7 * time.Hour}).Draw(t, "duration"),
		DiskMiB:     rapid.SampledFrom([]uint64{0, 0, 17, 50 << 10, 100 << 10}).Draw(t, "needs disk"),
		Traffic:     rapid.SampledFrom([]int64{0, 0, 1, 2e9, 5e8}).Draw(t, "traffic"),
		Bid:         pricing.Rate(rapid.SampledFrom([]int64{0, 0, 100_000_000}).Draw(t, "bid")),
	}
}

func agreesWithNaive(t *rapid.T) {
	o, spec := anyOffer(t), anySpec(t)
	for range 20 {
		query := queryText(t)
		f, err := broker.ParseFilter(query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got := ""
		if p, fails := f.Fails(&o, spec); fails {
			got = p.Field()
		}
		if want := naive(t, query, &o, spec); got != want {
			t.Fatalf("%s\n reads as %s\n fails on %q, naive on %q\n %+v\n %+v", query, f, got, want, o, spec)
		}
	}
}

func TestFilterAgreesWithNaive(t *testing.T) { rapid.Check(t, agreesWithNaive) }

func FuzzFilterAgreesWithNaive(f *testing.F) { f.Fuzz(rapid.MakeFuzz(agreesWithNaive)) }
