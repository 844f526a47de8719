package broker_test

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

func (c command) number(key string, otherwise int) int {
	if v, ok := c.opts[key]; ok {
		return must(strconv.Atoi(v))
	}
	return otherwise
}

// offer HOST MODEL RATE [min_bid=RATE] [reserved=RATE term=DURATION] [storage=RATE] [ingress=MONEY] [egress=MONEY] [gpus=N]
// [free=N] [region=XX] [image=NAME] [mem=GiB] [uuid=OTHERHOST]: storage is of a GiB, ingress and egress of a GB.
func (s *teller) offer(c command) broker.Event {
	host, model := c.words[0], strings.ReplaceAll(c.words[1], "_", " ")
	o := markettest.Offer(host, model, c.number("gpus", 1), must(pricing.ParseRate(c.words[2])))
	o.Region = c.opts["region"]
	if v := c.opts["reserved"]; v != "" {
		o.ReservedRate, o.ReservedMin = must(pricing.ParseRate(v)), must(time.ParseDuration(c.opts["term"]))
	}
	if v := c.opts["min_bid"]; v != "" {
		o.MinBid = must(pricing.ParseRate(v))
	}
	o.Tariff = c.tariff()
	o.Free = o.Free[:c.number("free", len(o.Free))]
	if image := c.opts["image"]; image != "" {
		o.Images = []broker.ImageHeld{{Digest: markettest.Digest(image), Root: markettest.Root(image)}}
	}
	for i := range o.GPUs {
		g := &o.GPUs[i]
		g.MemoryMiB = uint64(c.number("mem", 24)) << 10
		if c.opts["simulated"] != "" {
			g.Simulated, g.Level, g.UUID = true, broker.LevelClaimed, "SIM-"+host
			o.Free = []string{g.UUID}
		}
		if other := c.opts["uuid"]; other != "" {
			g.UUID = "GPU-" + other + "-0"
			o.Free = []string{g.UUID}
		}
	}
	s.sets[host]++
	set := broker.OfferSet{Boot: "boot", Seq: uint64(c.number("seq", int(s.sets[host]))), Offers: []broker.Offer{o}}
	return broker.OffersPosted{Provider: broker.PeerID(host), Set: set}
}

func (c command) tariff() broker.Tariff {
	price := func(key string) pricing.Money { return must(pricing.ParseMoney(cmp.Or(c.opts[key], "0"))) }
	return broker.Tariff{Disk: must(pricing.ParseRate(cmp.Or(c.opts["storage"], "0/h"))), Ingress: price("ingress"), Egress: price("egress")}
}

// load FILE: offers of testdata, one a line.
func (s *teller) load(file string) {
	s.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	s.must(err)
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	s.must(err)
	for _, row := range rows[1:] {
		gpus := must(strconv.Atoi(row[2]))
		total := must(pricing.ParseRate(row[4]))
		o := markettest.Offer(row[0], row[1], gpus, total/pricing.Rate(gpus))
		o.Region = row[5]
		for i := range o.GPUs {
			o.GPUs[i].MemoryMiB = must(strconv.ParseUint(row[3], 10, 64))
		}
		s.step(broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}})
	}
}

// query [gpus=N] [mem=GiB] [model=MODEL] [max=RATE] [bid=RATE] [cpus=N] [memory=GiB] [for=DURATION] [reserve=DURATION]
// [wait=RATE] [region=XX] [provider=HOST] [image=NAME] [root=NAME] [disk=GiB] [traffic=GB]
func (c command) query() broker.Query {
	q := broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: c.number("gpus", 1), MinMemoryMiB: uint64(c.number("mem", 0)) << 10}}
	if m := c.opts["model"]; m != "" {
		q.GPU.Model = strings.ReplaceAll(m, "_", " ")
	}
	if m := c.opts["max"]; m != "" {
		q.MaxRate = must(pricing.ParseRate(m))
	}
	if c.opts["where"] != "" && c.opts["gpus"] == "" {
		q.GPU.Count = 0
	}
	if v := c.opts["bid"]; v != "" {
		q.Bid = must(pricing.ParseRate(v))
	}
	q.CPUs, q.MemoryMiB = c.number("cpus", 0), uint64(c.number("memory", 0))<<10
	if v := c.opts["for"]; v != "" {
		q.Run = must(time.ParseDuration(v))
	}
	if v := c.opts["reserve"]; v != "" {
		q.Reserve = must(time.ParseDuration(v))
	}
	if v := c.opts["wait"]; v != "" {
		q.WaitRate = must(pricing.ParseRate(v))
	}
	q.DiskMiB, q.Traffic = uint64(c.number("disk", 0))<<10, int64(c.number("traffic", 0))*1e9
	q.Region, q.Provider = c.opts["region"], broker.PeerID(c.opts["provider"])
	if image := c.opts["image"]; image != "" {
		q.Image = markettest.Digest(image)
	}
	if image := c.opts["root"]; image != "" {
		q.Root = markettest.Root(image)
	}
	return q
}

