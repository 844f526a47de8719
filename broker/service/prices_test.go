package service

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/markettest"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
)

const cent = pricing.Rate(pricing.USD / 100)

// priceMarket is a market in a bubble whose agents are played by the test.
type priceMarket struct {
	*Service
	t        *testing.T
	key      identity.Key
	customer identity.Key
	account  broker.AccountID
	store    *bentStore
	stop     func()
	jobs     int
	seqs     map[broker.PeerID]uint64
	ids      map[string]broker.PeerID // of providers, by host
}

// bentStore tells another rate of a lease that is over.
type bentStore struct {
	Store
	bent atomic.Pointer[broker.LeaseID]
}

func (s *bentStore) Endings(ctx context.Context, from time.Time, after broker.LeaseID) iter.Seq2[broker.Ending, error] {
	return func(yield func(broker.Ending, error) bool) {
		for e, err := range s.Store.Endings(ctx, from, after) {
			if bent := s.bent.Load(); bent != nil && *bent == e.Lease {
				e.Rate++
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func newPriceMarket(t *testing.T) *priceMarket {
	t.Helper()
	m := &priceMarket{t: t, key: mustKey(t), customer: mustKey(t), store: &bentStore{Store: ledger.Books{Store: new(ledger.Memory)}}, seqs: map[broker.PeerID]uint64{}, ids: map[string]broker.PeerID{}}
	m.start()
	deposit := 100_000 * pricing.USD
	a, _, err := m.OpenAccount(t.Context(), "ada", &deposit)
	if err != nil {
		t.Fatal(err)
	}
	m.account = a.ID
	if _, err := m.BindKey(t.Context(), a.ID, broker.PeerID(m.customer.ID())); err != nil {
		t.Fatal(err)
	}
	return m
}

func mustKey(t *testing.T) identity.Key {
	t.Helper()
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (m *priceMarket) start() {
	m.t.Helper()
	s, err := New(Config{
		Key: m.key, Host: silentHost{}, Store: m.store, SendTimeout: time.Hour, Tick: time.Second,
		Market: broker.MarketConfig{AllowSimulated: true, LeaseTTL: 12 * time.Hour, HoldTTL: time.Hour},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	m.Service = s
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Error(err)
		}
	})
	m.t.Cleanup(m.stop)
	if err := s.open(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *priceMarket) event(ev broker.Event) {
	m.t.Helper()
	if err := m.Service.event(m.t.Context(), 0, ev); err != nil {
		m.t.Fatalf("%T: %v", ev, err)
	}
}

// offer posts a provider's only offer.
func (m *priceMarket) offer(host string, gpus int, rate pricing.Rate, change ...func(*broker.Offer)) broker.PeerID {
	m.t.Helper()
	o := markettest.Offer(host, "RTX 4090", gpus, rate)
	if m.ids[host] == "" {
		m.ids[host] = broker.PeerID(mustKey(m.t).ID())
	}
	o.Provider, o.Region = m.ids[host], "DE"
	for i := range o.GPUs {
		o.GPUs[i].Level = broker.LevelNVML
	}
	for _, f := range change {
		f(&o)
	}
	m.seqs[o.Provider]++
	m.event(broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "b", Seq: m.seqs[o.Provider], Offers: []broker.Offer{o}}})
	return o.Provider
}

func simulate(o *broker.Offer) {
	for i := range o.GPUs {
		o.GPUs[i].Simulated, o.GPUs[i].Level = true, broker.LevelClaimed
		o.GPUs[i].UUID = "SIM" + strings.TrimPrefix(o.GPUs[i].UUID, "GPU")
		o.Free[i] = o.GPUs[i].UUID
	}
}

// run rents a GPU of a provider for a while.
func (m *priceMarket) run(p broker.PeerID, d time.Duration) broker.Lease {
	m.t.Helper()
	m.jobs++
	spec := markettest.Spec(string(m.customer.ID()), fmt.Sprint(m.jobs))
	spec.Broker, spec.Provider = broker.PeerID(m.key.ID()), p
	spec.MaxRate, spec.MaxCost, spec.MaxDuration = pricing.Rate(1000*pricing.USD), 1000*pricing.USD, 200*time.Hour
	envelope, err := wire.SealJobSpec(m.customer, spec)
	if err != nil {
		m.t.Fatal(err)
	}
	j, err := m.Submit(m.t.Context(), m.account, fmt.Sprint(m.jobs), envelope)
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := m.Lease(m.t.Context(), m.account, j.ID)
	if err != nil {
		m.t.Fatal(err)
	}
	kind := map[bool]string{false: "GPU", true: "SIM"}[l.Simulated]
	gpus := []broker.GPULease{{UUID: kind + "-" + l.Host + "-0", Epoch: uint64(m.jobs)}}
	m.event(markettest.Grant(l, gpus...))
	m.event(broker.ConfirmAnswered{Lease: l.ID})
	time.Sleep(time.Second)
	m.event(broker.Reported{Provider: p, Report: broker.Report{Lease: l.ID, GPUs: gpus, Seq: 1, Phase: broker.PhaseReady}, Envelope: []byte("1")})
	time.Sleep(d)
	m.event(broker.Reported{Provider: p, Report: broker.Report{Lease: l.ID, GPUs: gpus, Seq: 2, Phase: broker.PhaseExited, Used: d, Traffic: broker.Traffic{Ingress: 5e8, Egress: 5e8}}, Envelope: []byte("2")})
	if l, err = m.Lease(m.t.Context(), m.account, j.ID); err != nil || !l.Over() {
		m.t.Fatalf("lease %+v, %v", l, err)
	}
	return l
}

// settle waits for the next print and until it is shown.
func (m *priceMarket) settle() *broker.PriceBoard {
	m.t.Helper()
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + 5*time.Second)))
	synctest.Wait()
	b, err := m.Prices(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *priceMarket) row(tier, region string) broker.PriceRow {
	m.t.Helper()
	b, err := m.Prices(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	r, err := b.Row(pricing.Cell{Model: "RTX 4090", Term: pricing.OnDemand, Region: region, Tier: tier})
	if err != nil {
		m.t.Fatal(err)
	}
	return *r
}

func (m *priceMarket) receipt(cell pricing.Cell, at time.Time) pricing.Receipt {
	m.t.Helper()
	r, err := m.PriceReceipt(m.t.Context(), cell, at)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := pricing.Verify(r); err != nil {
		m.t.Fatal(err)
	}
	return r
}

// TestPricesAreOfGPUsAlone: what hosts charge for disk and traffic is in their bills, and neither in trades nor in asks.
func TestPricesAreOfGPUsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPriceMarket(t)
		var hosts []broker.PeerID
		for i, name := range []string{"alpha", "beta", "gamma"} {
			tariff := broker.Tariff{Disk: cent * pricing.Rate(i), Ingress: pricing.USD / 10, Egress: pricing.USD}
			hosts = append(hosts, m.offer(name, 1, 40*cent, func(o *broker.Offer) { o.Tariff = tariff }))
		}
		for i := range 6 {
			l := m.run(hosts[i%3], 20*time.Minute)
			gpus, err := l.Rate.Cost(l.Billed)
			if disk := i%3 > 0; err != nil || (l.DiskCost > 0) != disk || l.TrafficCost < pricing.USD/2 || l.Cost != gpus+l.DiskCost+l.TrafficCost {
				t.Errorf("bill of %v: %v for the disk, %v for traffic, %v for GPUs, %v", l.Cost, l.DiskCost, l.TrafficCost, gpus, err)
			}
		}
		m.settle()
		row := m.row(pricing.TierNVML, pricing.AnyRegion)
		if p := row.Print; p.Quality != pricing.Firm || p.Trades != 6 || p.Index != 40*cent {
			t.Errorf("printed %+v", p)
		}
		r := m.receipt(row.Print.Cell, time.Time{})
		for _, x := range r.Trades {
			if x.Rate != 40*cent {
				t.Errorf("a trade at %v", x.Rate)
			}
		}
		for _, x := range row.Asks {
			if x.Rate != 40*cent {
				t.Errorf("an ask at %v", x.Rate)
			}
		}
	})
}

