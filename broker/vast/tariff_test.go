package vast_test

import (
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// charges makes a host charge for its disk, 0.15 a month, and for traffic.
func (p *provider) charges() {
	p.offer.Tariff = broker.Tariff{Disk: 208_333, Ingress: pricing.USD / 200, Egress: pricing.USD / 100}
	p.post()
}

// priced is a market of a host that charges for disk and traffic, and two that do not.
func priced(t *testing.T) (*world, *provider) {
	t.Helper()
	w := newWorld(t)
	p := w.provider("berlin", "DE", 4, gpu("RTX 4090", 24_564), "0.40/h")
	p.charges()
	w.provider("stockholm", "SE", 1, gpu("RTX 4090", 24_564), "0.4001/h")
	w.provider("paris", "FR", 2, gpu("RTX 4090", 24_564), "0.80/h")
	return w, p
}

// near reports whether a cell is a number within a nanodollar of another.
func near(v any, want float64) bool {
	f, ok := v.(float64)
	return ok && math.Abs(f-want) < 1e-9
}

// TestOfferTariff is what clients read of an offer's prices for disk and traffic, and what they compute from them.
func TestOfferTariff(t *testing.T) {
	w, _ := priced(t)
	for storage, disk := range map[string]float64{ // its price in nanodollars an hour
		``:                              5 * 208_333, // what clients take for it who do not say
		`,"allocated_storage":null`:     5 * 208_333,
		`,"allocated_storage":8`:        8 * 208_333,
		`,"allocated_storage":"90.5"`:   18_854_136, // as text
		`,"allocated_storage":0.015625`: 3_255,
	} {
		for _, call := range [][3]string{
			{"POST", "/api/v0/bundles/", `{"geolocation":{"eq":"DE"},"num_gpus":{"eq":2}` + storage + `}`},
			{"PUT", "/api/v0/search/asks/", `{"select_cols":["*"],"q":{"geolocation":{"eq":"DE"},"num_gpus":{"eq":2}` + storage + `}}`},
		} {
			o := list(w.ok(call[0], call[1], call[2])["offers"])[0]
			disk := disk / 1e9
			for key, want := range map[string]float64{
				"storage_cost": 0.15, "storage_total_cost": disk, "dph_base": 0.8, "dph_total": 0.8 + disk, "discounted_dph_total": 0.72 + disk,
				"min_bid": 0.8, "inet_up_cost": 0.01, "inet_down_cost": 0.005,
			} {
				if !near(o[key], want) {
					t.Errorf("%s: %s is %v, want %v", call[2], key, o[key], want)
				}
			}
			if parts, _ := o["search"].(map[string]any); !near(parts["gpuCostPerHour"], 0.8) || !near(parts["diskHour"], disk) || !near(parts["totalHour"], 0.8+disk) {
				t.Errorf("%s: search is %v", call[2], parts)
			}
		}
	}
	// gpuhunt's sum.
	o := list(w.ok("POST", "/api/v0/bundles/", `{"geolocation":{"eq":"DE"},"num_gpus":{"eq":1},"allocated_storage":50}`)["offers"])[0]
	base, _ := o["dph_base"].(float64)
	storage, _ := o["storage_cost"].(float64)
	if total, _ := o["dph_total"].(float64); math.Abs(base+50*storage/720-total) > 1e-7 {
		t.Errorf("gpuhunt has %v and %v a month: %v, not %v", base, storage, base+50*storage/720, total)
	}
}

// TestSearchTariff filters and orders by the prices of disk and traffic.
func TestSearchTariff(t *testing.T) {
	w, _ := priced(t)
	one := `"num_gpus":{"eq":"1"},`
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"by all, with the disk":                 {one + `"allocated_storage":5.0`, []string{"stockholm×1", "berlin×1", "paris×1"}},
		"with little disk":                      {one + `"allocated_storage":0.1`, []string{"berlin×1", "stockholm×1", "paris×1"}},
		"a total with the disk":                 {one + `"dph_total":{"lte":"0.401"}`, []string{"stockholm×1"}},
		"a total with less of it":               {one + `"dph_total":{"lte":"0.401"},"allocated_storage":"4"`, []string{"stockholm×1", "berlin×1"}},
		"a total with the disk, by alias":       {one + `"dph":{"lte":0.401}`, []string{"stockholm×1"}},
		"GPUs alone":                            {one + `"dph_base":{"lte":"0.4"}`, []string{"berlin×1"}},
		"storage as an owner said it":           {one + `"storage_cost":{"gte":"0.15"}`, []string{"berlin×1"}},
		"storage, at most":                      {one + `"storage_cost":{"lte":0.15}`, []string{"stockholm×1", "berlin×1", "paris×1"}},
		"storage, cheaper":                      {one + `"storage_cost":{"lt":0.15}`, []string{"stockholm×1", "paris×1"}},
		"no price of storage":                   {one + `"storage_cost":{"eq":"0"}`, []string{"stockholm×1", "paris×1"}},
		"storage of the instance":               {one + `"storage_total_cost":{"gt":0.001}`, []string{"berlin×1"}},
		"storage of a smaller one":              {one + `"storage_total_cost":{"gt":0.001},"allocated_storage":4`, []string{}},
		"upload":                                {one + `"inet_up_cost":{"gte":"0.01"}`, []string{"berlin×1"}},
		"upload, dearer":                        {one + `"inet_up_cost":{"gt":"0.01"}`, []string{}},
		"download":                              {one + `"inet_down_cost":{"lte":0.004}`, []string{"stockholm×1", "paris×1"}},
		"download in a list":                    {one + `"inet_down_cost":{"in":[0.005,"0.006"]}`, []string{"berlin×1"}},
		"dearest storage first":                 {one + `"order":[["storage_cost","desc"],["dph_total","desc"]]`, []string{"berlin×1", "paris×1", "stockholm×1"}},
		"by storage of the instance":            {one + `"order":[["storage_total_cost","desc"]]`, []string{"berlin×1", "stockholm×1", "paris×1"}},
		"by upload":                             {one + `"order":[["inet_up_cost","asc"],["dph_total","desc"]]`, []string{"paris×1", "stockholm×1", "berlin×1"}},
		"by download":                           {one + `"order":[["inet_down_cost","desc"]]`, []string{"berlin×1", "stockholm×1", "paris×1"}},
		"by GPUs alone":                         {one + `"order":[["dph_base","asc"]]`, []string{"berlin×1", "stockholm×1", "paris×1"}},
		"more disk than anybody has (trap 11)":  {one + `"allocated_storage":"98"`, []string{}},
		"any, as the self-test says (trap 4)":   {one + `"storage_cost":{"eq":"any"}`, []string{"stockholm×1", "berlin×1", "paris×1"}},
		"in q, with storage beside it (trap 9)": {`"q":{"num_gpus":{"eq":1},"dph_total":{"lte":0.401}},"allocated_storage":4`, []string{"stockholm×1", "berlin×1"}},
	} {
		if got := w.hosts(`{` + c.body + `}`); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	got := w.ok("POST", "/api/v0/bundles/", `{"allocated_storage":98,"storage_cost":{"lt":0.15}}`)
	if e := fmt.Sprint(got["eliminated"]); !strings.Contains(fmt.Sprint(got["applied"]), "disk>=98GiB") || !strings.Contains(e, "97.65") && !strings.Contains(e, "100000") {
		t.Errorf("not explained: %v", got)
	}
	for body, want := range map[string][]string{
		`{"allocated_storage":0}`:                           {"allocated_storage", "0.015625", "GB"},
		`{"allocated_storage":"16384"}`:                     {"allocated_storage", "16383.9990234375 GB"},
		`{"allocated_storage":1e30}`:                        {"allocated_storage"},
		`{"allocated_storage":-5}`:                          {"allocated_storage", "negative"},
		`{"allocated_storage":"much"}`:                      {"allocated_storage", "number"},
		`{"allocated_storage":{"gte":32}}`:                  {"allocated_storage", "number"},
		`{"storage_cost":{"lte":"cheap"}}`:                  {"storage_cost"},
		`{"inet_up_cost":{"lte":-1}}`:                       {"inet_up_cost"},
		`{"inet_up_cost":{"atmost":1}}`:                     {"inet_up_cost", "atmost"},
		`{"inet_up_costs":{"lte":1}}`:                       {"inet_up_costs", "inet_up_cost"},
		`{"type":"bid","dph_base":{"lte":1}}`:               {"least bid"},
		`{"order":[["storage_csot","asc"]]}`:                {"storage_c"},
		`{"vram_costperhour":{"lte":1}}`:                    {"vram_costperhour"},
		`{"q":{"allocated_storage":0},"select_cols":["*"]}`: {"allocated_storage"},
	} {
		w.refused("", "POST", "/api/v0/bundles/", body, http.StatusBadRequest, want...)
	}
}

// TestInstanceTariff follows the disk that is asked for and the traffic that is carried into an instance and its bill.
func TestInstanceTariff(t *testing.T) {
	w, p := priced(t)
	offers := list(w.ok("POST", "/api/v0/bundles/", `{"geolocation":{"eq":"DE"},"num_gpus":{"eq":2},"allocated_storage":20.5}`)["offers"])
	started := w.ok("PUT", "/api/v0/asks/"+id(offers[0]["id"])+"/", create(`"disk":20.5`))
	const disk = 4_270_826 / 1e9 // 20.5 GiB at 208,333, half to even
	if !near(started["dph_base"], 0.8) || started["dph_total"] != offers[0]["dph_total"] || !near(started["hold"], 24*(0.8+disk)+0.015) {
		t.Errorf("created: %v", started)
	}
	if notes := fmt.Sprint(started["notes"]); !strings.Contains(notes, "$0.005/GB that reaches it and $0.01/GB that leaves it") || !strings.Contains(notes, "at most 1 GB") {
		t.Errorf("created without a word about traffic: %s", notes)
	}
	i := w.show(started["new_contract"])
	j, l := w.job(i)
	if j.Spec.DiskMiB != 20992 || j.Spec.Traffic != 0 || l.Tariff != p.offer.Tariff || p.tariff != p.offer.Tariff {
		t.Errorf("signed %+v, leased at %+v, asked at %+v", j.Spec, l.Tariff, p.tariff)
	}
	// Its limit is the price as it is: what costs a nanodollar more is not taken.
	charge, err := j.Spec.Charge(p.offer.Rate, p.offer.Tariff)
	if err != nil || !j.Spec.Affords(p.offer.Rate, charge) || j.Spec.Affords(p.offer.Rate+1, charge) {
		t.Errorf("limit %v for %+v, %v", j.Spec.MaxRate, charge, err)
	}

	p.report(l, broker.Report{Phase: broker.PhaseReady})
	p.report(l, broker.Report{Phase: broker.PhaseReady, Used: time.Millisecond, Traffic: broker.Traffic{Ingress: 3 << 10, Egress: 1_000_000_000}})
	i = w.show(started["new_contract"])
	for key, want := range map[string]float64{
		"disk_space": 20.5, "dph_base": 0.8, "dph_total": 0.8 + disk, "min_bid": 0.8, "storage_cost": 0.15, "storage_total_cost": disk,
		"inet_up_cost": 0.01, "inet_down_cost": 0.005, "inet_up_billed": 976562.5, "inet_down_billed": 3, // in KiB
	} {
		if !near(i[key], want) {
			t.Errorf("%s: %v, want %v", key, i[key], want)
		}
	}
	if parts, _ := i["instance"].(map[string]any); !near(parts["gpuCostPerHour"], 0.8) || !near(parts["diskHour"], disk) || !near(parts["totalHour"], 0.8+disk) {
		t.Errorf("instance is %v", parts)
	}
	from, _ := i["end_date"].(float64)
	if _, l = w.job(i); math.Abs(from-float64(l.Ready.Add(24*time.Hour).Unix())) > 2 {
		t.Errorf("it ends at %v, ready at %v", i["end_date"], l.Ready.Unix())
	}
	p.report(l, broker.Report{Phase: broker.PhaseExited, Used: time.Second, Traffic: broker.Traffic{Ingress: 3 << 10, Egress: 3_000_000_000}})
	i = w.show(started["new_contract"])
	_, l = w.job(i)
	if !near(i["inet_up_billed"], 2929687.5) || !near(i["traffic_cost"], 0.010000015) || !near(i["cost"], float64(l.Cost)/1e9) || !near(i["disk_cost"], float64(l.DiskCost)/1e9) {
		t.Errorf("billed: %v of it for the disk and %v for traffic, %v", i["cost"], i["traffic_cost"], l)
	}
}

// TestDisk is what an instance may write: what is asked for, or what clients take for it who do not say.
func TestDisk(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 8, gpu("RTX 4090", 24_564), "0.01/h")
	p.charges()
	for disk, want := range map[string]struct {
		mib   uint64
		shown float64
	}{
		`null`: {0, 10}, `10.0`: {10240, 10}, `"3.5"`: {3584, 3.5}, `0.0151`: {16, 0.015625}, `97.65625`: {100_000, 97.65625},
	} {
		got := w.ok("PUT", w.ask(1), create(`"disk":`+disk))
		i := w.show(got["new_contract"])
		j, _ := w.job(i)
		if j.Spec.DiskMiB != want.mib || i["disk_space"] != want.shown || got["dph_total"] != i["dph_total"] {
			t.Errorf("%s: %d MiB, shown as %v, want %+v; %v and %v an hour", disk, j.Spec.DiskMiB, i["disk_space"], want, got["dph_total"], i["dph_total"])
		}
	}
	path := w.ask(1)
	for disk, want := range map[string][]string{
		`0`: {"disk", "0.015625", "GB"}, `0.014`: {"disk", "0.015625"}, `16384`: {"disk", "16383.9990234375 GB"}, `1e25`: {"disk"}, `-1`: {"disk", "negative"},
		`97.657`: {"disk", "97.65625", "nothing was started"}, `true`: {"disk"}, `[5]`: {"disk"},
	} {
		w.refused(w.token, "PUT", path, create(`"disk":`+disk), http.StatusBadRequest, want...)
	}
}