// submit JOB CUSTOMER [QUERY] [nodes=N] [same_region=yes] [firm=DURATION] [reserve=DURATION] [budget=MONEY] [for=DURATION] [broker=ID] [signer=KEY] [nonce=N]
func (s *teller) submission(c command) broker.Event {
	id, customer := c.words[0], c.words[1]
	spec := markettest.Spec(customer, "nonce of "+id)
	q := c.query()
	spec.GPU, spec.MaxRate, spec.Bid, spec.Region, spec.Provider = q.GPU, q.MaxRate, q.Bid, q.Region, q.Provider
	if q.Image != "" {
		spec.Digest = q.Image
	}
	spec.Root, spec.Where, spec.WaitRate, spec.Reserve = q.Root, c.opts["where"], q.WaitRate, q.Reserve
	spec.DiskMiB, spec.Traffic = q.DiskMiB, q.Traffic
	if c.opts["gpus"] == "" {
		spec.GPU.Count = 1
	}
	for k, v := range c.opts {
		switch k {
		case "budget":
			spec.MaxCost = must(pricing.ParseMoney(v))
		case "for":
			spec.MaxDuration = must(time.ParseDuration(v))
		case "until": // after the start of the story
			spec.GoodUntil = spec.Created.Add(must(time.ParseDuration(v)))
		case "firm":
			spec.Firm = must(time.ParseDuration(v))
		case "nodes":
			spec.Nodes = must(strconv.Atoi(v))
		case "same_region":
			spec.SameRegion = true
		case "broker":
			spec.Broker = broker.PeerID(v)
		case "signer":
			spec.Customer = broker.PeerID(v)
		case "nonce":
			spec.Nonce = "nonce of " + v
		}
	}
	return broker.Submitted{Job: broker.JobID(id), Account: broker.AccountID(customer), Spec: spec, Envelope: []byte("spec")}
}

// bid JOB RATE [budget=MONEY] [of=JOB] [signer=KEY] [age=DURATION], with the budget that the job has unless another is given
func (s *teller) bidChange(c command) broker.Event {
	j := s.world.Jobs[broker.JobID(c.words[0])]
	change := broker.BidChange{
		Customer: cmp.Or(broker.PeerID(c.opts["signer"]), j.Spec.Customer), Broker: j.Spec.Broker, Nonce: j.Spec.Nonce,
		Bid: must(pricing.ParseRate(c.words[1])), MaxCost: j.Spec.MaxCost, Created: s.world.Now,
	}
	if v := c.opts["budget"]; v != "" {
		change.MaxCost = must(pricing.ParseMoney(v))
	}
	if v := c.opts["of"]; v != "" {
		change.Nonce = "nonce of " + v
	}
	if v := c.opts["age"]; v != "" {
		change.Created = change.Created.Add(-must(time.ParseDuration(v)))
	}
	return broker.BidChanged{Job: broker.JobID(c.words[0]), Change: change, Envelope: []byte("bid")}
}

// lease finds a lease by its label, or a job's latest by the job's name.
func (s *teller) lease(name string) broker.LeaseID {
	for id, label := range s.labels {
		if label == name {
			return id
		}
	}
	j, ok := s.world.Jobs[broker.JobID(name)]
	if !ok {
		return broker.LeaseID(name)
	}
	return j.Lease
}