// TestPrices takes a market from its first offers to firm prices and over a restart.
func TestPrices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPriceMarket(t)
		if b := m.settle(); len(b.Rows) != 0 {
			t.Fatalf("an empty market has rows: %+v", b.Rows)
		}
		p := []broker.PeerID{m.offer("alpha", 2, 40*cent), m.offer("beta", 4, 42*cent), m.offer("gamma", 1, 44*cent)}
		sim := m.offer("toy", 8, cent, simulate)
		if _, err := m.PriceReceipt(t.Context(), pricing.Cell{Model: "RTX 4090", Term: pricing.OnDemand, Region: pricing.AnyRegion, Tier: pricing.TierNVML}, time.Time{}); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a receipt before the first print: %v", err)
		}
		m.settle()
		real, toy := m.row(pricing.TierNVML, pricing.AnyRegion), m.row(pricing.TierSimulated, pricing.AnyRegion)
		if real.Print.Quality != pricing.Indicative || real.Print.Index != 42*cent || real.FreeGPUs != 7 || real.Providers != 3 {
			t.Errorf("asks only: %+v", real)
		}
		if toy.Print.Index != cent || toy.FreeGPUs != 8 {
			t.Errorf("simulated GPUs: %+v", toy)
		}
		early := m.receipt(real.Print.Cell, time.Time{})
		if early.InputsHash != real.InputsHash || len(early.Asks) != 3 || early.Asks[0].Operator == string(p[0]) {
			t.Errorf("receipt of an indicative print: %+v, shown was %s", early, real.InputsHash)
		}

		var last broker.Lease
		for i := range 6 {
			m.run(p[i%3], 5*time.Minute) // too short
			last = m.run(p[i%3], 20*time.Minute)
			m.run(sim, 20*time.Minute)
		}
		board := m.settle()
		real, toy = m.row(pricing.TierNVML, pricing.AnyRegion), m.row(pricing.TierSimulated, pricing.AnyRegion)
		if real.Print.Quality != pricing.Firm || real.Print.Trades != 6 || real.Print.Operators != 3 || real.Print.Index != 42*cent {
			t.Errorf("after six trades: %+v", real.Print)
		}
		if toy.Print.Quality != pricing.Indicative || toy.Print.Trades != 6 || toy.Print.Index != cent {
			t.Errorf("simulated trades of one operator: %+v", toy.Print)
		}
		if europe := m.row(pricing.TierNVML, "europe"); europe.Print.Index != real.Print.Index {
			t.Errorf("europe: %+v", europe.Print)
		}
		if h := board.Health; h.Holds != 18 || h.Granted != 18 || h.Starts != 18 || h.MedianStart != time.Second || h.Interruptions != 0 || h.GPUSeconds != 6*45*60 {
			t.Errorf("health: %+v", h)
		}
		firm := m.receipt(real.Print.Cell, time.Time{})
		if firm.InputsHash != real.InputsHash || len(firm.Trades) != 6 || firm.Trades[5].ID != pricing.TradeID(string(last.ID)) {
			t.Errorf("receipt of a firm print: %+v, shown was %s", firm, real.InputsHash)
		}
		if again := m.receipt(real.Print.Cell, time.Unix(early.At+59, 0)); again.InputsHash != early.InputsHash || again.Print != early.Print {
			t.Errorf("the early receipt later: %+v, was %+v", again, early)
		}
		if _, err := m.PriceReceipt(t.Context(), real.Print.Cell, time.Unix(early.At, 0).AddDate(0, 0, -1)); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a receipt of the day before: %v", err)
		}

		wash, of, err := m.PriceWash(t.Context(), real.Print.Cell)
		if err != nil || of != firm.Print || wash != pricing.Washed(firm.Inputs) || wash.One <= 0 || wash.Three <= 0 {
			t.Errorf("wash: %+v of %+v, %v", wash, of, err)
		}
		if wash, of, err := m.PriceWash(t.Context(), toy.Print.Cell); err != nil || of.Quality != pricing.Indicative || wash != (pricing.Wash{}) {
			t.Errorf("wash of asks: %+v of %+v, %v", wash, of, err)
		}
		rows := m.bars(real.Print.Cell)
		trades := 0
		for _, r := range rows {
			trades += r.Trades
		}
		if trades != 6 || rows[len(rows)-1].Close != 42*cent {
			t.Errorf("history: %+v", rows)
		}

		// A restart changes nothing that was printed.
		m.stop()
		m.start()
		m.offer("alpha", 2, 40*cent)
		m.settle()
		after := m.bars(real.Print.Cell)
		if n := slices.IndexFunc(rows, func(b pricing.Bar) bool { return b.Seq == 0 }); n < 0 || len(after) <= n || !slices.Equal(after[:n], rows[:n]) {
			t.Errorf("history before the restart:\n%+v\nafter:\n%+v", rows, after)
		}
		for _, was := range []pricing.Receipt{early, firm} {
			if again := m.receipt(real.Print.Cell, time.Unix(was.At, 0)); again.InputsHash != was.InputsHash || again.Print != was.Print {
				t.Errorf("a receipt after the restart: %+v, was %+v", again, was)
			}
		}
		if now := m.row(pricing.TierNVML, pricing.AnyRegion); now.Print.Quality != pricing.Firm || now.Print.Index != 42*cent {
			t.Errorf("after the restart: %+v", now.Print)
		}
		if h := m.settle().Health; h.Holds != 18 || h.Starts != 18 {
			t.Errorf("health after the restart: %+v", h)
		}

		// A ledger that was tampered with does not give what was printed.
		m.store.bent.Store(&last.ID)
		if r, err := m.PriceReceipt(t.Context(), firm.Cell, time.Unix(firm.At, 0)); err == nil {
			t.Errorf("another rate in the ledger, and a receipt %+v", r)
		}
	})
}

