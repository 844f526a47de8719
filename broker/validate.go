package broker

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"rialto/blockstore"
	"rialto/pricing"
)

// Bounds on what peers and customers may say. Within them no cost overflows: the greatest rate for the
// most GPUs over the longest duration is about $10^9.
const (
	maxRate     = pricing.Rate(100_000 * pricing.USD)
	maxMoney    = 1_000_000 * pricing.USD
	maxDuration = 30 * 24 * time.Hour
	maxJobGPUs  = 16
	maxGPUs     = 64      // of one offer
	maxOffers   = 64      // of one provider
	maxMiB      = 1 << 30 // a pebibyte
	maxCPUs     = 4096
	maxText     = 64 << 10 // command and environment together
	maxList     = 1024
	maxName     = 128
)

func quoteClipped(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strconv.Quote(s)
}

// checker collects the first problem of a value.
type checker struct{ err error }

// that records a problem of a field unless ok.
func (c *checker) that(ok bool, field, format string, args ...any) {
	if !ok && c.err == nil {
		c.err = &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
	}
}

// name wants 1…most printable bytes without leading or trailing space.
func (c *checker) name(field, s string, most int) {
	c.that(s != "", field, "empty")
	c.that(len(s) <= most, field, "longer than %d bytes", most)
	c.that(printable(s) && strings.TrimSpace(s) == s, field, "%s has characters that cannot be printed", quoteClipped(s))
}

