package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// model is a GPU as hosts sell it.
type model struct {
	name      string
	memoryMiB uint64
	price     float64 // dollars per GPU-hour, the fair price at the start
	share     float64 // of hosts
}

// models are four of broker/testdata/vast.csv: memory and median price per GPU of its offers. The shares are about those
// of consumer and data center GPUs there.
func models() []model {
	return []model{
		{"RTX 4090", 24564, 0.395, 0.35},
		{"RTX 5090", 32607, 0.4675, 0.3},
		{"L40S", 46068, 0.6, 0.15},
		{"H100 SXM", 81559, 1.87, 0.2},
	}
}

type honesty uint8

const (
	honest honesty = iota
	liar
	baiter
	vanisher
	dear // a cheap GPU with dear disk and traffic
)

// host is an owner's machine as it is, not as it claims to be.
type host struct {
	id       int
	name     string
	kind     honesty
	model    *model
	region   string
	operator string
	speed    float64 // of what its model should have
	memory   uint64  // MiB
	hazard   float64 // failures per hour
	ask      float64 // times the fair price
	cost     float64 // of a GPU-hour to its owner, times the fair price
	inbound  float64 // bytes per second
	rtt      time.Duration
	failures *rand.Rand // apart from whims, so that no policy changes when it fails
	whims    *rand.Rand // of its owner

	online bool
	boot   int          // of its agent; an event meant for an earlier boot is void
	seq    uint64       // of its offers
	rate   pricing.Rate // that it asks now
	tariff broker.Tariff
	raised bool         // after a bait
	slots  []*run       // by GPU; nil: free
	epochs []uint64     // by GPU
	images map[int]bool // held
}

// job is what a customer wants.
type job struct {
	id       int
	customer int
	model    *model // nil: any
	memory   uint64 // MiB per GPU that it needs
	gpus     int
	work     time.Duration // at the full speed of a model
	value    float64       // dollars, if it finishes in time
	maxRate  pricing.Rate
	disk     uint64  // MiB that it may write
	traffic  int64   // bytes that it carries, each way
	fair     float64 // dollars, of the work when it arrived
	image    int
	arrived  time.Duration

	tries int
	bad   []*host // that failed it
	over  bool
	won   *run // that finished it
	paid  pricing.Money
	ready time.Duration // of the last run
}

// deadline is when finishing is worth nothing any more.
func (j *job) deadline() time.Duration { return j.arrived + patience + maxOverrun*j.work }

func (j *job) maxDuration() time.Duration { return maxOverrun * j.work }

// images is how many there are; jobs want the first most often, by Zipf's law.
const images = 200

