package book

import (
	"fmt"
	"math"
)

// Job is what ranking by expected cost needs to know. Amounts are nanodollars, times seconds, sizes bytes. Zero fields
// add nothing to the cost. Slices and map are read only, and may be shared by queries. Slices by model or region may be
// shorter than there are numbers.
//
// What a job is expected to cost on an offer is
//
//	run    = Work / (Speed · GPUs^Scaling · κ)            κ = Score / Median within 0.5…1.1
//	start  = Setup + Reach + Before·missing/rate + Load/min(disk, PCIe)
//	rate   = min(Down, disk bandwidth, Supply)            missing = Bytes · (1 − share held)
//	E      = run/C · (1/λ + R) · (exp(λ·C) − 1)           C = Checkpoint, or run without; R = start + Restore
//	cost   = price·GPUs·(E + BilledStart·start) + storage·(E + start) + traffic in·missing + traffic out·Out
//	       + Nearby·E + Waiting·start + Lateness·max(0, start + E − Deadline)
//
// E is the expected time to finish under failures that come at a rate of λ and send the job back to its last
// checkpoint: the renewal argument of Duda (1983). Rates that an offer does not state count as the least that it could
// state, so that silence is never better than a word.
type Job struct {
	Work       float64   // of the run on one GPU of speed 1
	Speed      []float64 // by model; nil or zero: 1
	Scaling    float64   // 0: more GPUs do not make it faster; 1: they do in proportion
	Median     []float64 // by model: the score of a usual offer; nil or zero: scores say nothing
	Checkpoint float64   // between checkpoints; zero: none
	Restore    float64   // from a checkpoint

	Setup       float64         // the part of the start that is equal everywhere
	Reach       []float64       // by region: the part of the start that distance costs
	Bytes       float64         // image and weights
	Held        map[Slot]uint16 // the share of Bytes that is there already, of 65,535; fastest up to MaxHeld
	Before      float64         // 0…1: the share of what is missing that is needed before the start
	Supply      float64         // bytes per second that those who hold them can send; zero: no limit
	Load        float64         // bytes to load into the GPUs before the start
	BilledStart float64         // 0…1: the share of the start that is billed

	Storage  float64   // GiB kept while it runs
	Out      float64   // bytes sent to the internet
	Nearby   []float64 // by region: nanodollars that an hour of run there is worse
	Waiting  float64   // nanodollars per second until it starts
	Lateness float64   // nanodollars per second after Deadline
	Deadline float64   // from now
}

// limits of numbers in a job, so that no cost overflows.
const maxNumber = 1e18

func (j *Job) check() error {
	bad := func(name string, v, most float64) error {
		if !(v >= 0 && v <= most) { // also NaN
			return fmt.Errorf("%w: job's %s is %g, not 0…%g", ErrQuery, name, v, most)
		}
		return nil
	}
	for _, f := range []struct {
		name    string
		v, most float64
	}{
		{"work", j.Work, maxNumber},
		{"scaling", j.Scaling, 1},
		{"checkpoint", j.Checkpoint, maxNumber},
		{"restore", j.Restore, maxNumber},
		{"setup", j.Setup, maxNumber},
		{"bytes", j.Bytes, maxNumber},
		{"share before the start", j.Before, 1},
		{"supply", j.Supply, maxNumber},
		{"load", j.Load, maxNumber},
		{"billed share of the start", j.BilledStart, 1},
		{"storage", j.Storage, maxNumber},
		{"bytes out", j.Out, maxNumber},
		{"price of waiting", j.Waiting, maxNumber},
		{"price of lateness", j.Lateness, maxNumber},
		{"deadline", j.Deadline, maxNumber},
	} {
		if err := bad(f.name, f.v, f.most); err != nil {
			return err
		}
	}
	for name, by := range map[string][]float64{
		"speed": j.Speed, "median": j.Median, "reach": j.Reach, "price of distance": j.Nearby,
	} {
		if len(by) > MaxModel+1 {
			return fmt.Errorf("%w: job's %s has %d entries", ErrQuery, name, len(by))
		}
		for _, v := range by {
			if err := bad(name, v, maxNumber); err != nil {
				return err
			}
		}
	}
	return nil
}

// MaxHeld is how many holders of a job's bytes a search looks at before all others.
const MaxHeld = 1024

// first reports whether holders are looked at first.
func (j *Job) first() bool { return len(j.Held) <= MaxHeld }

// Cost returns what the job is expected to cost on an offer, in nanodollars.
func (j *Job) Cost(s Slot, r *Record) float64 {
	p := j.plan(r.Model, r.GPUs)
	return j.cost(&p, r, j.Held[s])
}

