package vast_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"rialto/broker"
	"rialto/broker/api"
)

// fleet is a market that has something for everyone.
func fleet(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.provider("berlin", "DE", 4, gpu("RTX 4090", 24_564), "0.40/h")
	w.provider("stockholm", "SE", 1, gpu("RTX 4090", 24_564), "0.35/h")
	w.provider("paris", "FR", 3, gpu("L40S", 46_068), "0.80/h")
	w.provider("austin", "US", 8, gpu("A100 SXM 80GB", 81_920), "1.10/h")
	sim := broker.GPU{Model: "RTX 4090", MemoryMiB: 24_564, Simulated: true, DeviceMinor: -1}
	w.provider("dream", "", 1, sim, "0.01/h")
	return w
}

// hosts lists what a search finds, as host×GPUs, in order.
func (w *world) hosts(body string) []string {
	w.t.Helper()
	out := []string{}
	for _, o := range list(w.ok("POST", "/api/v0/bundles/", body)["offers"]) {
		out = append(out, fmt.Sprintf("%v×%v", o["hostname"], o["num_gpus"]))
	}
	return out
}

// defaults are the filters that vastai search offers sends unless it is given -n.
const defaults = `"verified":{"eq":true},"external":{"eq":false},"rentable":{"eq":true}`

// rest is what it sends besides.
const rest = `"order":[["score","desc"]],"type":"on-demand","allocated_storage":5.0`

