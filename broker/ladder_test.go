package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/pricing"
)

// TestPickAgreesWithSearch climbs ladders of random offers and wants what a scan of all finds: the same offers in the same
// order, up to one per cent more than the best, over offers that come, go, change and are leased.
func TestPickAgreesWithSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, err := NewMarket(MarketConfig{Self: "broker"})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1_800_000_000, 0)
		hosts := rapid.IntRange(1, 40).Draw(t, "hosts")
		for seq := range uint64(rapid.IntRange(1, 60).Draw(t, "posts")) {
			provider := PeerID(fmt.Sprint("host", rapid.IntRange(0, hosts-1).Draw(t, "host")))
			if rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
				mustStep(t, m, now, ProviderGone{provider})
				continue
			}
			mustStep(t, m, now, OffersPosted{Provider: provider, Set: OfferSet{Boot: "b", Seq: seq, Offers: randomOffers(t, provider)}})
		}
		for _, o := range m.offers { // as leases, lost holds and lost leases leave them
			for _, g := range o.GPUs {
				if rapid.IntRange(0, 3).Draw(t, "leased") == 0 {
					m.leased[g.UUID] = "l"
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "seen") == 0 {
				m.records[o.Provider] = Record{Seen: time.Duration(rapid.IntRange(0, 500).Draw(t, "hours")) * time.Hour, Failures: rapid.IntRange(0, 9).Draw(t, "failures")}
			}
			for range rapid.IntRange(0, 3).Draw(t, "holds") {
				m.fills[o.Provider] = append(m.fills[o.Provider], fill{at: now, lease: LeaseID(fmt.Sprint(len(m.fills[o.Provider]))), account: AccountID(fmt.Sprint("a", len(m.fills[o.Provider]))), failed: true})
			}
		}
		if len(m.ladders.all) != len(m.offers) || !slices.IsSortedFunc(m.ladders.all, rung) || !slices.IsSortedFunc(m.offers, byName) {
			t.Fatalf("%d offers, %d in the ladder", len(m.offers), len(m.ladders.all))
		}
		for range 8 {
			q := Query{
				GPU: GPURequest{Model: rapid.SampledFrom([]string{AnyModel, "RTX 4090", "T4"}).Draw(t, "model"), Count: rapid.IntRange(1, 4).Draw(t, "count")},
				Run: time.Duration(rapid.IntRange(1, 100_000).Draw(t, "seconds")) * time.Second, Image: rapid.SampledFrom([]string{"", "sha256:a"}).Draw(t, "image"),
				WaitRate: pricing.Rate(rapid.Int64Range(0, 2_000_000_000).Draw(t, "wait")), lottery: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "lottery"),
			}
			q.Where, err = ParseFilter(rapid.SampledFrom([]string{"", "region=EU", "reliability>99%", "fill_rate>=0", "gpu_ram>=24"}).Draw(t, "where"))
			if err != nil {
				t.Fatal(err)
			}
			var tried []PeerID
			if rapid.Bool().Draw(t, "tried") {
				tried = []PeerID{"host0", "host1"}
			}
			want := m.search(q, tried).free
			got, more := m.pick(q, tried)
			if len(got) == 0 && len(want) > 0 || len(got) > len(want) || !more && len(got) != len(want) {
				t.Fatalf("%d offers and more %v, a scan finds %d", len(got), more, len(want))
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("place %d: %s at %v for %v, a scan has %s at %v for %v", i, got[i].offer.Provider, got[i].rate, got[i].cost.Total, want[i].offer.Provider, want[i].rate, want[i].cost.Total)
				}
			}
			if n := len(got); n > 0 && n < len(want) && want[n].cost.Total <= want[0].cost.Total {
				t.Fatalf("place %d is as good as the best and was not found", n)
			}
		}
	})
}

func mustStep(t *rapid.T, m *Market, now time.Time, ev Event) {
	if _, err := m.Step(now, ev); err != nil {
		t.Fatal(err)
	}
}

func randomOffers(t *rapid.T, provider PeerID) []Offer {
	var out []Offer
	for i := range rapid.IntRange(0, 2).Draw(t, "offers") {
		o := Offer{
			ID: OfferID(fmt.Sprint("o", i)), Provider: provider, Host: string(provider), Region: rapid.SampledFrom([]string{"DE", "US", ""}).Draw(t, "region"),
			Rate: pricing.Rate(rapid.SampledFrom([]int64{0, 1, 99, 100, 101, 102, 150, 400}).Draw(t, "rate")) * 1_000_000, CPUs: 4, MemoryMiB: 1 << 14, DiskMiB: 1 << 14,
		}
		model := rapid.SampledFrom([]string{"RTX 4090", "T4"}).Draw(t, "model")
		for g := range rapid.IntRange(1, 4).Draw(t, "gpus") {
			uuid := fmt.Sprintf("GPU-%s-%d-%d", provider, i, g)
			o.GPUs = append(o.GPUs, GPU{UUID: uuid, Model: model, MemoryMiB: rapid.SampledFrom([]uint64{16 << 10, 24564}).Draw(t, "memory"), Level: LevelNVML})
			o.Free = append(o.Free, uuid)
		}
		if rapid.Bool().Draw(t, "has") {
			o.Images = []ImageHeld{{Digest: "sha256:a", Root: "r"}}
		}
		out = append(out, o)
	}
	return out
}
