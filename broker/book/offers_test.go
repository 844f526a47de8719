package book_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/broker"
	"rialto/broker/book"
	"rialto/broker/markettest"
	"rialto/pricing"
)

func newIndex() broker.Index { return book.NewOffers() }

// twins are two markets that see the same events: one with an index, one that looks at all offers.
type twins struct {
	*rapid.T
	indexed, scanning *markettest.World
	jobs              int
	seq               uint64
	epoch             uint64
}

// step gives an event to both, which must do the same.
func (w *twins) step(ev broker.Event) []broker.Effect {
	got, err1 := w.indexed.Step(ev)
	want, err2 := w.scanning.Step(ev)
	if err1 != nil && !markettest.Refused(err1) {
		w.Fatal(err1)
	}
	if fmt.Sprint(err1) != fmt.Sprint(err2) {
		w.Fatalf("%T: %v, without an index %v", ev, err1, err2)
	}
	if !reflect.DeepEqual(got, want) {
		w.Fatalf("%T: with an index\n%+v\nwithout\n%+v", ev, got, want)
	}
	return got
}

func (w *twins) few(label string, most int) int { return rapid.IntRange(0, most).Draw(w.T, label) }

func (w *twins) pass(d time.Duration) {
	w.indexed.Now, w.scanning.Now = w.indexed.Now.Add(d), w.scanning.Now.Add(d)
}

func (w *twins) post() {
	w.seq++
	host := fmt.Sprintf("h%02d", w.few("host", 30))
	set := broker.OfferSet{Boot: "b", Seq: w.seq}
	for i := range w.few("offers", 2) {
		model := rapid.SampledFrom([]string{"RTX 4090", "RTX 3090", "Nobody's " + host}).Draw(w.T, "model")
		o := markettest.Offer(host, model, 1+w.few("gpus", 3), pricing.Rate(400_000_000+1_000_000*w.few("dearer", 8)))
		o.ID = broker.OfferID(fmt.Sprint(host, i))
		for g := range o.GPUs {
			o.GPUs[g].UUID = fmt.Sprintf("GPU-%s-%d-%d", host, i, g)
			o.Free[g] = o.GPUs[g].UUID
			o.GPUs[g].MemoryMiB = []uint64{24 << 10, 48 << 10}[len(o.GPUs)%2]
		}
		o.Free = o.Free[:w.few("free", len(o.Free))]
		if w.few("reserved", 2) == 0 {
			o.ReservedRate, o.ReservedMin = o.Rate-pricing.Rate(1+w.few("cheaper", 8)*1_000_000), time.Minute
		}
		if w.few("charges", 1) == 0 {
			o.Tariff = broker.Tariff{
				Disk:    pricing.Rate(w.few("disk price", 2) * 100_000),
				Ingress: pricing.Money(w.few("ingress price", 2) * 1_000_000), Egress: pricing.Money(w.few("egress price", 2) * 1_000_000),
			}
		}
		o.MinBid = o.Rate / 4 * pricing.Rate(w.few("least bid", 3))
		o.Region = rapid.SampledFrom([]string{"", "US", "DE"}).Draw(w.T, "region")
		if w.few("charges", 1) == 0 {
			o.Tariff = broker.Tariff{
				Disk: pricing.Rate(w.few("disk", 8) * 25_011), Ingress: pricing.Money(w.few("ingress", 8) * 250_101), Egress: pricing.Money(w.few("egress", 8) * 250_101),
			}
		}
		if w.few("holds", 2) == 0 {
			o.Images = []broker.ImageHeld{{Digest: markettest.Digest("image"), Root: markettest.Root("image")}}
		}
		set.Offers = append(set.Offers, o)
	}
	w.step(broker.OffersPosted{Provider: broker.PeerID(host), Set: set})
}

func (w *twins) submit() {
	w.jobs++
	spec := markettest.Spec("ann", fmt.Sprint("n", w.jobs))
	spec.GPU.Count = 1 + w.few("count", 2)
	spec.GPU.Model = rapid.SampledFrom([]string{broker.AnyModel, "RTX 4090", "Nobody's h03"}).Draw(w.T, "wanted")
	spec.GPU.MinMemoryMiB = []uint64{0, 0, 40 << 10}[w.few("memory", 2)]
	spec.Region = rapid.SampledFrom([]string{"", "", "US"}).Draw(w.T, "in")
	spec.Where = rapid.SampledFrom([]string{"", "price<=0.404/h", "geolocation in [DE,US]", "gpu_name!=rtx_4090", "fill_rate>=0.5", "has_image=true", "all_in_price<=0.404/h"}).Draw(w.T, "where")
	spec.MaxDuration = rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 100 * time.Hour}).Draw(w.T, "run")
	spec.DiskMiB = []uint64{0, 0, 16, 1000, 100 << 10}[w.few("writes", 4)]
	spec.Traffic = []int64{0, 0, 1, 3e8, 4e9}[w.few("sends", 4)]
	spec.MaxRate = []pricing.Rate{0, 0, 403_000_000, 406_000_000, 600_000_000}[w.few("limit", 4)]
	if w.few("reserves", 1) == 0 {
		spec.Reserve = time.Minute
	}
	spec.DiskMiB = []uint64{0, 0, 50 << 10}[w.few("disk", 2)]
	spec.Traffic = []int64{0, 0, 10e9}[w.few("traffic", 2)]
	switch w.few("stands", 5) {
	case 0:
		spec.MaxRate, spec.GoodUntil = 402_000_000, spec.Created.Add(24*time.Hour)
	case 1:
		spec.Bid, spec.Reserve = 300_000_000, 0
	case 2:
		spec.MaxCost = pricing.Money(w.few("budget", 9) * 50_000_000)
	}
	w.step(broker.Submitted{Job: broker.JobID(fmt.Sprint("j", w.jobs)), Account: "ann", Spec: spec, Envelope: []byte("spec")})
}