// TestMoneyTariff keeps money aside for disk and traffic, and starts nothing on less than they cost.
func TestMoneyTariff(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 2, gpu("RTX 4090", 24_564), "1.00/h")
	p.offer.Tariff = broker.Tariff{Disk: 100_000_000, Ingress: 4 * pricing.USD, Egress: pricing.USD}
	p.post()
	r := w.ok("PUT", w.ask(1), create(`"disk":10`))
	if r["hold"] != 25.0 || r["max_duration"] != 36000.0 || r["dph_total"] != 2.0 { // $5 of the $25 are for traffic, at $2 an hour
		t.Errorf("created: %v", r)
	}
	_, l := w.job(w.show(r["new_contract"]))
	p.report(l, broker.Report{Phase: broker.PhaseReady})
	i := w.show(r["new_contract"])
	_, l = w.job(i)
	if end, _ := i["end_date"].(float64); i["dph_total"] != 2.0 || math.Abs(end-float64(l.Ready.Add(10*time.Hour).UnixMilli())/1000) > 0.01 {
		t.Errorf("shown: %v", i)
	}
	w.refused(w.token, "PUT", w.ask(1), create(`"disk":10`), http.StatusPaymentRequired, "$0.00", "$2.00/h and $5.00 for traffic")
}

// TestBidsTariff bids for GPUs: disk and traffic come on top.
func TestBidsTariff(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 4, gpu("RTX 4090", 24_564), "0.40/h")
	p.offer.MinBid = pricing.Rate(150 * pricing.USD / 1000)
	p.charges()
	offers := list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":"2"},"type":"bid","storage_cost":{"lte":0.15},"allocated_storage":10}`)["offers"])
	const disk = 10 * 208_333 / 1e9
	if len(offers) != 1 || !near(offers[0]["min_bid"], 0.3) || !near(offers[0]["dph_base"], 0.3) || !near(offers[0]["dph_total"], 0.3+disk) {
		t.Fatalf("a search for bids: %v", offers)
	}
	r := w.ok("PUT", "/api/v0/asks/"+id(offers[0]["id"])+"/", create(`"price":0.5`))
	if !near(r["dph_base"], 0.5) || !near(r["dph_total"], 0.5+disk) || !near(r["hold"], 24*(0.5+disk)+0.015) {
		t.Errorf("created: %v", r)
	}
	if i := w.show(r["new_contract"]); !near(i["dph_base"], 0.3) || !near(i["dph_total"], 0.3+disk) {
		t.Errorf("shown: %v", i)
	}
}