// plan is what a job costs on any offer of a cell.
type plan struct {
	gpus   float64
	run    float64 // hours with κ = 1
	median float64
	load   float64 // seconds of loading at least
	// No offer of the cell costs less than price·slope + base.
	slope, base float64
}

// least is the parts of a job's cost in a zone, each as low as it can be there.
type least struct {
	run     float64 // hours
	fetch   float64 // seconds of the start
	traffic float64 // nanodollars
}

// Bounds of κ: how much a score may change the run time that is expected.
const (
	leastKappa = 0.5
	mostKappa  = 1.1
)

const (
	hour     = 3600
	mbit     = 1e6 / 8 // bytes
	megabyte = 1e6
	perByte  = 1e4 / 1e9 // nanodollars, for a unit of DownPrice or UpPrice
	// perStorage is nanodollars per GiB-hour, for a unit of StoragePrice.
	perStorage = 100
	// leastFetch is the part of its [Fetch] that a GB must cost a job, so that the attributes which Fetch follows from need
	// not be asked, too: they would tell few more apart.
	leastFetch = 0.25
	// slack covers the rounding of a cost against that of its bound.
	slack = 1e-9
)

func (j *Job) plan(model uint16, gpus uint8) plan {
	speed := at(j.Speed, int(model))
	if speed == 0 {
		speed = 1
	}
	p := plan{gpus: float64(gpus), run: j.Work / speed / hour, median: at(j.Median, int(model))}
	if j.Scaling > 0 {
		p.run /= math.Pow(p.gpus, j.Scaling)
	}
	return p
}

// bound sets the least that a plan's cell can cost.
func (j *Job) bound(p *plan, c *cell) {
	z := zone{
		down: c.highest[Down], disk: c.highest[DiskBandwidth], score: c.highest[Score], downPrice: c.lowest[DownPrice],
		fetch: c.lowest[Fetch],
	}
	if j.Load > 0 {
		p.load = j.Load / megabyte / min(most(DiskBandwidth, z.disk), most(PCIe, c.highest[PCIe]))
	}
	l := j.least(p, z)
	start := j.Setup + l.fetch + p.load
	p.slope = (1 - slack) * p.gpus * (l.run + j.BilledStart*start/hour)
	p.base = (1 - slack) * (l.traffic + j.late(start, l.run))
}

// most returns the greatest value of a level where zero counts as one.
func most(a Attribute, level uint8) float64 { return float64(max(scales[a].most(level), 1)) }

func (j *Job) least(p *plan, z zone) (l least) {
	l.run = p.run
	if p.median > 0 {
		l.run /= min(max(float64(scales[Score].most(z.score))/p.median, leastKappa), mostKappa)
	}
	if j.Bytes > 0 && j.first() { // whoever holds something is known already
		rate := min(mbit*most(Down, z.down), megabyte*most(DiskBandwidth, z.disk))
		if j.Supply > 0 {
			rate = min(rate, j.Supply)
		}
		l.fetch = j.Before * j.Bytes / rate
		l.traffic = perByte * float64(scales[DownPrice].least(z.downPrice)) * j.Bytes
	}
	return l
}

// receive returns what receiving the job's bytes costs on a slot whose GPUs cost price…upTo, as far as it follows from its
// [Fetch]: at least perFetch·Fetch + rest.
//
// A byte costs traffic, and t times the rent for as long as it takes, where t is the share of that time which is billed and
// what waiting is worth. Fetch has t = 1. With a smaller one, a byte costs at least t·Fetch and 1 − t of the traffic; with a
// larger one, Fetch and t − 1 times the rent meanwhile.
func (j *Job) receive(p *plan, l least, price, upTo float64) (perFetch, rest float64) {
	t := j.Before * j.BilledStart
	if upTo > 0 {
		t += j.Before * j.Waiting / (upTo * p.gpus / hour)
	}
	if t <= 1 {
		return t * j.Bytes / 1e9, (1 - t) * l.traffic
	}
	return j.Bytes / 1e9, (t - 1) * price * p.gpus / hour * l.fetch / j.Before
}

// late returns what starting and ending so late costs: seconds and hours.
func (j *Job) late(start, run float64) float64 {
	return j.Waiting*start + j.Lateness*max(0, start+run*hour-j.Deadline)
}