// TestSearch sends what clients send, numbers as text and all, and some of what they should not.
func TestSearch(t *testing.T) {
	w := fleet(t)
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"vastai, default": {`{` + defaults + `,` + rest + `}`, []string{
			"stockholm×1", "berlin×1", "paris×1", "berlin×2", "austin×1", "paris×2", "berlin×4", "austin×2", "paris×3", "austin×4", "austin×8",
		}},
		"vastai -n": {`{"num_gpus":{"eq":"1"},` + rest + `}`, []string{"dream×1", "stockholm×1", "berlin×1", "paris×1", "austin×1"}},
		"numbers as text and as floats (trap 1)": {
			`{"num_gpus":{"eq":"1"},"dph_total":{"lte":"0.5"},"gpu_ram":{"gte":24000.0},"cpu_cores_effective":{"gte":"4.0"},` + defaults + `,` + rest + `}`,
			[]string{"stockholm×1", "berlin×1"},
		},
		"driver as a short text (trap 2)":         {`{"driver_version":{"gte":"535"},"num_gpus":{"eq":"8"},` + rest + `}`, []string{"austin×8"}},
		"driver as a number (trap 2)":             {`{"driver_version":{"gte":535086005},"num_gpus":{"eq":"8"},` + rest + `}`, []string{"austin×8"}},
		"driver, newer (trap 2)":                  {`{"driver_version":{"gt":535086005},` + rest + `}`, []string{}},
		"a 24 GB card reports 24564 (trap 3)":     {`{"gpu_ram":{"gte":24000.0,"lt":25000.0},"num_gpus":{"eq":"4"},` + rest + `}`, []string{"berlin×4"}},
		"a 48 GB card reports 46068 (trap 3)":     {`{"gpu_ram":{"gte":48000.0},"num_gpus":{"eq":"2"},` + rest + `}`, []string{"paris×2", "austin×2"}},
		"gpuhunt's slack of 7 % (trap 3)":         {`{"gpu_ram":{"gte":22855.68,"lte":26296.32},"num_gpus":{"gte":4},"rentable":{"eq":true},"rented":{"eq":false},"order":[["score","desc"]]}`, []string{"berlin×4"}},
		"any, as the self-test sends it (trap 4)": {`{"verified":{"eq":"any"},"machine_id":{"eq":"any"},"num_gpus":{"eq":"4"},` + rest + `}`, []string{"berlin×4", "austin×4"}},
		"OpenAPI's spelling (trap 7)":             {`{"type":"ondemand","num_gpus":{"eq":8}}`, []string{"austin×8"}},
		"country's code (trap 8)":                 {`{"geolocation":{"in":["DE","SE"]},"num_gpus":{"eq":"1"},` + rest + `}`, []string{"stockholm×1", "berlin×1"}},
		"countries' codes, not in (trap 8)":       {`{"geolocation":{"notin":["DE","SE"]},"num_gpus":{"eq":"1"},` + rest + `}`, []string{"paris×1", "austin×1"}},
		"a place as the offers have it (trap 8)":  {`{"geolocation":{"eq":", DE"},"num_gpus":{"eq":"1"},` + rest + `}`, []string{"berlin×1"}},
		"beta9's nesting (trap 9)":                {`{"type":"on-demand","q":{"rentable":{"eq":true},"verified":{"eq":true},"gpu_name":{"in":["RTX 4090","L40S"]},"num_gpus":{"eq":1}}}`, []string{"stockholm×1", "berlin×1", "paris×1"}},
		"dstack's reliability2 (trap 13)":         {`{"reliability2":{"gte":0.9},"num_gpus":{"eq":"8"}}`, []string{"austin×8"}},
		"reliability as text":                     {`{"reliability":{"gt":"0.999"}}`, []string{}},
		"gpuhunt's compute_capability (trap 13)":  {`{"compute_capability":{"gte":"800"},"num_gpus":{"eq":"8"}}`, []string{"austin×8"}},
		"one name there, two models here":         {`{"gpu_name":{"in":["A100 PCIE","A100 SXM4"]},"num_gpus":{"eq":"8"}}`, []string{"austin×8"}},
		"an underscore is a space":                {`{"gpu_name":{"eq":"RTX_4090"},"num_gpus":{"eq":"4"}}`, []string{"berlin×4"}},
		"a number of GPUs that is not usual":      {`{"num_gpus":{"eq":"3"},` + defaults + `,` + rest + `}`, []string{"berlin×3", "paris×3", "austin×3"}},
		"at least so many GPUs":                   {`{"num_gpus":{"gte":"3"},` + defaults + `,` + rest + `}`, []string{"berlin×4", "paris×3", "austin×4", "austin×8"}},
		"cores as gpuhunt asks":                   {`{"cpu_cores":{"gte":32},"num_gpus":{"lte":4},"gpu_name":{"in":["RTX 4090"]}}`, []string{"berlin×4"}},
		"memory in thousands of megabytes":        {`{"cpu_ram":{"gte":64000.0},"num_gpus":{"eq":"2"},"gpu_name":{"eq":"RTX 4090"}}`, []string{"berlin×2"}},
		"disk in gigabytes":                       {`{"disk_space":{"gte":"97.65625"},"num_gpus":{"eq":"8"}}`, []string{"austin×8"}},
		"disk in gigabytes, too much":             {`{"disk_space":{"gte":"98"}}`, []string{}},
		"cuda":                                    {`{"cuda_max_good":{"gte":"12.1"},"num_gpus":{"eq":"8"}}`, []string{"austin×8"}},
		"ordered by two":                          {`{"num_gpus":{"eq":"1"},` + defaults + `,"order":[["gpu_ram","desc"],["dph_total","desc"]]}`, []string{"austin×1", "paris×1", "berlin×1", "stockholm×1"}},
		"worst first":                             {`{"num_gpus":{"eq":"1"},` + defaults + `,"order":[["score","asc"]]}`, []string{"austin×1", "paris×1", "berlin×1", "stockholm×1"}},
		"limited, the limit as text":              {`{` + defaults + `,"limit":"2"}`, []string{"stockholm×1", "berlin×1"}},
		"by what Vast's SDK calls unverified":     {`{"verification":{"eq":"unverified"}}`, []string{"dream×1"}},
		"what has no value":                       {`{"geolocation":{"eq":null}}`, []string{"dream×1"}},
		"no host has this id":                     {`{"machine_id":{"in":[1,"2"]}}`, []string{}},
		"no offer has this id":                    {`{"id":{"eq":"4272650263621345"}}`, []string{}},
	} {
		if got := w.hosts(c.body); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	// The other way of asking for the same.
	got := w.ok("PUT", "/api/v0/search/asks/", `{"select_cols":["id","num_gpus","dph_total"],"q":{"num_gpus":{"eq":"8"},`+rest+`,"limit":1}}`)
	o := list(got["offers"])
	if len(o) != 1 || len(o[0]) != 3 || o[0]["dph_total"] != 8.8 {
		t.Errorf("search/asks: %v", got["offers"])
	}
}

