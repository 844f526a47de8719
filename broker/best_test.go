package broker

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// strict is an index that shows everything that is wanted and nothing else.
type strict struct{ ladders }

func (s *strict) Walk(w *Want, g Goal) {
	for _, l := range s.all {
		if !g.Wanted(l.Rate) {
			return
		}
		o := l.Offer
		if len(o.GPUs) < w.GPUs || l.Free < w.Free || o.SoldMemory() < w.MemoryMiB || w.MaxRate > 0 && l.Rate > w.MaxRate ||
			len(w.Models) > 0 && !slices.ContainsFunc(w.Models, func(x string) bool { return sameModel(x, o.GPUs[0].Model) }) ||
			len(w.Regions) > 0 && !slices.ContainsFunc(w.Regions, func(x string) bool { return sameName(x, o.Region) }) {
			continue
		}
		if !o.Tariff.within(g.Most(l.Rate)) {
			continue
		}
		g.Visit(l)
	}
}

// TestBest: what is found through an index that shows as little as it may is what a scan finds, in the same order.
func TestBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		indexes := map[string]func() Index{"ladders": newLadders, "strict": func() Index { return &strict{*newLadders().(*ladders)} }} //nolint:forcetypeassert // that is what it is
		m, err := NewMarket(MarketConfig{Self: "broker", NewIndex: indexes[rapid.SampledFrom([]string{"ladders", "strict"}).Draw(t, "index")]})
		if err != nil {
			t.Fatal(err)
		}
		m.clock = time.Unix(1e9, 0)
		few := func(label string, most int) int { return rapid.IntRange(0, most).Draw(t, label) }
		base := pricing.Rate(rapid.SampledFrom([]int{0, 1, 1000, 400_000_000}).Draw(t, "base"))
		for i := range rapid.IntRange(1, 40).Draw(t, "offers") {
			p := PeerID(fmt.Sprintf("p%02d", i%30))
			o := &Offer{ID: OfferID(fmt.Sprint(i)), Provider: p, Host: fmt.Sprint("h", i), Rate: base + base/200*pricing.Rate(few("dearer", 12)) + pricing.Rate(few("more", 1))}
			if o.Rate > 1 && few("reserved", 2) == 0 {
				o.ReservedRate, o.ReservedMin = max(1, o.Rate-1-base/100*pricing.Rate(few("cheaper", 6))), time.Duration(1+few("term", 2))*time.Hour
			}
			if few("charges", 2) > 0 {
				o.Tariff = Tariff{
					Disk: base/2000*pricing.Rate(few("disk", 4)) + pricing.Rate(few("disk more", 2)), Ingress: pricing.Money(base)/200*pricing.Money(few("ingress", 4)) + pricing.Money(few("ingress more", 2)),
					Egress: pricing.Money(base) / 200 * pricing.Money(few("egress", 4)),
				}
			}
			o.MinBid, o.DiskMiB = o.Rate/4*pricing.Rate(few("least bid", 4)), []uint64{0, 1000, 50 << 10, MaxDiskMiB}[few("has disk", 3)]
			o.Region = rapid.SampledFrom([]string{"", "US", "DE", "FR"}).Draw(t, "region")
			model, memory := rapid.SampledFrom([]string{"RTX 4090", "H200"}).Draw(t, "model"), uint64(24<<10*rapid.IntRange(1, 2).Draw(t, "memory"))
			for g := range rapid.IntRange(1, 4).Draw(t, "gpus") {
				gpu := GPU{UUID: fmt.Sprintf("%d.%d", i, g), Model: model, MemoryMiB: memory}
				if o.GPUs = append(o.GPUs, gpu); few("free", 4) > 0 {
					o.Free = append(o.Free, gpu.UUID)
				}
			}
			if few("image", 3) == 0 {
				o.Images = []ImageHeld{{Digest: "image"}}
			}
			if few("weights", 3) == 0 {
				o.Weights = []string{"weights"}
			}
			s := m.shops[p]
			if s == nil {
				s = new(shop)
			}
			m.stock(p, &shop{offers: append(slices.Clone(s.offers), o)})
			r := Record{Seen: time.Duration(few("seen", 3)) * 300 * time.Hour, Failures: few("failures", 2)}
			m.records[p], m.longest = r, max(m.longest, r.Seen)
			for h := range few("holds", 4) {
				m.recallFill(&Lease{ID: LeaseID(fmt.Sprint(i, ".", h)), Account: AccountID(fmt.Sprint(h)), Provider: p, Fill: FillFailed, Answered: m.clock})
			}
			for range few("starts", 4) {
				l := &Lease{ID: LeaseID(fmt.Sprint("s", i)), Provider: p, Ready: m.clock, Startup: Startup{Took: time.Duration(few("took", 3)*700+1) * time.Millisecond}}
				m.starts.learn(l, &JobSpec{})
			}
		}
		if few("sized", 1) == 1 {
			m.sized(ContentSized{Digest: "image", Bytes: int64(few("bytes", 3)) << 30})
		}
		if err := m.auditShops(); err != nil {
			t.Fatal(err)
		}
		q := Query{
			GPU:      GPURequest{Model: rapid.SampledFrom([]string{"", "RTX 4090", "H200"}).Draw(t, "asked"), Count: rapid.IntRange(1, 3).Draw(t, "count")},
			Region:   rapid.SampledFrom([]string{"", "US", "DE"}).Draw(t, "in"),
			Image:    rapid.SampledFrom([]string{"", "image"}).Draw(t, "of"),
			Run:      rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 24 * time.Hour, 700 * time.Hour}).Draw(t, "run"),
			WaitRate: pricing.Rate(few("wait", 2)) * 2 * base,
			Reserve:  time.Duration(few("reserve", 3)) * time.Hour,
			DiskMiB:  rapid.SampledFrom([]uint64{0, 0, 16, 1000, MaxDiskMiB}).Draw(t, "writes"),
			Traffic:  rapid.SampledFrom([]int64{0, 0, 1, 3e8, 5e9, MaxTraffic}).Draw(t, "sends"),
			MaxRate:  rapid.SampledFrom([]pricing.Rate{0, 0, 0, base + base/50, 2 * base}).Draw(t, "limit"),
			Bid:      base / 4 * pricing.Rate(max(0, few("bid", 8)-4)),
			lottery:  rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "lottery"),
		}
		if few("heavy", 1) == 1 {
			q.Weights = []string{"weights"}
		}
		where := rapid.SampledFrom([]string{
			"", "gpu_ram>=40", "price<=0.41/h", "price<0.408/h gpu_ram=24", "geolocation in [US,DE]", "gpu_name in [rtx_4090,h200] rentable=any", "fill_rate>=0", "geolocation=null",
			"all_in_price<=0.45/h", "all_in_price=0.4/h", "total_price<0.41/h", "disk_price<=0.004/h egress_price<0.08",
		}).Draw(t, "where")
		if q.Where, err = ParseFilter(where); err != nil {
			t.Skip(err)
		}
		if q, err = m.complete(q); err != nil {
			t.Fatal(err)
		}
		var tried []PeerID
		if few("tried", 2) == 0 {
			tried = []PeerID{"p00", "p01"}
		}
		all := m.search(q, tried)
		floor := m.floorOf(&q)
		for _, c := range slices.Concat(all.free, all.busy) {
			if least := floor.cost(c.offer.RateFor(q.Reserve)); least > c.cost.Total {
				t.Fatalf("no job can cost less than %v at %v, and one costs %+v", least, c.rate, c.cost)
			}
		}
		for free, want := range map[bool][]candidate{true: all.free, false: all.busy} {
			got := slices.Collect(m.best(&q, tried, free, nil))
			if !slices.EqualFunc(got, want, func(a, b candidate) bool { return a == b }) {
				t.Fatalf("free %v: found %s, the scan finds %s", free, names(got), names(want))
			}
		}
		spec := &JobSpec{GPU: q.GPU, Nodes: 2 + few("nodes", 3), SameRegion: few("one region", 1) == 1}
		free := apartSlowly(spec, all.free)
		if got := m.apart(spec, &q, tried, false); !slices.Equal(names(got), names(free)) {
			t.Fatalf("a gang gets %s, the scan finds %s", names(got), names(free))
		}
		if free == nil {
			free = apartSlowly(spec, slices.Concat(all.free, all.busy))
		}
		if got := m.apart(spec, &q, tried, true); !slices.Equal(names(got), names(free)) {
			t.Fatalf("a gang that may wait gets %s, the scan finds %s", names(got), names(free))
		}
		surveyed(t, m, q)
		turnPages(t, m, q)
	})
}