// some is one of the leases in a state.
func (w *twins) some(states ...broker.LeaseState) (broker.Lease, bool) {
	var ids []broker.LeaseID
	for id, l := range w.indexed.Leases {
		if slices.Contains(states, l.State) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return broker.Lease{}, false
	}
	slices.Sort(ids)
	return w.indexed.Leases[ids[w.few("lease", len(ids)-1)]], true
}

func (w *twins) answer() {
	l, ok := w.some(broker.LeaseHolding)
	if !ok {
		return
	}
	if w.few("refuses", 2) == 0 {
		w.step(broker.HoldAnswered{Lease: l.ID, Answer: broker.Answer{Lease: l.ID, Refusal: "no"}})
		return
	}
	var gpus []broker.GPULease
	for _, o := range w.indexed.Market.Offers() {
		if o.Provider == l.Provider && o.ID == l.Offer {
			w.epoch++
			for _, uuid := range o.Free[:min(len(o.Free), w.indexed.Jobs[l.Job].Spec.GPU.Count)] {
				gpus = append(gpus, broker.GPULease{UUID: uuid, Epoch: w.epoch})
			}
		}
	}
	w.step(markettest.Grant(l, gpus...))
	w.step(broker.ConfirmAnswered{Lease: l.ID})
}

func (w *twins) report() {
	l, ok := w.some(broker.LeaseActive)
	if !ok {
		return
	}
	w.pass(time.Duration(1+w.few("seconds", 20)) * time.Second)
	r := broker.Report{Lease: l.ID, GPUs: l.GPUs, Seq: 1, Phase: broker.PhaseReady}
	w.step(broker.Reported{Provider: l.Provider, Report: r})
	if w.few("exits", 1) == 0 {
		w.pass(5 * time.Second)
		r.Seq, r.Phase, r.Used = 2, broker.PhaseExited, 4*time.Second
		w.step(broker.Reported{Provider: l.Provider, Report: r})
	}
}

// TestOffers: a market does the same with an index as without, whatever happens.
func TestOffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &twins{T: t}
		for world, cfg := range map[**markettest.World]broker.MarketConfig{&w.indexed: {NewIndex: newIndex}, &w.scanning: {}} {
			var err error
			if *world, err = markettest.NewWorld(cfg); err != nil {
				t.Fatal(err)
			}
			if err := (*world).Open("ann", 1000*pricing.USD); err != nil {
				t.Fatal(err)
			}
		}
		w.step(broker.ContentSized{Digest: markettest.Digest("image"), Bytes: 1 << 30})
		do := map[string]func(){
			"post": w.post, "post more": w.post, "submit": w.submit, "submit more": w.submit, "answer": w.answer, "report": w.report,
			"gone": func() { w.step(broker.ProviderGone{Provider: broker.PeerID(fmt.Sprintf("h%02d", w.few("host", 30)))}) },
			"cancel": func() {
				w.step(broker.CancelRequested{Job: broker.JobID(fmt.Sprint("j", 1+w.few("job", max(w.jobs, 1))))})
			},
			"tick":      func() { w.pass(time.Duration(1+w.few("tick", 60)) * time.Second); w.step(broker.Ticked{}) },
			"released":  func() { l, _ := w.some(broker.LeaseEnding); w.step(broker.ReleaseAnswered{Lease: l.ID}) },
			"restarted": w.restart,
		}
		names := make([]string, 0, len(do))
		for name := range do {
			names = append(names, name)
		}
		slices.Sort(names)
		for range 80 {
			do[rapid.SampledFrom(names).Draw(t, "event")]()
		}
	})
}

func (w *twins) restart() {
	if w.few("really", 20) > 0 {
		return
	}
	for _, world := range []*markettest.World{w.indexed, w.scanning} {
		if err := world.Restart(); err != nil {
			w.Fatal(err)
		}
	}
}
