package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// twins are two markets to which the same happens: one finds those that wait and may be served, the other looks at all.
type twins struct {
	*rapid.T
	fast, slow *markettest.World
	jobs       []broker.JobID
	asked      []broker.Hold
	leased     []broker.Lease
	seq        uint64
	seen       *struct{ served, bidding, displaced int }
}

// TestQueueServesAsAFullScan: whatever happens, the jobs that wait are served as if each step looked at all of them.
func TestQueueServesAsAFullScan(t *testing.T) {
	var seen struct{ served, bidding, displaced int }
	rapid.Check(t, func(t *rapid.T) {
		s := twins{T: t, fast: world(t), slow: world(t), seen: &seen}
		for _, name := range []string{"ann", "bob", "cid"} {
			for _, ev := range []broker.Event{
				broker.AccountOpened{Account: broker.AccountID(name), Name: name},
				broker.KeyBound{Account: broker.AccountID(name), Key: broker.PeerID(name)},
				broker.Deposited{Account: broker.AccountID(name), Amount: 20 * pricing.USD, Ref: name},
			} {
				s.step(ev)
			}
		}
		actions := []func(){s.submit, s.submit, s.submit, s.post, s.post, s.post, s.answer, s.answer, s.answer, s.answer, s.report, s.report, s.report, s.cancel, s.pass, s.pass, s.gone}
		for range rapid.IntRange(80, 160).Draw(t, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(t, "action")]()
		}
	})
	t.Logf("%+v", seen)
	if seen.served == 0 || seen.bidding == 0 {
		t.Error("not all that is to be compared has happened")
	}
}

