package api_test

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/markettest"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
)

// sellBeside puts a host on the market that charges for disk and traffic.
func (h *hall) sellBeside(t *testing.T, rate pricing.Rate, tariff broker.Tariff) {
	t.Helper()
	o := markettest.Offer("charging", "RTX 4090", 1, rate)
	o.Tariff, o.DiskMiB = tariff, 100<<10
	if _, err := h.world.Step(broker.OffersPosted{Provider: o.Provider, Set: broker.OfferSet{Boot: "boot", Seq: 1, Offers: []broker.Offer{o}}}); err != nil {
		t.Fatal(err)
	}
}

// TestTariffOverHTTP: what a host charges for beside its GPUs is in its offer, in what a job is expected to cost, in the
// limit on the price and in a quote, for what the query says that the job writes and carries.
func TestTariffOverHTTP(t *testing.T) {
	h, base := newHall(t, 0)
	h.sellBeside(t, 400_000_000, broker.Tariff{Disk: 200_000, Ingress: 5_000_000, Egress: 10_000_000})
	c := client(t, base, "")
	for _, tt := range []struct {
		name                string
		query               api.Query
		disk, traffic, cost int64
	}{
		{"what is usual", api.Query{}, 2_000_000, 15_000_000, 417_000_000},
		{"50 GiB and 20 GB", api.Query{DiskMiB: 50 << 10, TrafficBytes: 20e9}, 10_000_000, 300_000_000, 710_000_000},
		{"the least", api.Query{DiskMiB: 16, TrafficBytes: 1}, 3_125, 0, 400_003_125},
	} {
		found, err := c.Offers(t.Context(), tt.query)
		if err != nil || len(found.Offers) != 1 {
			t.Fatalf("%s: %+v, %v", tt.name, found, err)
		}
		o := found.Offers[0]
		if o.DiskNanoUSDPerGiBHour != 200_000 || o.IngressNanoUSDPerGB != 5_000_000 || o.EgressNanoUSDPerGB != 10_000_000 {
			t.Errorf("%s: tariff %+v", tt.name, o.Tariff)
		}
		if want := tt.cost; o.AllInNanoUSDPerHour != want { // of one GPU for an hour
			t.Errorf("%s: all in %d, want %d", tt.name, o.AllInNanoUSDPerHour, want)
		}
		if e := o.Expected; e.DiskNanoUSD != tt.disk || e.TrafficNanoUSD != tt.traffic || e.RunNanoUSD != 400_000_000 ||
			e.TotalNanoUSD != e.RunNanoUSD+e.DiskNanoUSD+e.TrafficNanoUSD+e.StartNanoUSD+e.FailureNanoUSD+e.WaitingNanoUSD {
			t.Errorf("%s: expected cost %+v, want %d for the disk and %d for traffic", tt.name, e, tt.disk, tt.traffic)
		}
		quote, err := c.Quote(t.Context(), api.QuoteRequest{Query: tt.query, DurationMS: 3_600_000})
		if err != nil || quote.CostNanoUSD != tt.cost || quote.HoldNanoUSD != tt.cost || quote.RateNanoUSDPerHour != 400_000_000 {
			t.Errorf("%s: quote %d, held %d, %v; want %d", tt.name, quote.CostNanoUSD, quote.HoldNanoUSD, err, tt.cost)
		}
	}
	// The limit on the price is with disk and traffic: 0.417/h for what is usual.
	found, err := c.Offers(t.Context(), api.Query{MaxRateNanoUSDPerHour: 416_999_999})
	if err != nil || found.Matched != 0 || len(found.Nearest) != 1 || found.Nearest[0].Admit != "all_in_price<=0.417/h" {
		t.Errorf("below the whole price: %+v, %v", found, err)
	}
	if found, err = c.Offers(t.Context(), api.Query{MaxRateNanoUSDPerHour: 417_000_000}); err != nil || found.Matched != 1 {
		t.Errorf("at the whole price: %+v, %v", found, err)
	}
	if found, err = c.Offers(t.Context(), api.Query{DiskMiB: 101 << 10}); err != nil || found.Matched != 0 || found.Applied[0] != "disk>=101GiB" {
		t.Errorf("more disk than there is: %+v, %v", found, err)
	}
	why, err := c.ExplainOffers(t.Context(), api.Query{DiskMiB: 101 << 10, TrafficBytes: 1e12})
	if err != nil || len(why.Predicates) != 2 || why.Predicates[0].Eliminated != 1 || why.Predicates[0].Cheapest.Offer.Expected.TrafficNanoUSD != 15_000_000_000 {
		t.Errorf("explained: %+v, %v", why, err)
	}
	// A host that charges for nothing else shows no such price.
	_, base = newHall(t, 1)
	if resp := fetch(t, base+"/v1/offers"); strings.Contains(resp.body, "per_gib") || strings.Contains(resp.body, "per_gb\"") || !strings.Contains(resp.body, `"disk_nanousd":0`) {
		t.Errorf("an offer without a tariff: %s", resp.body)
	}
}