// TestSearchRefuses wants every refusal to name what it is about. Nothing is dropped silently.
func TestSearchRefuses(t *testing.T) {
	w := fleet(t)
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"a bid by the price on demand":     {`{"type":"bid","dph_total":{"lte":1}}`, []string{"dph_total", "least bid"}},
		"a least bid":                      {`{"min_bid":{"lte":1}}`, []string{"min_bid", "type bid"}},
		"no kind":                          {`{"type":"bit"}`, []string{"type", "bid"}},
		"reserved":                         {`{"type":"reserved"}`, []string{"type", "reserved"}},
		"what nobody measures (trap 13)":   {`{"inet_down":{"gt":128}}`, []string{"inet_down", "evidence"}},
		"what dstack wants (trap 13)":      {`{"direct_port_count":{"gte":1}}`, []string{"direct_port_count"}},
		"SkyPilot's words":                 {`{"georegion":{"eq":true}}`, []string{"georegion"}},
		"a misspelt field":                 {`{"gpu_nam":{"eq":"RTX 4090"}}`, []string{"gpu_nam", "gpu_name"}},
		"an unknown model":                 {`{"gpu_name":{"eq":"RTX 4900"}}`, []string{"gpu_name", "RTX 4090"}},
		"an unknown operator":              {`{"gpu_ram":{"atleast":1}}`, []string{"gpu_ram", "atleast"}},
		"no number":                        {`{"gpu_ram":{"gte":"much"}}`, []string{"gpu_ram"}},
		"no truth":                         {`{"verified":{"eq":"yes"}}`, []string{"verified", "true"}},
		"no country":                       {`{"geolocation":{"eq":"Germany"}}`, []string{"geolocation"}},
		"no operator":                      {`{"gpu_name":"RTX 4090"}`, []string{"gpu_name", "operators"}},
		"a key twice":                      {`{"gpu_ram":{"gte":24000},"gpu_ram":{"gte":8000}}`, []string{"gpu_ram", "twice"}},
		"an operator twice":                {`{"gpu_ram":{"gte":24000,"gte":8000}}`, []string{"gte", "twice"}},
		"filters outside q":                {`{"q":{},"gpu_name":{"eq":"L40S"}}`, []string{"gpu_name"}},
		"a list without in":                {`{"gpu_name":{"eq":["L40S"]}}`, []string{"gpu_name"}},
		"in without a list":                {`{"gpu_name":{"in":"L40S"}}`, []string{"gpu_name", "list"}},
		"ids in order":                     {`{"machine_id":{"gt":5}}`, []string{"machine_id"}},
		"order by what nobody measures":    {`{"order":[["dlperf","desc"]]}`, []string{"dlperf", "evidence"}},
		"order by nothing known":           {`{"order":[["dph_totl","asc"]]}`, []string{"dph_total"}},
		"order as text":                    {`{"order":"dph_total"}`, []string{"order"}},
		"a negative limit":                 {`{"limit":-1}`, []string{"limit"}},
		"a column that offers do not have": {`{"select_cols":["id","gpu_nam"],"q":{}}`, []string{"gpu_nam"}},
		"no object":                        {`[]`, []string{"object"}},
		"half an object":                   {`{"gpu_ram":{"gte":1}`, []string{"end"}},
		"more than an object":              {`{} {}`, []string{"after"}},
		"a number beyond all":              {`{"gpu_ram":{"gte":1e999}}`, []string{"gpu_ram"}},
		"no job has that many GPUs":        {`{"num_gpus":{"eq":17}}`, nil},
	} {
		if c.want == nil {
			if got := w.hosts(c.body); len(got) != 0 {
				t.Errorf("%s: %v", name, got)
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			w.refused("", "POST", "/api/v0/bundles/", c.body, http.StatusBadRequest, c.want...)
		})
	}
}