// grant LEASE [gpu=UUID] [epoch=N] [rate=RATE] [firm=DURATION] [storage=RATE]
func (s *teller) grant(c command) broker.Event {
	l, ok := s.world.Leases[s.lease(c.words[0])]
	if !ok {
		s.Fatalf("story: no lease %s", c.words[0])
	}
	j := s.world.Jobs[l.Job]
	var gpus []broker.GPULease
	for _, o := range s.world.Market.Offers() {
		if o.Provider == l.Provider && len(o.Free) >= j.Spec.GPU.Count {
			for _, uuid := range o.Free[:j.Spec.GPU.Count] {
				gpus = append(gpus, broker.GPULease{UUID: uuid})
			}
		}
	}
	if uuid := c.opts["gpu"]; uuid != "" {
		gpus = []broker.GPULease{{UUID: uuid}}
	}
	for i := range gpus {
		g := &gpus[i]
		s.epochs[g.UUID]++
		g.Epoch = uint64(c.number("epoch", int(s.epochs[g.UUID])))
	}
	ev := markettest.Grant(l, gpus...)
	if j.Spec.Firm > 0 {
		ev.Answer.Grant.Rate, ev.Answer.Grant.Tariff, ev.Answer.Grant.Firm = l.Rate, l.Tariff, j.Spec.Firm
	}
	if v := c.opts["storage"]; v != "" {
		ev.Answer.Grant.Tariff.Disk = must(pricing.ParseRate(v))
	}
	if v := c.opts["rate"]; v != "" {
		ev.Answer.Grant.Rate = must(pricing.ParseRate(v))
	}
	if v := c.opts["firm"]; v != "" {
		ev.Answer.Grant.Firm = must(time.ParseDuration(v))
	}
	return ev
}

// report LEASE PHASE [used=D] [code=N] [seq=N] [from=HOST] [epoch=N] [peers=MiB] [local=MiB] [total=MiB] [in=MB] [out=MB] [fault=host]
// [message…]
func (s *teller) report(c command) broker.Event {
	id := s.lease(c.words[0])
	l := s.world.Leases[id]
	phase := broker.Phase(slices.Index([]string{"preparing", "ready", "exited", "broken"}, c.words[1]) + 1)
	s.seqs[id]++
	r := broker.Report{
		Lease: id, Phase: phase, GPUs: slices.Clone(l.GPUs), ExitCode: c.number("code", 0),
		Seq: uint64(c.number("seq", int(s.seqs[id]))), Message: c.rest(2),
		HostFault: c.opts["fault"] == "host",
		Traffic: broker.Traffic{ // as before, if nothing is said
			Ingress: int64(c.number("in", int(l.Traffic.Ingress/1e6))) * 1e6,
			Egress:  int64(c.number("out", int(l.Traffic.Egress/1e6))) * 1e6,
		},
	}
	if v := c.opts["used"]; v != "" {
		r.Used = must(time.ParseDuration(v))
	}
	if n := c.number("peers", 0); n > 0 {
		r.Fetched = broker.Fetched{Peers: int64(n) << 20, Total: int64(n) << 20}
		j := s.world.Jobs[l.Job]
		r.Held = []broker.ImageHeld{{Digest: j.Spec.Digest, Root: markettest.Root("image")}}
	}
	if n := c.number("local", 0); n > 0 {
		r.Fetched.Local = int64(n) << 20
		r.Fetched.Total = r.Fetched.Peers + r.Fetched.Local
	}
	if n := c.number("total", 0); n > 0 {
		r.Fetched.Total = int64(n) << 20
	}
	if n := c.number("epoch", 0); n > 0 {
		r.GPUs[0].Epoch = uint64(n)
	}
	from := l.Provider
	if v := c.opts["from"]; v != "" {
		from = broker.PeerID(v)
	}
	return broker.Reported{Provider: from, Report: r, Envelope: []byte("report")}
}

// run lets time pass while jobs run: each reports every half a minute. The lines of all this would say nothing new.
func (s *teller) run(d time.Duration, jobs []string) {
	quiet := &teller{T: s.T, world: s.world, labels: s.labels, epochs: s.epochs, seqs: s.seqs, sets: s.sets}
	for left := d; left > 0; left -= 30 * time.Second {
		s.world.Now = s.world.Now.Add(min(left, 30*time.Second))
		for _, job := range jobs {
			l, _ := s.world.Market.Lease(quiet.lease(job))
			used := s.world.Now.Sub(l.Ready).String()
			quiet.step(quiet.report(command{words: []string{job, "ready"}, opts: map[string]string{"used": used}}))
		}
		quiet.step(broker.Ticked{})
	}
}