// TestBadDiskAndTraffic: what no job may ask for is named, with the nearest that it may.
func TestBadDiskAndTraffic(t *testing.T) {
	_, base := newHall(t, 1)
	for _, tt := range []struct{ name, value, field, want string }{
		{"disk_mib", "-1", "disk_mib", ""},
		{"disk_mib", "1", "disk_mib", "16"},
		{"disk_mib", "15", "disk_mib", "want 16 to 16777215"},
		{"disk_mib", "16777216", "disk_mib", "16777215"},
		{"disk_mib", "99999999999999999999", "disk_mib", ""},
		{"disk_mib", "1.5", "disk_mib", ""},
		{"disk_mib", "50GiB", "disk_mib", ""},
		{"traffic_bytes", "-1", "traffic_bytes", "0"},
		{"traffic_bytes", "1000000000000001", "traffic_bytes", "1000000000000000"},
		{"traffic_bytes", "9223372036854775808", "traffic_bytes", ""},
		{"traffic_bytes", "20GB", "traffic_bytes", ""},
		{"disk_mb", "1", "disk_mb", "disk_mib"},
		{"traffic_byte", "1", "traffic_byte", "traffic_bytes"},
	} {
		status, _, p := ask(t, http.MethodGet, base+"/v1/offers?"+tt.name+"="+tt.value, "", "")
		field, _ := p["field"].(string)
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusBadRequest || strings.TrimPrefix(field, "query.") != tt.field || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s=%s: %d %s, want 400 for %s with %q", tt.name, tt.value, status, text, tt.field, tt.want)
		}
		for _, path := range []string{"/v1/offers:explain", "/v1/quotes"} {
			body := `{"` + tt.name + `":` + tt.value
			if path == "/v1/quotes" {
				body += `,"duration_ms":1000`
			}
			if status, _, p := ask(t, http.MethodPost, base+path, "", body+"}"); status/100 != 4 || p["detail"] == "" {
				t.Errorf("%s of %s}: %d %v", path, body, status, p)
			}
		}
	}
	for _, good := range []string{"disk_mib=0", "disk_mib=16", "disk_mib=16777215", "traffic_bytes=0", "traffic_bytes=1000000000000000"} {
		if status, _, p := ask(t, http.MethodGet, base+"/v1/offers?"+good, "", ""); status != http.StatusOK {
			t.Errorf("%s: %d %v", good, status, p)
		}
	}
}

// tenancy is a market with one job, on a host that charges for disk and traffic.
type tenancy struct {
	market

	receipt []byte
	egress  int64 // more than some
}

var _ api.Market = (*tenancy)(nil)

func (m *tenancy) job(id broker.JobID) broker.Job {
	return broker.Job{
		ID: id, Account: owner, State: broker.JobRunning, Lease: "l-1", Hold: pricing.USD,
		Spec:   broker.JobSpec{GPU: broker.GPURequest{Count: 2}, MaxDuration: time.Hour, Firm: time.Second, DiskMiB: 20 << 10, Traffic: 5e9, Nodes: 2},
		Member: broker.Member{Gang: jobID},
	}
}

func (m *tenancy) Job(_ context.Context, _ broker.AccountID, id broker.JobID) (broker.Job, error) {
	return m.job(id), nil
}

func (m *tenancy) Lease(_ context.Context, _ broker.AccountID, id broker.JobID) (broker.Lease, error) {
	return broker.Lease{
		ID: "l-1", Job: id, Rate: 400_000_000, State: broker.LeaseActive, Cost: 9,
		Tariff: someTariff(), Traffic: broker.Traffic{Ingress: 7e9, Egress: max(3, m.egress)}, DiskCost: 4, TrafficCost: 2,
	}, nil
}

func (m *tenancy) Receipt(context.Context, broker.AccountID, broker.JobID) ([]byte, error) {
	return m.receipt, nil
}

func someTariff() broker.Tariff {
	return broker.Tariff{Disk: 200_000, Ingress: 5_000_000, Egress: 10_000_000}
}