// TestOffer is what clients read of one: no number that nobody knows, and nothing that they need missing.
func TestOffer(t *testing.T) {
	w := fleet(t)
	got := w.ok("POST", "/api/v0/bundles/", `{"gpu_name":{"eq":"A100 SXM4"},"num_gpus":{"eq":"2"}}`)
	o := list(got["offers"])[0]
	for key, want := range map[string]any{
		"num_gpus": 2.0, "gpu_name": "A100 SXM4", "gpu_model": "A100 SXM 80GB", "gpu_ram": 81920.0, "gpu_total_ram": 163840.0,
		"dph_base": 2.2, "dph_total": 2.2, "discounted_dph_total": 1.98, "min_bid": 2.2, "is_bid": false, "storage_cost": 0.0, "inet_up_cost": 0.0,
		"cpu_cores": 16.0, "cpu_cores_effective": 16.0, "cpu_ram": 64000.0, "disk_space": 97.65625, "geolocation": ", US",
		"driver_version": "535.86.05", "driver_vers": 535086005.0, "cuda_max_good": 12.8, "compute_cap": 890.0, "gpu_max_power": 450.0,
		"verified": true, "verification": "verified", "rentable": true, "rented": false, "simulated": false, "gpu_frac": 0.25,
		"reliability": 0.995012, "reliability2": 0.995012, "inet_down": nil, "inet_up": nil, "dlperf": nil, "score": nil, "duration": nil, "public_ipaddr": nil, "pcie_bw": nil,
	} {
		if v, ok := o[key]; !ok || v != want {
			t.Errorf("%s: %v, want %v", key, v, want)
		}
	}
	// gpuhunt computes with these: price, and memory as the share of the host.
	for _, key := range []string{"id", "cpu_cores", "cpu_cores_effective", "cpu_ram", "disk_space", "storage_cost", "gpu_ram", "num_gpus", "dph_base", "min_bid"} {
		if _, ok := o[key].(float64); !ok {
			t.Errorf("%s is no number: %v", key, o[key])
		}
	}
	if got["offers_live"] != 5.0 || got["offers_found"] != 1.0 || len(list(got["eliminated"])) == 0 || !strings.Contains(fmt.Sprint(got["applied"]), "gpu_name") {
		t.Errorf("not explained: %v", got)
	}
	// The same offer again, as dstack asks for it, with its key in the query.
	again := w.call("", "POST", "/api/v0/bundles/?api_key="+w.token, `{"id":{"eq":"`+id(o["id"])+`"}}`)
	if rows := list(again.object()["offers"]); len(rows) != 1 || rows[0]["id"] != o["id"] || rows[0]["num_gpus"] != 2.0 {
		t.Errorf("by id: %s", again.text)
	}
	if f, ok := o["id"].(float64); !ok || f <= 0 || f >= 1<<53 || f != float64(int64(f)) {
		t.Errorf("id %v is no integer below 2^53", o["id"])
	}
	if got := w.hosts(`{"machine_id":{"eq":` + id(o["machine_id"]) + `},"num_gpus":{"gte":4}}`); !reflect.DeepEqual(got, []string{"austin×4", "austin×8"}) {
		t.Errorf("by machine: %v", got)
	}
	if got := w.hosts(`{"host_id":{"notin":[` + id(o["host_id"]) + `]},"num_gpus":{"eq":4}}`); !reflect.DeepEqual(got, []string{"berlin×4"}) {
		t.Errorf("not by machine: %v", got)
	}
}

// TestModelsRoundTrip wants each of our models to be found under the name that Vast's clients are told.
func TestModelsRoundTrip(t *testing.T) {
	w := newWorld(t)
	for i, m := range broker.Models() {
		if i%8 != 0 && !strings.ContainsAny(m.Name, "SA") { // hosts cost time; the names that differ all have an S, an A or are Teslas
			continue
		}
		w.provider(fmt.Sprintf("h%d", i), "", 1, gpu(m.Name, m.MemoryMiB), "1.00/h")
	}
	for _, o := range list(w.ok("POST", "/api/v0/bundles/", `{}`)["offers"]) {
		name, _ := o["gpu_name"].(string)
		found := list(w.ok("POST", "/api/v0/bundles/", fmt.Sprintf(`{"gpu_name":{"eq":%q},"select_cols":["gpu_model"]}`, name))["offers"])
		if !strings.Contains(fmt.Sprint(found), fmt.Sprint(o["gpu_model"])+"]") {
			t.Errorf("%v is called %s, and that finds %v", o["gpu_model"], name, found)
		}
	}
}

// TestLimits wants 429 with Retry-After (trap 12), by account and by address.
func TestLimits(t *testing.T) {
	w := newWorld(t, func(c *api.Config) { c.AccountRate = api.Rate{PerSecond: 1, Burst: 2} })
	for i, want := range []int{200, 200, 429} {
		r := w.call(w.token, "GET", "/api/v0/users/current/", "")
		if r.status != want || (want == 429) != (r.header.Get("Retry-After") == "1") {
			t.Errorf("request %d: status %d, %v", i, r.status, r.header)
		}
	}
	w.refused(w.token, "GET", "/api/v0/users/current/", "", 429, "slow down")
}

// TestUnrouted wants a helpful answer where there is none.
func TestUnrouted(t *testing.T) {
	w := newWorld(t)
	w.refused("", "GET", "/api/v0/bundle/", "", 404, "/v0/bundles")
	w.refused("", "GET", "/api/v0/bundles/", "", 405, "POST")
	w.refused("", "GET", "/api/v7/bundles/", "", 404)
	w.refused("", "GET", "/api/", "", 404)
	w.refused(w.token, "PUT", "/api/v0/instances/prepay/1/", `{"client_id":"me","amount":1}`, 501, "reserved")
	w.refused(w.token, "PUT", "/api/v0/instances/reboot/1/", `{}`, 501)
	if r := w.call("", "GET", "/v1/market", ""); r.status != 200 {
		t.Errorf("the market's own API beside it: status %d", r.status)
	}
}
