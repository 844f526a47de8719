package broker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

// Of one batch of the ledger, a step may fill less than half.
const (
	mostRecords = 2048
	mostBytes   = 2 << 20
)

// crowd is a market whose every step is weighed.
type crowd struct {
	*testing.T
	*markettest.World
}

func newCrowd(t *testing.T, offers ...broker.Offer) crowd {
	t.Helper()
	w, err := markettest.NewWorld(broker.MarketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	c := crowd{t, w}
	c.post(offers...)
	return c
}

func (c crowd) post(offers ...broker.Offer) {
	c.Helper()
	set := broker.OfferSet{Boot: "b", Seq: 1, Offers: offers}
	c.step(broker.OffersPosted{Provider: offers[0].Provider, Set: set})
}

func (c crowd) step(ev broker.Event) []broker.Effect {
	c.Helper()
	effects, err := c.Market.Step(c.Now, ev)
	if err != nil {
		c.Fatal(err)
	}
	records, size := 0, 0
	for _, e := range effects {
		switch e := e.(type) {
		case broker.SaveJob:
			e.Job.Envelope, e.Job.Spec = nil, broker.JobSpec{} // stored once, beside it
			c.Jobs[e.Job.ID] = e.Job
			size += length(e.Job.Log)
		case broker.SaveLease:
			c.Leases[e.Lease.ID] = e.Lease
			size += length(e.Lease) + len(e.Lease.Report)*4/3 // a receipt repeats it
		case broker.SaveAccount, broker.Post, broker.SaveDerived:
			size += length(e)
		case broker.SendHold, broker.SendConfirm, broker.SendRelease, broker.SendRenewal, broker.SignReceipt:
			continue
		}
		records++
	}
	if records > mostRecords || size > mostBytes {
		c.Fatalf("a %T saves %d records of %d bytes", ev, records, size)
	}
	return effects
}

func length(v any) int {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return len(text)
}

// submit fills accounts with jobs.
func (c crowd) submit(jobs int) {
	c.Helper()
	for i := range jobs {
		name := fmt.Sprint("customer ", i/1000)
		if i%1000 == 0 {
			if err := c.Open(name, 1_000_000*pricing.USD); err != nil {
				c.Fatal(err)
			}
		}
		id := broker.JobID(fmt.Sprintf("j%05d", i))
		c.step(broker.Submitted{Job: id, Account: broker.AccountID(name), Spec: markettest.Spec(name, string(id)), Envelope: []byte("spec")})
	}
}

// settle ticks until all jobs have come to a state.
func (c crowd) settle(want broker.JobState) {
	c.Helper()
	for range 100 {
		c.step(broker.Ticked{})
		open := 0
		for _, j := range c.Jobs {
			if j.State != want {
				open++
			}
		}
		if open == 0 {
			return
		}
	}
	c.Fatalf("not all jobs are %v after 100 ticks", want)
}

func crowdOffers(n int, free bool) (offers []broker.Offer) {
	for i := range n {
		o := markettest.Offer("alpha", fmt.Sprint("model ", i), 64, pricing.Rate(pricing.USD))
		for k := range o.GPUs {
			o.GPUs[k].UUID = fmt.Sprintf("GPU-%d-%d", i, k)
			o.Free[k] = o.GPUs[k].UUID
		}
		if !free {
			o.Free = nil
		}
		offers = append(offers, o)
	}
	return offers
}

// TestCrowdedQueue lets a thousand jobs find a place, or give up, at the same moment.
func TestCrowdedQueue(t *testing.T) {
	c := newCrowd(t, crowdOffers(20, false)...)
	c.submit(1100)
	c.Now = c.Now.Add(time.Minute)
	c.step(broker.ProviderGone{Provider: "alpha"})
	c.post(crowdOffers(20, true)...)
	c.settle(broker.JobHolding)
	// All are refused, and wait; new offers forgive their provider; in the end they give up.
	for id, l := range maps.Clone(c.Leases) {
		c.step(broker.HoldAnswered{Lease: id, Answer: broker.Answer{Lease: l.ID, Refusal: "busy"}})
	}
	c.post(crowdOffers(20, false)...)
	c.step(broker.ProviderGone{Provider: "alpha"})
	c.settle(broker.JobQueued)
	c.Now = c.Now.Add(time.Hour)
	c.settle(broker.JobFailed)
}

// TestCrowdedOutage lets hundreds of leases with the largest reports lapse at the same moment.
func TestCrowdedOutage(t *testing.T) {
	c := newCrowd(t, crowdOffers(8, true)...)
	c.submit(400)
	c.settle(broker.JobHolding)
	granted := map[string]int{}
	for _, l := range maps.Clone(c.Leases) {
		uuid := fmt.Sprintf("GPU-%s-%d", strings.TrimPrefix(l.Model, "model "), granted[l.Model])
		granted[l.Model]++
		c.step(markettest.Grant(l, broker.GPULease{UUID: uuid, Epoch: 1}))
	}
	c.settle(broker.JobLeased)
	for id, l := range maps.Clone(c.Leases) {
		report := broker.Report{Lease: id, GPUs: l.GPUs, Seq: 1, Phase: broker.PhaseReady}
		c.step(broker.Reported{Provider: "alpha", Report: report, Envelope: make([]byte, 30<<10)})
	}
	c.Now = c.Now.Add(time.Hour)
	c.settle(broker.JobFailed)
	if err := c.Market.Audit(); err != nil {
		t.Error(err)
	}
}