// TestLaunchDisk passes over offers that have less disk than the instance is to have, also where the search does not say.
func TestLaunchDisk(t *testing.T) {
	w := newWorld(t)
	small := w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.10/h")
	small.offer.DiskMiB = 8 << 10
	small.post()
	w.provider("stockholm", "SE", 1, gpu("RTX 4090", 24_564), "0.20/h")
	if r := w.ok("PUT", "/api/v0/launch_instance/", `{"image":"x","disk":16.0,"q":{"num_gpus":{"eq":"1"}}}`); r["dph_total"] != 0.2 {
		t.Errorf("launched %v", r)
	}
	w.refused(w.token, "PUT", "/api/v0/launch_instance/", `{"image":"x","disk":98,"q":{"num_gpus":{"eq":"1"}}}`, http.StatusConflict, "disk")
}

// TestOwnerTariff prices disk and traffic with the key of a host's owner: up is what leaves the host.
func TestOwnerTariff(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 2, gpu("RTX 4090", 24_564), "0.40/h")
	p.charges()
	key, err := w.market.OwnerToken(t.Context(), p.id())
	if err != nil {
		t.Fatal(err)
	}
	machine := func() map[string]any {
		t.Helper()
		return list(w.call(key, "GET", "/api/v0/machines", "").object()["machines"])[0]
	}
	m := id(machine()["id"])
	listed := func(when string, gpu, storage, up, down any) {
		t.Helper()
		i := machine()
		for name, want := range map[string]any{"gpu": gpu, "storage": storage, "inet_up": up, "inet_down": down} {
			if got := i["listed_"+name+"_cost"]; got != want {
				t.Errorf("%s: %s is listed at %v, want %v", when, name, got, want)
			}
		}
		if i["agent_gpu_cost"] != 0.4 || i["agent_storage_cost"] != 0.15 || i["agent_inet_up_cost"] != 0.01 || i["agent_inet_down_cost"] != 0.005 {
			t.Errorf("%s: the agent asks %v", when, i)
		}
		found := list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":1}}`)["offers"])
		if gpu == nil {
			if len(found) != 0 {
				t.Errorf("%s: found %v", when, found)
			}
			return
		}
		if o := found[0]; o["dph_base"] != gpu || o["storage_cost"] != storage || o["inet_up_cost"] != up || o["inet_down_cost"] != down {
			t.Errorf("%s: offered at %v, %v, %v, %v", when, o["dph_base"], o["storage_cost"], o["inet_up_cost"], o["inet_down_cost"])
		}
	}
	set := func(prices string) reply {
		t.Helper()
		return w.call(key, "PUT", "/api/v0/machines/create_asks/", `{"machine":`+m+`,`+prices+`,"min_chunk":1,"vol_size":null}`)
	}
	listed("at first", 0.4, 0.15, 0.01, 0.005)
	for _, step := range []struct {
		prices          string
		gpu, disk, u, d float64
	}{
		{`"price_disk":0.2,"price_inetu":"0.02"`, 0.4, 0.2, 0.02, 0.005},
		{`"price_gpu":0.5,"price_disk":null`, 0.5, 0.2, 0.02, 0.005}, // what is not said stays
		{`"price_inetd":0.007,"price_inetu":0.01`, 0.5, 0.2, 0.01, 0.007},
		{`"price_disk":0.15`, 0.5, 0.15, 0.01, 0.007}, // the agent's own again
	} {
		if r := set(step.prices); r.status != 200 {
			t.Errorf("%s: %d %s", step.prices, r.status, r.text)
		}
		listed(step.prices, step.gpu, step.disk, step.u, step.d)
	}
	for prices, want := range map[string][]string{
		`"price_disk":0.149`:                    {"price_disk", "$0.149", "$0.15", "--disk-price"},
		`"price_disk":0`:                        {"price_disk", "--disk-price"},
		`"price_inetu":0.009`:                   {"price_inetu", "$0.01", "--egress-price"},
		`"price_inetd":0.004`:                   {"price_inetd", "$0.005", "--ingress-price"},
		`"price_gpu":0.9,"price_inetd":0`:       {"price_inetd"}, // and the rest of it is not taken either
		`"price_disk":-1`:                       {"price_disk", "negative"},
		`"price_disk":1000`:                     {"price_disk", "want $0.00/h to $1.00/h"},
		`"price_inetu":11`:                      {"price_inetu", "$10.00"},
		`"price_inetd":0.0123456789`:            {"price_inetd", "nine decimals"},
		`"price_inetd":"free"`:                  {"price_inetd", "number"},
		`"price_inetd":1e29`:                    {"price_inetd"},
		`"price_disk":1e29`:                     {"price_disk"},
		`"price_inet":0.02`:                     {"price_inet", "price_inetd"},
		`"price_gpu":0.5,"price_min_bid":"0.1"`: {"price_min_bid"},
		`"price_gpu":0.5,"vol_price":0.1`:       {"vol_price", "volumes"},
	} {
		w.refused(key, "PUT", "/api/v0/machines/create_asks/", `{"machine":`+m+`,`+prices+`}`, http.StatusBadRequest, want...)
	}
	listed("refused", 0.5, 0.15, 0.01, 0.007)

	// The agent raises its own above what was asked.
	p.offer.Tariff.Ingress = pricing.USD / 100
	p.post()
	if o := list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":1}}`)["offers"])[0]; o["inet_down_cost"] != 0.01 {
		t.Errorf("the agent's own is higher: %v", o["inet_down_cost"])
	}
	p.charges()

	w.ok("PUT", w.ask(1), create(""))
	p.mu.Lock()
	asked := p.tariff
	p.mu.Unlock()
	if want := (broker.Tariff{Disk: 208_333, Ingress: 7 * pricing.USD / 1000, Egress: pricing.USD / 100}); asked != want {
		t.Errorf("the host was asked at %+v, want %+v", asked, want)
	}
	if r := w.call(key, "DELETE", "/api/v0/machines/"+m+"/asks/", "{}"); r.status != 200 {
		t.Errorf("unlist: %d %s", r.status, r.text)
	}
	listed("unlisted", nil, nil, nil, nil)
	if r := set(`"price_gpu":null`); r.status != 200 {
		t.Errorf("list again: %d %s", r.status, r.text)
	}
	listed("listed again", 0.5, 0.15, 0.01, 0.007)
}