func world(t *rapid.T) *markettest.World {
	w, err := markettest.NewWorld(broker.MarketConfig{MinRun: 1, Notice: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (s *twins) step(ev broker.Event) {
	got, gotErr := s.fast.Step(ev)
	want, wantErr := s.slow.Market.StepSlowly(s.fast.Now, ev)
	if a, b := fmt.Sprintf("%+v %v", got, gotErr), fmt.Sprintf("%+v %v", want, wantErr); a != b {
		s.Fatalf("%T:\n got  %s\n want %s", ev, a, b)
	}
	if gotErr != nil && !markettest.Refused(gotErr) {
		s.Fatal(gotErr)
	}
	for _, e := range got {
		switch e := e.(type) {
		case broker.SendHold:
			s.asked = append(s.asked, e.Hold)
			if _, submitted := ev.(broker.Submitted); submitted {
				break
			}
			s.seen.served++
			if l, _ := s.fast.Market.Lease(e.Hold.Lease); l.Bid > 0 {
				s.seen.bidding++
			}
		case broker.SaveLease:
			if e.Lease.Displacement.For != "" {
				s.seen.displaced++
			}
		case broker.SaveAccount, broker.SaveJob, broker.SaveDerived, broker.Post, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
		}
	}
	if err := s.fast.Market.CheckLosing(); err != nil {
		s.Fatal(err)
	}
	all := s.fast.Market.Ahead(s.jobs...)
	for i, id := range s.jobs {
		want := s.fast.Market.AheadSlowly(id)
		if one := s.fast.Market.Ahead(id)[0]; all[i] != want || one != want {
			s.Fatalf("%d are ahead of job %s, of all jobs %d; want %d", one, id, all[i], want)
		}
	}
}

func (s *twins) few(label string, most int) int { return rapid.IntRange(0, most).Draw(s.T, label) }

func (s *twins) one(label string, of ...string) string { return rapid.SampledFrom(of).Draw(s.T, label) }

func (s *twins) submit() {
	name := s.one("customer", "ann", "bob", "cid")
	id := broker.JobID(fmt.Sprint("j", len(s.jobs)*7919%1000))
	spec := markettest.Spec(name, string(id))
	spec.GPU = broker.GPURequest{Model: s.one("model", broker.AnyModel, "RTX 4090", "H200"), Count: 1 + s.few("gpus", 2)}
	spec.Region, spec.Provider = s.one("region", "", "", "DE"), broker.PeerID(s.one("provider", "", "", "", "p0"))
	spec.MaxRate = pricing.Rate(s.few("limit", 8)) * 100_000_000
	spec.Where = s.one("where", "", "", "gpu_ram>=40", "gpu_name in [rtx_4090,h200]", "geolocation in [US,DE]", "price<0.35/h", "hours_seen>=1", "all_in_price<=0.4/h")
	spec.DiskMiB = uint64(s.few("disk", 2)) * 50 << 10
	spec.Traffic = int64(s.few("traffic", 2)) * 5e9
	if spec.MaxRate > 0 && s.few("stands", 3) > 0 {
		spec.GoodUntil = spec.Created.Add(time.Duration(1+s.few("until", 60)) * time.Minute)
	}
	switch s.few("terms", 3) {
	case 0:
		spec.Bid, spec.MaxRate = max(1, spec.MaxRate/2), 0
	case 1:
		spec.Reserve = time.Minute
	}
	if spec.Provider == "" && spec.Bid == 0 && spec.Reserve == 0 && s.few("gang", 4) == 0 {
		spec.Nodes = 2
		spec.SameRegion = s.few("one region", 1) == 0
	}
	for rank := range max(1, spec.Nodes) {
		s.jobs = append(s.jobs, broker.MemberID(id, rank))
	}
	s.step(broker.Submitted{Job: id, Account: broker.AccountID(name), Spec: spec, Envelope: []byte("spec")})
}

func (s *twins) post() {
	s.seq++
	p := s.one("host", "p0", "p1", "p2", "p3")
	set := broker.OfferSet{Boot: "b", Seq: s.seq}
	for i := range s.few("offers", 2) {
		o := markettest.Offer(p, s.one("has", "RTX 4090", "H200"), 1+s.few("gpus", 3), pricing.Rate(1+s.few("rate", 7))*100_000_000)
		o.ID, o.Region = broker.OfferID(fmt.Sprint(p, i)), s.one("where", "", "DE", "US")
		if s.few("reserved", 2) == 0 {
			o.ReservedRate, o.ReservedMin = o.Rate/2, time.Duration(1+s.few("least", 90))*time.Second
		}
		o.MinBid = o.Rate / 4 * pricing.Rate(s.few("least bid", 2))
		if s.few("charges", 1) == 0 {
			o.Tariff = broker.Tariff{Disk: pricing.Rate(s.few("disk price", 2)) * 1_000_000, Egress: pricing.Money(s.few("egress price", 2)) * 10_000_000}
		}
		memory := uint64(24<<10 + 24<<10*s.few("large", 1))
		o.Free = nil
		for g := range o.GPUs {
			o.GPUs[g].UUID, o.GPUs[g].MemoryMiB = fmt.Sprintf("GPU-%s-%d-%d", p, i, g), memory
			if s.few("free", 3) > 0 {
				o.Free = append(o.Free, o.GPUs[g].UUID)
			}
		}
		set.Offers = append(set.Offers, o)
	}
	s.step(broker.OffersPosted{Provider: broker.PeerID(p), Set: set})
}

func (s *twins) gone() {
	s.step(broker.ProviderGone{Provider: broker.PeerID(s.one("host", "p0", "p1", "p2", "p3"))})
}

func (s *twins) cancel() {
	if len(s.jobs) > 0 {
		s.step(broker.CancelRequested{Job: rapid.SampledFrom(s.jobs).Draw(s.T, "job")})
	}
}

// pass lets time pass, sometimes so much that all give up.
func (s *twins) pass() {
	s.fast.Now = s.fast.Now.Add(time.Duration(rapid.SampledFrom([]int{1, 1, 2, 5, 30, 120, 3600}).Draw(s.T, "seconds")) * time.Second)
	s.step(broker.Ticked{})
}

// answer grants what the market asks for, or does not.
func (s *twins) answer() {
	if len(s.asked) == 0 {
		return
	}
	i := rapid.IntRange(0, len(s.asked)-1).Draw(s.T, "hold")
	h := s.asked[i]
	s.asked = slices.Delete(s.asked, i, i+1)
	l, _ := s.fast.Market.Lease(h.Lease)
	switch s.one("answer", "grant", "grant", "grant", "refuse", "silence") {
	case "grant":
		j, _ := s.fast.Market.Job(l.Job)
		var gpus []broker.GPULease
		for _, o := range s.fast.Market.Offers() {
			if o.Provider == l.Provider && o.ID == l.Offer {
				for _, uuid := range o.Free[:min(len(o.Free), j.Spec.GPU.Count)] {
					s.seq++
					gpus = append(gpus, broker.GPULease{UUID: uuid, Epoch: s.seq})
				}
			}
		}
		s.step(markettest.Grant(l, gpus...))
		if l, _ = s.fast.Market.Lease(l.ID); l.State == broker.LeaseGranted {
			s.step(broker.ConfirmAnswered{Lease: l.ID})
			s.leased = append(s.leased, l)
		}
	case "refuse":
		s.step(broker.HoldAnswered{Lease: l.ID, Answer: broker.Answer{Lease: l.ID, Refusal: "busy"}})
	case "silence":
		s.step(broker.HoldAnswered{Lease: l.ID, Error: "lost"})
	}
}

// report lets a lease become ready, or end.
func (s *twins) report() {
	if len(s.leased) == 0 {
		return
	}
	l, _ := s.fast.Market.Lease(rapid.SampledFrom(s.leased).Draw(s.T, "lease").ID)
	r := broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: l.Seq + 1, Phase: broker.PhaseReady}
	if !l.Ready.IsZero() {
		r.Used = s.fast.Now.Sub(l.Ready)
		if s.few("ends", 1) == 1 {
			r.Phase = broker.PhaseExited
		}
	}
	s.step(broker.Reported{Provider: l.Provider, Report: r, Envelope: []byte("report")})
}
