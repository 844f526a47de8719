package broker

import (
	"slices"
	"time"

	"rialto/pricing"
)

// Query says which offers are wanted. Zero fields match everything.
type Query struct {
	GPU       GPURequest   // no model: any; no count: what Where says, or 1
	MemoryMiB uint64       // host memory for the whole job
	CPUs      int          // for the whole job
	MaxRate   pricing.Rate // per GPU-hour
	Bid       pricing.Rate // per GPU-hour, of an interruptible job; zero: on-demand
	Region    string
	Provider  PeerID
	Image     string   // digest of the image
	Root      string   // CID of the image's root
	Weights   []string // CIDs of weight roots
	Where     Filter   // all else

	Run      time.Duration // how long the job is expected to run; zero: an hour
	WaitRate pricing.Rate  // what an hour of waiting costs the customer beside the GPUs themselves
	Reserve  time.Duration // what the job commits to where that earns a reserved rate; its price is the one there
	DiskMiB  uint64        // that the job may write; zero: [UsualDiskMiB], of hosts that do not say how much they have, too
	Traffic  int64         // bytes each way that the customer pays for; zero: [UsualTraffic]

	// How a search shows its matches. Quotes and jobs always get the market's first choice.
	Order Order
	Limit int    // of matches and of busy offers, each; zero: all
	After string // Next of the search before
	Brief bool   // the first matches are enough, if there are any: see [Search.Brief]

	lottery string // of a job: see Market.spread
	needs   *needs // while a search runs
}

// complete checks a query and fills in what it leaves open.
func (m *Market) complete(q Query) (Query, error) {
	if q.GPU.Model == "" {
		q.GPU.Model = AnyModel
	}
	if q.GPU.Count == 0 {
		n, err := q.Where.JobGPUs()
		if err != nil {
			return q, err
		}
		q.GPU.Count = n
	}
	var c checker
	q.GPU.check(&c)
	c.region("region", q.Region)
	c.that(q.CPUs >= 0 && q.MaxRate >= 0 && q.Bid >= 0, "query", "below zero")
	c.that(q.Where.takes(q.GPU.Count), "num_gpus", "the job has %d GPUs, the query wants another number", q.GPU.Count)
	c.that(q.Limit >= 0, "limit", "below zero")
	c.that(!q.Brief || q.Limit > 0, "brief", "needs a limit")
	c.that(q.Run >= 0 && q.Run <= maxDuration, "run", "%v: want at most %v", q.Run, maxDuration)
	c.that(q.Reserve >= 0 && q.Reserve <= maxDuration, "reserve", "%v: want at most %v", q.Reserve, maxDuration)
	c.that(q.DiskMiB <= MaxDiskMiB, "disk", "%d MiB: want at most %d", q.DiskMiB, MaxDiskMiB)
	c.that(q.Traffic >= 0 && q.Traffic <= MaxTraffic, "traffic", "%d bytes: want 1 to %d", q.Traffic, MaxTraffic)
	c.that(q.WaitRate >= 0 && q.WaitRate <= maxRate, "wait_rate", "%v: want $0.00/h to %v", q.WaitRate, maxRate)
	if c.err != nil {
		return q, c.err
	}
	q.needs = m.needsOf(&q)
	return q, m.knowsAll(&q)
}

// knows refuses a model that is neither on the list nor offered.
func (m *Market) knows(model string) error {
	if model == AnyModel || slices.ContainsFunc(Models(), func(k Model) bool { return k.Name == model }) {
		return nil
	}
	if m.models[model] > 0 {
		return nil
	}
	return unknownModel(model, sortedKeys(m.models))
}

// knowsAll refuses a query that names a model which is neither on the list nor offered.
func (m *Market) knowsAll(q *Query) error {
	if err := m.knows(q.GPU.Model); err != nil {
		return err
	}
	for _, p := range q.Where.predicates {
		if p.field.id != fieldModel {
			continue
		}
		for _, v := range p.values {
			if err := m.knows(v.s); err != nil && !v.null {
				bad := err.(*FieldError) //nolint:errorlint,forcetypeassert // knows makes no other
				return &FieldError{Field: p.field.Name, Problem: bad.Problem, Nearest: bad.Nearest}
			}
		}
	}
	return nil
}

// query is what the market looks for on behalf of a job.
func (s *JobSpec) query() Query {
	q := Query{
		GPU: s.GPU, MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, MaxRate: s.MaxRate, Bid: s.Bid,
		Region: s.Region, Provider: s.Provider, Image: s.Digest, Root: s.Root,
		Run: s.MaxDuration, WaitRate: s.WaitRate, Reserve: s.Reserve, DiskMiB: s.DiskMiB, Traffic: s.Traffic, lottery: string(s.Customer) + "\x00" + s.Nonce,
	}
	for _, w := range s.Weights {
		q.Weights = append(q.Weights, w.Root)
	}
	var err error
	if q.Where, err = ParseFilter(s.Where); err != nil {
		q.Where = Filter{[]Predicate{{field: &fieldTable[fieldOffer], op: OpEqual, values: []value{{null: true}}}}} // no offer: it was accepted by a market that knew more fields
	}
	return q
}

// predicates are the query in its own language, the condition that GPUs be free now apart.
func (q *Query) predicates() []Predicate {
	var ps []Predicate
	add := func(wanted bool, f fieldID, op Op, v value) {
		if wanted {
			ps = append(ps, Predicate{field: &fieldTable[f], op: op, values: []value{v}})
		}
	}
	add(q.Provider != "", fieldProvider, OpEqual, value{s: string(q.Provider)})
	add(q.Region != "", fieldRegion, OpEqual, value{s: q.Region})
	add(q.GPU.Model != AnyModel, fieldModel, OpEqual, value{s: q.GPU.Model})
	add(q.GPU.MinMemoryMiB > 0, fieldGPURAM, OpAtLeast, size(q.GPU.MinMemoryMiB))
	add(q.GPU.Count > 1 || q.Where.Has("num_gpus"), fieldJobGPUs, OpEqual, number(int64(q.GPU.Count)))
	add(q.CPUs > 0, fieldCPUs, OpAtLeast, number(int64(q.CPUs)))
	add(q.MemoryMiB > 0, fieldMemory, OpAtLeast, size(q.MemoryMiB))
	add(q.DiskMiB > 0, fieldDisk, OpAtLeast, size(q.DiskMiB))
	add(q.MaxRate > 0, fieldAllInPrice, OpAtMost, number(int64(q.MaxRate)))
	add(q.Bid > 0, fieldMinBid, OpAtMost, number(int64(q.Bid)))
	for _, p := range q.Where.predicates {
		if p.field.id != fieldJobGPUs && !p.equal(q.freeNow()) && !slices.ContainsFunc(ps, p.equal) { // the count is settled
			ps = append(ps, p)
		}
	}
	return ps
}

// freeNow is the condition that parts what matches from what is busy.
func (q *Query) freeNow() Predicate {
	return Predicate{field: &fieldTable[fieldFree], op: OpAtLeast, values: []value{number(int64(q.GPU.Count))}}
}

// imageOn reports whether a host holds the whole image. One that imported the image by itself may have another root
// for it, and one that was asked for an OCI index says the digest of its own platform's manifest.
func (q *Query) imageOn(o *Offer) bool {
	return slices.ContainsFunc(o.Images, func(i ImageHeld) bool {
		return q.Image != "" && i.Digest == q.Image || q.Root != "" && i.Root == q.Root
	})
}