// TestExtrasOverHTTP: a job, its gang, lease, firm quote and receipt say what disk and traffic are, and what they cost.
func TestExtrasOverHTTP(t *testing.T) {
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	var m tenancy
	m.receipt, err = wire.SealReceipt(key, broker.Receipt{
		Job: "j-aaaaaaaaaaaaaaaaaaaaaaaaaa", Lease: "l-aaaaaaaaaaaaaaaaaaaaaaaaaa", Customer: broker.PeerID(key.ID()), Provider: broker.PeerID(key.ID()), Model: "RTX 4090",
		GPUs: []broker.GPULease{{UUID: "GPU-1", Epoch: 1}}, Ended: time.Unix(9, 0), Cost: 9,
		Tariff: someTariff(), DiskMiB: 20 << 10, Traffic: broker.Traffic{Ingress: 7e9, Egress: 3}, DiskCost: 4, TrafficCost: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, start(t, &m, nil), ownerToken)
	tariff := api.Tariff{DiskNanoUSDPerGiBHour: 200_000, IngressNanoUSDPerGB: 5_000_000, EgressNanoUSDPerGB: 10_000_000}
	if tariff.BrokerTariff() != someTariff() {
		t.Errorf("%+v became %+v", tariff, tariff.BrokerTariff())
	}
	extras := api.Extras{IngressBytes: 7e9, EgressBytes: 3, DiskCostNanoUSD: 4, TrafficCostNanoUSD: 2}
	j, err := c.Job(t.Context(), jobID)
	if err != nil || j.Tariff != tariff || j.Extras != extras || j.DiskMiB != 20<<10 || j.TrafficBytes != 5e9 {
		t.Errorf("job %+v, %v", j, err)
	}
	l, err := c.Lease(t.Context(), jobID)
	if err != nil || l.Tariff != tariff || l.Extras != extras {
		t.Errorf("lease %+v, %v", l, err)
	}
	r, err := c.Receipt(t.Context(), jobID)
	if err != nil || r.Tariff != tariff || r.Extras != extras || r.DiskMiB != 20<<10 {
		t.Errorf("receipt %+v, %v", r, err)
	}
	g, err := c.Gang(t.Context(), jobID)
	if both := (api.Extras{IngressBytes: 14e9, EgressBytes: 6, DiskCostNanoUSD: 8, TrafficCostNanoUSD: 4}); err != nil || g.Extras != both {
		t.Errorf("gang %+v, %v", g, err)
	}
	m.egress = math.MaxInt64
	if g, err = c.Gang(t.Context(), jobID); err != nil || g.EgressBytes != math.MaxInt64 {
		t.Errorf("hosts that overstate: %+v, %v", g, err)
	}
	// 2 × $0.40, 20 GiB of $0.0002, 5 GB each way at $0.005 and $0.01.
	q, err := c.FirmQuoteOf(t.Context(), jobID)
	if err != nil || q.Tariff != tariff || q.DiskMiB != 20<<10 || q.TrafficBytes != 5e9 || q.TotalRateNanoUSDPerHour != 800_000_000 || q.CostNanoUSD != 879_000_000 {
		t.Errorf("firm quote %+v, %v", q, err)
	}
}

// TestUsualDiskAndTraffic: a job that says nothing is shown with what that means.
func TestUsualDiskAndTraffic(t *testing.T) {
	j, err := client(t, start(t, &market{}, nil), ownerToken).Job(t.Context(), jobID)
	if err != nil || j.DiskMiB != 10<<10 || j.TrafficBytes != 1e9 || j.Tariff != (api.Tariff{}) || j.Extras != (api.Extras{}) {
		t.Errorf("job %+v, %v", j, err)
	}
}

// TestTariffIsDescribed: the description names units and defaults.
func TestTariffIsDescribed(t *testing.T) {
	_, _, doc := ask(t, http.MethodGet, start(t, &market{}, nil)+"/openapi.json", "", "")
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"disk_nanousd_per_gib_hour", "ingress_nanousd_per_gb", "egress_nanousd_per_gb", "unless given 10240, which is 10 GiB", "unless given 1000000000, which is 1 GB"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not described", want)
		}
	}
	schemas, _ := doc["components"].(map[string]any)["schemas"].(map[string]any)
	for _, name := range []string{"Offer", "Job", "Lease", "Receipt", "FirmQuote"} {
		schema, _ := schemas[name].(map[string]any)
		properties, _ := schema["properties"].(map[string]any)
		field, _ := properties["egress_nanousd_per_gb"].(map[string]any)
		if field["description"] == nil || properties["Tariff"] != nil {
			t.Errorf("%s: %v", name, field)
		}
	}
}