func (c *checker) region(field, s string) {
	ok := s == "" || len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
	c.that(ok, field, "%s: want two capital letters, such as DE", quoteClipped(s))
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// Validate checks all of a job's spec that does not depend on the market.
// The error is a [*FieldError].
func (s *JobSpec) Validate() error {
	var c checker
	c.name("image", s.Image, 512)
	c.that(isDigest(s.Digest), "digest", "%s: want sha256: and 64 hex digits", quoteClipped(s.Digest))
	s.checkRoot(&c)
	s.checkProgram(&c)
	s.GPU.check(&c)
	c.that(s.MemoryMiB <= maxMiB, "memory", "%d MiB is too much", s.MemoryMiB)
	c.that(s.CPUs >= 0 && s.CPUs <= maxCPUs, "cpus", "%d: want 0 to %d", s.CPUs, maxCPUs)
	c.that(s.WaitRate >= 0 && s.WaitRate <= maxRate, "wait_rate", "%v: want $0.00/h to %v", s.WaitRate, maxRate)
	s.checkPrice(&c)
	c.that(s.MaxDuration >= time.Second && s.MaxDuration <= maxDuration, "max_duration", "%v: want 1s to %v", s.MaxDuration, maxDuration)
	c.that(s.Firm == 0 || s.Firm >= minFirm && s.Firm <= MaxFirm, "firm", "%v: want %v to %v", s.Firm, minFirm, MaxFirm)
	s.checkStanding(&c)
	s.checkGang(&c)
	s.checkReserve(&c)
	s.checkBid(&c)
	s.checkTariff(&c)
	c.region("region", s.Region)
	c.that(len(s.Provider) <= maxName, "provider", "longer than %d bytes", maxName)
	s.checkWeights(&c)
	c.that(!s.TunnelKey.IsZero(), "tunnel_key", "missing")
	c.name("customer", string(s.Customer), maxName)
	c.name("broker", string(s.Broker), maxName)
	c.that(!s.Created.IsZero(), "created", "missing")
	c.name("nonce", s.Nonce, maxName)
	s.checkWhere(&c)
	return c.err
}

// checkPrice holds what the job may cost to what can be computed with.
func (s *JobSpec) checkPrice(c *checker) {
	c.that(s.MaxRate >= 0 && s.MaxRate <= maxRate, "max_rate", "%v: want $0.00/h to %v", s.MaxRate, maxRate)
	c.that(s.MaxCost >= 0 && s.MaxCost <= maxMoney, "max_cost", "%v: want $0.00 to %v", s.MaxCost, maxMoney)
}

func (s *JobSpec) checkWhere(c *checker) {
	if c.err != nil || s.Where == "" {
		return
	}
	f, err := ParseFilter(s.Where)
	if err != nil {
		c.err = err
		return
	}
	c.that(f.takes(s.GPU.Count), "num_gpus", "the job has %d GPUs, its query wants another number", s.GPU.Count)
}

func (s *JobSpec) checkRoot(c *checker) {
	if s.Root == "" {
		c.that(!IsLocalImage(s.Image), "root", "missing: no registry has the image %s", quoteClipped(s.Image))
		c.that(!s.Private, "private", "an image without a root is not private")
		return
	}
	root, err := blockstore.ParseCID(s.Root)
	c.that(err == nil, "root", "%s: want a CID", quoteClipped(s.Root))
	if s.Private {
		c.that(IsLocalImage(s.Image), "private", "an image in a registry is not private")
		c.that(s.Digest == root.Digest().String(), "digest", "%s: want the root's own, because the image is private", quoteClipped(s.Digest))
	}
}

func (s *JobSpec) checkProgram(c *checker) {
	size := 0
	c.that(len(s.Command) <= maxList, "command", "more than %d arguments", maxList)
	for i, a := range s.Command {
		size += len(a)
		c.that(!strings.Contains(a, "\x00"), "command", "argument %d has a zero byte", i)
	}
	c.that(len(s.Command) == 0 || s.Command[0] != "", "command", "the program's name is empty")
	c.that(len(s.Env) <= maxList, "env", "more than %d variables", maxList)
	for k, v := range s.Env { // any order finds the same verdict, and the message names no variable
		size += len(k) + len(v)
		c.that(k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00"), "env",
			"a variable's name is empty or has an equals sign, or there is a zero byte")
	}
	c.that(size <= maxText, "command", "command and environment are %d bytes, more than %d", size, maxText)
	c.that(s.Workdir == "" || isCleanPath(s.Workdir), "workdir", "%s: want a clean absolute path", quoteClipped(s.Workdir))
}

func (s *JobSpec) checkWeights(c *checker) {
	c.that(len(s.Weights) <= maxJobGPUs, "weights", "more than %d", maxJobGPUs)
	for i, w := range s.Weights {
		c.name("weights.name", w.Name, maxName)
		c.name("weights.root", w.Root, maxName)
		c.that(isCleanPath(w.Path) && w.Path != "/", "weights.path", "%s: want a clean absolute path", quoteClipped(w.Path))
		same := slices.ContainsFunc(s.Weights[:i], func(o WeightsMount) bool { return o.Path == w.Path })
		c.that(!same, "weights.path", "%s twice", quoteClipped(w.Path))
	}
}

func (g *GPURequest) check(c *checker) {
	c.name("gpu.model", g.Model, maxName)
	c.that(g.Count >= 1 && g.Count <= maxJobGPUs, "gpu.count", "%d: want 1 to %d", g.Count, maxJobGPUs)
	c.that(g.MinMemoryMiB <= maxMiB, "gpu.min_memory", "%d MiB is too much", g.MinMemoryMiB)
}

// Validate checks a set of offers as provider p may send it. The error is a [*FieldError].
func (s *OfferSet) Validate(p PeerID) error {
	var c checker
	c.name("boot", s.Boot, maxName)
	c.that(len(s.Offers) <= maxOffers, "offers", "more than %d", maxOffers)
	if c.err != nil {
		return c.err
	}
	ids, uuids := map[OfferID]bool{}, map[string]bool{}
	for i := range s.Offers {
		o := &s.Offers[i]
		c.that(o.Provider == p, "offer.provider", "%s: not the sender", quoteClipped(string(o.Provider)))
		c.that(!ids[o.ID], "offer.id", "%s twice", quoteClipped(string(o.ID)))
		ids[o.ID] = true
		o.check(&c)
		for _, g := range o.GPUs {
			c.that(!uuids[g.UUID], "gpu.uuid", "%s twice", quoteClipped(g.UUID))
			uuids[g.UUID] = true
		}
	}
	return c.err
}

func (o *Offer) check(c *checker) {
	c.name("offer.id", string(o.ID), maxName)
	c.name("offer.host", o.Host, 64)
	c.region("offer.region", o.Region)
	c.that(o.Rate >= 0 && o.Rate <= maxRate, "offer.rate", "%v: want $0.00/h to %v", o.Rate, maxRate)
	o.checkReserved(c)
	o.Tariff.check(c, "offer.tariff")
	c.that(o.MinBid >= 0 && o.MinBid <= o.Rate, "offer.min_bid", "%v: want $0.00/h, which is none, to the price of %v", o.MinBid, o.Rate)
	c.that(o.CPUs >= 0 && o.CPUs <= maxCPUs, "offer.cpus", "%d: want 0 to %d", o.CPUs, maxCPUs)
	c.that(o.MemoryMiB <= maxMiB, "offer.memory", "%d MiB is too much", o.MemoryMiB)
	c.that(len(o.GPUs) >= 1 && len(o.GPUs) <= maxGPUs, "offer.gpus", "%d: want 1 to %d", len(o.GPUs), maxGPUs)
	c.that(len(o.Images) <= maxList && len(o.Weights) <= maxList && len(o.Addrs) <= maxList, "offer", "a list is longer than %d", maxList)
	if c.err != nil {
		return
	}
	for _, g := range o.GPUs {
		c.name("gpu.uuid", g.UUID, maxName)
		c.name("gpu.model", g.Model, 64)
		c.that(g.Model == o.GPUs[0].Model, "gpu.model", "%s and %s in one offer", quoteClipped(g.Model), quoteClipped(o.GPUs[0].Model))
		c.that(g.MemoryMiB >= 1 && g.MemoryMiB <= maxMiB, "gpu.memory", "%d MiB: want 1 to %d", g.MemoryMiB, maxMiB)
		c.that(g.Simulated == strings.HasPrefix(g.UUID, "SIM-"), "gpu.simulated", "%s: SIM- marks simulated GPUs and no others", quoteClipped(g.UUID))
		c.that(!g.Simulated || g.Level == LevelClaimed, "gpu.level", "a simulated GPU cannot be proved")
		c.that(g.Simulated == o.GPUs[0].Simulated, "gpu.simulated", "simulated and real GPUs in one offer")
	}
	for i, u := range o.Free {
		c.that(slices.ContainsFunc(o.GPUs, func(g GPU) bool { return g.UUID == u }), "offer.free", "%s is not a GPU of the offer", quoteClipped(u))
		c.that(!slices.Contains(o.Free[:i], u), "offer.free", "%s twice", quoteClipped(u))
	}
}

// check checks a report by itself.
func (r *Report) check() error {
	var c checker
	c.that(r.Phase >= PhasePreparing && r.Phase <= PhaseBroken, "report.phase", "%d is not known", r.Phase)
	c.that(r.Seq > 0, "report.seq", "zero")
	c.that(r.Used >= 0, "report.used", "below zero")
	c.that(min(r.Traffic.Ingress, r.Traffic.Egress) >= 0, "report.traffic", "below zero")
	c.that(r.Phase != PhasePreparing || r.Used == 0, "report.used", "%v while preparing", r.Used)
	c.that(!r.HostFault || r.Phase == PhaseBroken && r.Used == 0, "report.host_fault", "of a workload that became ready, or is not broken")
	c.that(len(r.Message) <= 4096, "report.message", "longer than 4096 bytes")
	c.that(len(r.Steps) <= maxList && len(r.Held) <= maxList, "report", "a list is longer than %d", maxList)
	f := r.Fetched
	c.that(min(f.Local, f.Peers, f.Registry, f.Total) >= 0, "report.fetched", "below zero")
	c.that(len(f.From) <= MaxTopPeers, "report.fetched", "names more than %d peers", MaxTopPeers)
	return c.err
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

func isCleanPath(p string) bool {
	return len(p) <= 4096 && path.IsAbs(p) && path.Clean(p) == p && !strings.Contains(p, "\x00")
}