// TestWantOfBid: an index may pass over what is listed above a limit on the all-in price, unless a bid pays less than that.
func TestWantOfBid(t *testing.T) {
	where, err := ParseFilter("all_in_price<=0.30/h")
	if err != nil {
		t.Fatal(err)
	}
	for bid, want := range map[pricing.Rate]pricing.Rate{0: 300_000_000, 200_000_000: 0} {
		q := Query{GPU: GPURequest{Model: AnyModel, Count: 1}, Bid: bid, Where: where}
		if got := wantOf(&q, q.predicates(), true).MaxRate; got != want {
			t.Errorf("with a bid of %v: listed at %v at most, want %v", bid, got, want)
		}
	}
}

// A region that is full is not the cheapest as long as another may become it: those as good as the best come in any order.
func TestApartWaitsForTheCheapest(t *testing.T) {
	var all []candidate
	for i, c := range []struct {
		region string
		cost   pricing.Money
	}{{"US", 1009}, {"US", 1008}, {"US", 1009}, {"DE", 1001}, {"DE", 1000}, {"US", 1020}, {"SE", 1020}, {"SE", 1020}} {
		all = append(all, candidate{offer: &Offer{Provider: PeerID(fmt.Sprint("p", i)), Region: c.region}, cost: Cost{Total: c.cost}})
	}
	looked := 0
	a := apart{nodes: 2, sameRegion: true, regions: map[string]*region{}}
	a.choose(func(yield func(candidate) bool) {
		for _, c := range all {
			if looked++; !yield(c) {
				return
			}
		}
	})
	if got, want := names(a.cheapest.nodes), names(all[3:5]); !slices.Equal(got, want) || looked != 6 {
		t.Errorf("got %s after %d offers, want %s after 6", got, looked, want)
	}
}