func (m *priceMarket) bars(cell pricing.Cell) []pricing.Bar {
	m.t.Helper()
	rows, err := m.PriceHistory(m.t.Context(), cell, pricing.Firm, pricing.Minute, time.Time{}, time.Now().Add(time.Hour))
	if err != nil {
		m.t.Fatal(err)
	}
	return rows
}

// TestPriceDays: the daily fix, the first print of a day and the end of a price, over restarts.
func TestPriceDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPriceMarket(t)
		until := func(hour, minute int) {
			t.Helper()
			now := time.Now().UTC()
			at := time.Date(now.Year(), now.Month(), now.Day(), hour, minute, 5, 0, time.UTC)
			if !at.After(now) {
				at = at.AddDate(0, 0, 1)
			}
			time.Sleep(at.Sub(now))
			synctest.Wait()
		}
		until(14, 0)
		p := []broker.PeerID{m.offer("alpha", 1, 40*cent), m.offer("beta", 1, 42*cent), m.offer("gamma", 1, 44*cent)}
		for i := range 6 {
			m.run(p[i%3], 10*time.Minute)
		}
		until(15, 30)
		m.stop()
		m.start()
		for _, host := range []string{"alpha", "beta", "gamma"} {
			m.offer(host, 1, 42*cent)
		}
		m.settle()
		if r := m.row(pricing.TierNVML, pricing.AnyRegion); !r.Fix.At.IsZero() {
			t.Errorf("a fix before its time: %+v", r.Fix)
		}
		until(16, 0)
		day := time.Now().UTC().Truncate(24 * time.Hour)
		want := broker.PriceFix{At: day.Add(16 * time.Hour), Value: 42 * cent}
		r := m.row(pricing.TierNVML, pricing.AnyRegion)
		if r.Fix != want || r.Print.Quality != pricing.Firm {
			t.Errorf("fix: %+v, want %+v; print %+v", r.Fix, want, r.Print)
		}
		before := m.receipt(r.Print.Cell, time.Time{})
		m.stop()
		m.start()
		m.settle()
		if again := m.row(pricing.TierNVML, pricing.AnyRegion); again.Fix != want {
			t.Errorf("after a restart the fix is %+v, was %+v", again.Fix, want)
		}
		until(0, 2)
		midnight := m.receipt(r.Print.Cell, day.AddDate(0, 0, 1))
		if midnight.At != day.AddDate(0, 0, 1).Unix() || midnight.Print.Quality != pricing.Firm || midnight.Trades[0].ID != before.Trades[0].ID {
			t.Errorf("the first print of a day: %+v", midnight)
		}
		if midnight.Trades[0].Operator == before.Trades[0].Operator {
			t.Error("a party can be followed from one day to the next")
		}
		m.stop()
		m.start()
		m.settle()
		if again := m.row(pricing.TierNVML, pricing.AnyRegion); again.Fix != want || again.Print.Quality != pricing.Firm {
			t.Errorf("after a restart without offers: %+v", again)
		}
		until(15, 30) // the last trade is a day old
		if end := m.row(pricing.TierNVML, pricing.AnyRegion); end.Print.Quality != pricing.Stale || end.Print.Index != 0 || end.Fix != want {
			t.Errorf("without trades and offers: %+v", end)
		}
		if old := m.receipt(r.Print.Cell, time.Unix(before.At, 0)); old.InputsHash != before.InputsHash {
			t.Errorf("yesterday's receipt is another: %+v", old)
		}
		if _, err := m.PriceForecast(t.Context(), r.Print.Cell, pricing.Firm); err != nil {
			t.Errorf("forecast: %v", err)
		}
		// A week begins, with a fit of what was traded before it. Of the week before there was nothing.
		until(0, 2)
		monday := time.Now().UTC().Truncate(24 * time.Hour)
		now := m.row(pricing.TierNVML, pricing.AnyRegion)
		for at, want := range map[time.Time]pricing.Hedonic{
			{}:                        {FittedAt: monday.Unix(), Trades: 6, Operators: 3},
			monday:                    {FittedAt: monday.Unix(), Trades: 6, Operators: 3},
			monday.AddDate(1, 0, 0):   {FittedAt: monday.Unix(), Trades: 6, Operators: 3},
			monday.Add(-time.Second):  {FittedAt: monday.AddDate(0, 0, -7).Unix()},
			monday.AddDate(0, 0, -15): {FittedAt: monday.AddDate(0, 0, -21).Unix()},
		} {
			h, obs, err := m.PriceFit(t.Context(), r.Print.Cell, at)
			if err != nil || h != want || len(obs) != want.Trades || h.Verify(obs) != nil {
				t.Errorf("fit at %v: %+v of %d, %v; want %+v", at, h, len(obs), err, want)
			}
		}
		if want := (pricing.Hedonic{FittedAt: monday.Unix(), Trades: 6, Operators: 3}); now.Hedonic != want {
			t.Errorf("the row's fit: %+v, want %+v", now.Hedonic, want)
		}
		if _, _, err := m.PriceFit(t.Context(), pricing.Cell{Model: "L40S"}, time.Time{}); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a fit of a cell that is not there: %v", err)
		}
	})
}