// limit makes the program that passes all slots of a leaf that may cost less than the k-th best, and reports false if
// there can be none: none costs less per GPU-hour than price, or more than upTo. Each attribute is given all the room that
// the least of all others leaves.
func (j *Job) limit(out *program, p *plan, z zone, price, upTo, best float64, c *census) bool {
	out.steps = out.steps[:0]
	l := j.least(p, z)
	start := j.Setup + l.fetch + p.load
	rent := price * p.gpus
	// What is left when everything is the least that it can be:
	room := best - rent*(l.run+j.BilledStart*start/hour) - l.traffic - j.late(start, l.run) + slack*best
	// A second of start costs:
	second := rent*j.BilledStart/hour + j.Waiting
	apart := room // likewise, if the least of each attribute is all that is known of the bytes
	bytes := j.Bytes > 0 && j.first()
	var perFetch, rest, all float64
	if bytes {
		perFetch, rest = j.receive(p, l, price, upTo)
		all = l.traffic + second*l.fetch
		room -= max(0, (1-slack)*(perFetch*float64(scales[Fetch].least(z.fetch))+rest)-all)
	}
	if room < 0 {
		return false
	}
	if !(room > 0) || math.IsInf(room, 0) {
		return true
	}
	atLeast := func(a Attribute, v float64) {
		if v > 1 { // zero counts as one
			out.atLeast(a, uint32(min(v, Unbounded)), c)
		}
	}
	if bytes {
		if perFetch < leastFetch*j.Bytes/1e9 {
			rate := (1 - slack) * j.Before * j.Bytes / (l.fetch + apart/second)
			atLeast(Down, rate/mbit)
			atLeast(DiskBandwidth, rate/megabyte)
			out.atMost(DownPrice, uint32(min((1+slack)*(l.traffic+apart)/(perByte*j.Bytes), Unbounded)), c)
		}
		if perFetch > 0 {
			out.atMost(Fetch, uint32(min((1+slack)*max(0, all+apart-rest)/perFetch, Unbounded)), c)
		}
	}
	if j.Load > 0 {
		rate := (1 - slack) * j.Load / (p.load + room/second)
		atLeast(DiskBandwidth, rate/megabyte)
		atLeast(PCIe, rate/megabyte)
	}
	if j.Out > 0 {
		out.atMost(UpPrice, uint32(min((1+slack)*room/(perByte*j.Out), Unbounded)), c)
	}
	if perUnit := perStorage * j.Storage * (l.run + start/hour); perUnit > 0 {
		out.atMost(StoragePrice, uint32(min((1+slack)*room/perUnit, Unbounded)), c)
	}
	if p.median > 0 && rent > 0 {
		if kappa := rent * p.run / (rent*l.run + room); kappa > leastKappa {
			atLeast(Score, (1-slack)*min(kappa, mostKappa)*p.median)
		}
	}
	out.worthwhile()
	return true
}

// cost returns what the job is expected to cost on an offer of the plan's cell that holds a share of its bytes.
func (j *Job) cost(p *plan, r *Record, held uint16) float64 {
	run := p.run
	if p.median > 0 {
		run /= min(max(float64(r.Score)/p.median, leastKappa), mostKappa)
	}
	start := j.Setup + at(j.Reach, int(r.Region))
	missing := j.Bytes * float64(math.MaxUint16-held) / math.MaxUint16
	disk := megabyte * float64(max(r.DiskBandwidth, 1))
	if missing > 0 {
		rate := min(mbit*float64(max(r.Down, 1)), disk)
		if j.Supply > 0 {
			rate = min(rate, j.Supply)
		}
		start += j.Before * missing / rate
	}
	if j.Load > 0 {
		start += j.Load / min(disk, megabyte*float64(max(r.PCIe, 1)))
	}
	begin := start / hour
	expected := run
	if r.Hazard > 0 && run > 0 {
		hazard := 1e-5 * float64(r.Hazard)
		between := run
		if j.Checkpoint > 0 {
			between = min(run, j.Checkpoint/hour)
		}
		// Past 100 the job never ends there; its cost need not be exact then, only finite.
		expected = run / between * (1/hazard + begin + j.Restore/hour) * math.Expm1(min(hazard*between, 100))
		expected = max(expected, run) // of a product that was rounded down
	}
	return float64(r.Price)*p.gpus*(expected+j.BilledStart*begin) +
		perStorage*float64(r.StoragePrice)*j.Storage*(expected+begin) +
		perByte*(float64(r.DownPrice)*missing+float64(r.UpPrice)*j.Out) +
		at(j.Nearby, int(r.Region))*expected +
		j.late(start, expected)
}

func at(by []float64, i int) float64 {
	if i < len(by) {
		return by[i]
	}
	return 0
}