// apartSlowly chooses a gang's hosts from all candidates.
func apartSlowly(s *JobSpec, among []candidate) []candidate {
	groups := Apart(among, s.Nodes, s.SameRegion, func(c candidate) (PeerID, string) { return c.offer.Provider, c.offer.Region })
	if len(groups) == 0 {
		return nil
	}
	total := func(nodes []candidate) (sum pricing.Money) {
		for _, c := range nodes {
			sum += c.cost.Total
		}
		return sum
	}
	return slices.MinFunc(groups, func(a, b []candidate) int { return cmp.Compare(total(a), total(b)) })
}

// turnPages reads a search page by page, briefly and explained: the pages are the same.
func turnPages(t *rapid.T, m *Market, q Query) {
	q.lottery, q.Limit = "", rapid.IntRange(1, 5).Draw(t, "limit")
	for pages := 0; ; pages++ {
		want, err := m.Search(q)
		if err != nil {
			t.Fatal(err)
		}
		q.Brief = true
		got, err := m.Search(q)
		if err != nil {
			t.Fatal(err)
		}
		q.Brief = false
		if !reflect.DeepEqual(got.Matches, want.Matches) || got.Next != want.Next || got.Offers != want.Offers || !slices.Equal(got.Applied, want.Applied) {
			t.Fatalf("page %d: %+v, explained %+v", pages, got, want)
		}
		if got.Brief != (len(want.Matches) > 0 || q.After != "") {
			t.Fatalf("page %d is brief: %v, with %d matches", pages, got.Brief, len(want.Matches))
		}
		if q.After = got.Next; q.After == "" {
			return
		}
	}
}

func names(cs []candidate) (out []string) {
	for _, c := range cs {
		out = append(out, fmt.Sprintf("%s/%s %v", c.offer.Provider, c.offer.ID, c.cost.Total))
	}
	return out
}