// stream returns random numbers that depend on nothing but the seed and what they are for.
func stream(seed uint64, kind string, id int) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(kind) {
		h = (h ^ uint64(kind[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h+uint64(id)*0x9e3779b97f4a7c15)) //nolint:gosec // not for secrets
}

func logNormal(r *rand.Rand, median, sigma float64) float64 {
	return median * math.Exp(sigma*r.NormFloat64())
}

// gamma draws by Marsaglia and Tsang, A Simple Method for Generating Gamma Variables (2000); for shapes below one by
// their boost.
func gamma(r *rand.Rand, shape, mean float64) float64 {
	scale := mean / shape
	if shape < 1 {
		return gamma(r, shape+1, (shape+1)*scale) * math.Pow(1-r.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := r.NormFloat64()
		v := (1 + c*x) * (1 + c*x) * (1 + c*x)
		if v > 0 && math.Log(1-r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v * scale
		}
	}
}

// Of failures: see the package comment. The shape below one says that a few hosts fail often.
const (
	hazardShape = 0.7
	hazardMean  = 0.025 // per hour, of all hosts; a week of reallocations ends on better ones
	downLeast   = 6 * time.Minute
	downMean    = 30 * time.Minute
)

// pick returns the index of a weight, at random.
func pick(r *rand.Rand, weights ...float64) int {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	x := r.Float64() * total
	for i, w := range weights {
		if x -= w; x < 0 {
			return i
		}
	}
	return len(weights) - 1
}

func hours(h float64) time.Duration { return time.Duration(h * float64(time.Hour)) }

func makeHosts(seed uint64, n int) []*host {
	all := models()
	regions := [...]string{"US", "DE", "TW", "CA", "FR"}
	hosts := make([]*host, n)
	for i := range hosts {
		r := stream(seed, "host", i)
		var shares []float64
		for _, m := range all {
			shares = append(shares, m.share)
		}
		h := &host{
			id: i, name: fmt.Sprintf("h%03d", i), model: &all[pick(r, shares...)],
			kind:     honesty(pick(r, 0.76, 0.06, 0.06, 0.06, 0.06)), //nolint:gosec // small
			region:   regions[pick(r, 4, 2, 2, 1, 1)],
			operator: fmt.Sprintf("o%03d", i*2/3), // every third owner has two
			speed:    logNormal(r, 1, 0.05),
			hazard:   gamma(r, hazardShape, hazardMean),
			ask:      logNormal(r, 1, 0.25),
			inbound:  logNormal(r, 50e6, 0.6), // 400 Mbit/s
			rtt:      time.Duration(logNormal(r, 80, 0.5) * float64(time.Millisecond)),
			failures: stream(seed, "failures", i),
			whims:    stream(seed, "whims", i),
			images:   map[int]bool{},
		}
		h.memory, h.cost = h.model.memoryMiB, 0.75*h.ask
		gpus := [...]int{1, 2, 4, 8}[pick(r, 0.35, 0.25, 0.25, 0.15)]
		h.slots, h.epochs = make([]*run, gpus), make([]uint64, gpus)
		switch h.kind {
		case honest:
		case liar:
			h.memory, h.speed, h.cost = h.model.memoryMiB/2, 0.4+0.5*r.Float64(), 0.4
			h.ask *= 0.85
		case baiter:
			h.ask *= 0.7
		case vanisher:
			h.ask *= 0.9
		case dear:
			h.ask *= 0.75
		}
		h.tariff = makeTariff(stream(seed, "tariff", i), h.kind)
		hosts[i] = h
	}
	return hosts
}

// What usual hosts ask for disk and traffic: about $0.15 a month for a GiB, and little for traffic or nothing.
const (
	usualDisk   = 0.0002 // dollars per GiB-hour
	usualEgress = 0.01   // dollars per GB
)

func makeTariff(r *rand.Rand, kind honesty) broker.Tariff {
	disk, egress, ingress := logNormal(r, usualDisk, 0.5), logNormal(r, usualEgress, 0.5)*float64(pick(r, 1, 1)), 0.0
	if kind == dear {
		disk, egress, ingress = 15*disk, 0.1+egress, 0.05
	}
	nano := func(dollars float64) int64 { return int64(math.Round(dollars * float64(pricing.USD))) }
	return broker.Tariff{Disk: pricing.Rate(nano(disk)), Ingress: pricing.Money(nano(ingress)), Egress: pricing.Money(nano(egress))}
}

// allIn is what a GPU-hour of a job costs on a host in dollars, with disk and traffic, if it takes as long as it should.
func (j *job) allIn(h *host) float64 {
	c, err := j.charge(h.rate, h.tariff)
	if err != nil {
		return math.Inf(1) // not of what hosts ask here
	}
	return (dollars(c.Hourly()) + dollars(c.Traffic)/j.work.Hours()) / float64(j.gpus)
}

func (j *job) charge(rate pricing.Rate, t broker.Tariff) (broker.Charge, error) {
	s := broker.JobSpec{GPU: broker.GPURequest{Count: j.gpus}, DiskMiB: j.disk, Traffic: j.traffic}
	return s.Charge(rate, t)
}

// makeFair returns the fair price of each model by hour.
func makeFair(seed uint64, hours int) map[string][]float64 {
	out := map[string][]float64{}
	for i, m := range models() {
		r := stream(seed, "fair", i)
		price := m.price
		for range hours {
			out[m.name] = append(out[m.name], price)
			price *= math.Exp(wanderHourly * r.NormFloat64())
		}
	}
	return out
}

func makeImages(seed uint64) []float64 {
	r := stream(seed, "images", 0)
	out := make([]float64, images)
	for i := range out {
		out[i] = math.Round(logNormal(r, 5.5e9, 0.8))
	}
	return out
}

// Of jobs.
const (
	workMedian = 0.5 // hours
	workSigma  = 1.0
	anyShare   = 0.15 // take any model with enough memory
)

// makeJobs fills the hosts' GPUs to a load, as far as jobs do not fail.
func makeJobs(e *engine) []*job {
	r := stream(e.seed, "jobs", 0)
	gpus := 0
	share := map[*model]float64{}
	var list []*model
	for _, h := range e.hosts {
		gpus += len(h.slots)
		if share[h.model] == 0 {
			list = append(list, h.model)
		}
		share[h.model] += float64(len(h.slots))
	}
	var weights []float64
	for _, m := range list {
		weights = append(weights, share[m])
	}
	sizes := []int{1, 2, 4, 8}
	of := []float64{0.7, 0.15, 0.1, 0.05}
	meanGPUs := 0.0
	for i := range sizes {
		meanGPUs += float64(sizes[i]) * of[i]
	}
	meanWork := workMedian * math.Exp(workSigma*workSigma/2)
	gap := meanGPUs * meanWork / (float64(gpus) * e.cfg.Load)
	var zipf []float64
	for i := range images {
		zipf = append(zipf, 1/float64(i+1))
	}
	var jobs []*job
	for at := hours(gap * r.ExpFloat64()); at < e.cfg.Span; at += hours(gap * r.ExpFloat64()) {
		m := list[pick(r, weights...)]
		j := &job{
			id: len(jobs), customer: r.IntN(customers), model: m, gpus: sizes[pick(r, of...)], arrived: at, image: pick(r, zipf...),
			work: hours(min(max(logNormal(r, workMedian, workSigma), 0.05), 12)).Round(time.Second),
		}
		j.memory = needed(float64(m.memoryMiB) * (0.3 + 0.7*r.Float64()))
		fair := e.fairOf(m, at)
		perHour := fair * logNormal(r, 1.6, 0.4)
		if r.Float64() < anyShare {
			j.model = nil
		}
		j.maxRate = tick(perHour)
		j.value = perHour * float64(j.gpus) * j.work.Hours()
		needs := stream(e.seed, "needs", j.id)
		gib, gb := min(max(logNormal(needs, 20, 0.8), 1), 100), min(max(logNormal(needs, 1, 1.2), 0.01), 50)
		j.disk, j.traffic = uint64(gib*1024), int64(gb*1e9)
		j.fair = fair*float64(j.gpus)*j.work.Hours() + usualDisk*gib*j.work.Hours() + usualEgress/2*gb
		jobs = append(jobs, j)
	}
	return jobs
}

// needed returns the largest size that customers ask for up to so many MiB. None is between what a card reports and the
// rounder size by which it is sold and found.
func needed(mib float64) uint64 {
	size := uint64(0)
	for _, gib := range []uint64{4, 8, 12, 16, 20, 23, 28, 31, 36, 40, 44, 60, 72, 79} {
		if float64(gib<<10) <= mib {
			size = gib << 10
		}
	}
	return size
}

// tick rounds dollars per hour to a tenth of a cent: owners and customers quote no finer.
func tick(perHour float64) pricing.Rate {
	const size = float64(pricing.USD) / 1000
	return pricing.Rate(max(1, math.Round(perHour*float64(pricing.USD)/size)) * size)
}
