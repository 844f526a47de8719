package vast_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/vast"
	"rialto/pricing"
)

// TestOutput fetches what a container printed, as vastai logs does: by a URL that needs no key.
func TestOutput(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.40/h")
	contract := w.ok("PUT", w.ask(1), create(""))["new_contract"]
	fetch := func(path, body string) string {
		t.Helper()
		u, _ := w.ok("PUT", path, body)["result_url"].(string)
		path, ok := strings.CutPrefix(u, w.url)
		if !ok {
			t.Fatalf("result_url %q is not at %s", u, w.url)
		}
		r := w.call("", "GET", path, "")
		if r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
			t.Fatalf("%s: status %d: %s", u, r.status, r.text)
		}
		return r.text
	}
	logs, command := "/api/v0/instances/request_logs/"+id(contract)+"/", "/api/v0/instances/command/"+id(contract)+"/"
	if got := fetch(logs, `{}`); got != "" {
		t.Errorf("before it runs: %q", got)
	}
	w.refused(w.token, "PUT", command, `{"command":"ls"}`, http.StatusConflict, "does not run")
	_, l := w.job(w.show(contract))
	p.report(l, broker.Report{Phase: broker.PhaseReady})
	for body, want := range map[string]string{
		`{}`: "one\ntwo\nthree\n", `{"tail":"1000"}`: "one\ntwo\nthree\n", `{"tail":"2"}`: "two\nthree\n", `{"tail":1}`: "three\n", `{"filter":"^t"}`: "two\nthree\n",
		`{"filter":"^t","tail":1}`: "three\n",
	} {
		if got := fetch(logs, body); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	if got := fetch(logs, `{"daemon_logs":"true"}`); !strings.Contains(got, "berlin leased") {
		t.Errorf("history: %q", got)
	}
	if got := fetch(command, `{"command":"ls -l /"}`); got != `["/bin/sh" "-c" "ls -l /"]` {
		t.Errorf("command: %q", got)
	}
	if r := w.ok("PUT", command, `{"command":"x"}`); r["exit_code"] != 3.0 || r["writeable_path"] != "" {
		t.Errorf("command: %v", r)
	}
	w.refused(w.token, "PUT", logs, `{"filter":"("}`, http.StatusBadRequest, "filter")
	w.refused(w.token, "PUT", logs, `{"tail":"many"}`, http.StatusBadRequest, "tail")
	w.refused("", "GET", "/api/v0/results/aaaa/", "", http.StatusNotFound)
	w.keeper.say("", errors.New("no route"))
	w.refused(w.token, "PUT", logs, `{}`, http.StatusFailedDependency, "no route")
	w.keeper.say(strings.Repeat("x", 9<<20)+"\nend\n", nil)
	if got := fetch(logs, `{"tail":2}`); len(got) > 5<<20 || !strings.HasSuffix(got, "\nend\n") {
		t.Errorf("a long log: %d bytes", len(got))
	}
}

// TestOwner lists and unlists a host with its owner's key.
func TestOwner(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 2, gpu("RTX 4090", 24_564), "0.40/h")
	key, err := w.market.OwnerToken(t.Context(), p.id())
	if err != nil {
		t.Fatal(err)
	}
	r := w.call(key, "GET", "/api/v0/machines?owner=me", "")
	machines := list(r.object()["machines"])
	if r.status != 200 || len(machines) != 1 || machines[0]["listed_gpu_cost"] != 0.4 || machines[0]["gpu_occupancy"] != "x x " {
		t.Fatalf("machines: %s", r.text)
	}
	m := id(machines[0]["id"])
	listing := func(price string) string {
		return `{"machine":` + m + `,"price_gpu":` + price + `,"price_disk":null,"price_inetu":null,"price_inetd":null,"price_min_bid":null,` +
			`"min_chunk":1,"end_date":null,"credit_discount_max":null,"duration":null,"vol_size":null,"vol_price":null}`
	}
	prices := func(want ...float64) {
		t.Helper()
		var got []float64
		for _, o := range list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":1}}`)["offers"]) {
			f, _ := o["dph_total"].(float64)
			got = append(got, f)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("prices %v, want %v", got, want)
		}
	}
	if r := w.call(key, "PUT", "/api/v0/machines/create_asks/", listing("0.55")); r.status != 200 || r.object()["success"] != true {
		t.Errorf("list: %d %s", r.status, r.text)
	}
	prices(0.55)
	w.refused(key, "PUT", "/api/v0/machines/create_asks/", listing("0.39"), http.StatusBadRequest, "$0.40", "--price ")
	w.refused(key, "PUT", "/api/v0/machines/create_asks/", listing("-1"), http.StatusBadRequest, "price_gpu")
	w.refused(key, "PUT", "/api/v0/machines/create_asks/", strings.Replace(listing("0.55"), `"vol_price":null`, `"vol_price":0.2`, 1), http.StatusBadRequest, "vol_price")
	w.refused(key, "PUT", "/api/v0/machines/create_asks/", strings.Replace(listing("0.55"), m, "7", 1), http.StatusNotFound, m)
	w.ok("PUT", w.ask(1), create(""))
	p.mu.Lock()
	asked := p.rate
	p.mu.Unlock()
	if asked != pricing.Rate(550_000_000) {
		t.Errorf("the host was asked at %v", asked)
	}
	if r := w.call(key, "DELETE", "/api/v0/machines/"+m+"/asks/", "{}"); r.status != 200 {
		t.Errorf("unlist: %d %s", r.status, r.text)
	}
	prices()
	p.post()
	prices()
	if r := w.call(key, "GET", "/api/v0/machines/"+m, ""); r.status != 200 || !strings.Contains(r.text, `"listed":false`) {
		t.Errorf("machine: %d %s", r.status, r.text)
	}
	if r := w.call(key, "PUT", "/api/v0/machines/create_asks/", listing("null")); r.status != 200 {
		t.Errorf("list again: %d %s", r.status, r.text)
	}
	prices(0.55)
	if err := p.host.Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the host is gone", func() bool { return w.call(key, "GET", "/api/v0/machines", "").status == http.StatusNotFound })
}

// TestMetrics counts what is offered, and the leases that ran.
func TestMetrics(t *testing.T) {
	w := fleet(t)
	w.ok("PUT", w.ask(1), create("")) // the dream's, at 0.01
	now := list(w.ok("GET", "/api/v0/metrics/gpu/current/?verified=all&hosting_type=all&num_gpus=all", "")["gpus"])
	if len(now) != 3 || now[0]["gpu_name"] != "A100 SXM4" || now[0]["total"] != 8.0 {
		t.Fatalf("current: %v", now)
	}
	for key, want := range map[string]any{
		"total": 6.0, "available": 5.0, "rented_unverified": 1.0, "rented_verified": 0.0, "avail_verified": 5.0, "usage": 16.6667,
		"price_p10": 0.01, "price_median": 0.4, "price_p90": 0.4, "dlperf": nil, "tflops_per_dollar": nil,
	} {
		if v, ok := now[1][key]; !ok || v != want {
			t.Errorf("%s: %v, want %v", key, v, want)
		}
	}
	if got := list(w.ok("GET", "/api/v0/metrics/gpu/current/?verified=yes&num_gpus=4", "")["gpus"]); len(got) != 1 || got[0]["total"] != 4.0 {
		t.Errorf("verified hosts of four: %v", got)
	}
	w.refused("", "GET", "/api/v0/metrics/gpu/current/?hosting_type=secure_cloud", "", http.StatusBadRequest, "hosting_type")
	w.refused("", "GET", "/api/v0/metrics/gpu/current/?verifed=yes", "", http.StatusBadRequest, "verifed")

	where := list(w.ok("GET", "/api/v0/metrics/gpu/locations/", "")["locations"])
	if len(where) != 5 || !strings.Contains(fmt.Sprint(where), "country_code:DE") {
		t.Errorf("locations: %v", where)
	}
	span := fmt.Sprintf("&start=%d&end=%d&step=60", time.Now().Unix()-120, time.Now().Unix()+60)
	gpus, _ := w.ok("GET", "/api/v0/metrics/gpu/history/?gpu_name=RTX+4090,L40S&verified=all&hosting_type=all&num_gpus=all"+span, "")["gpus"].(map[string]any)
	if len(gpus) != 2 || !strings.Contains(fmt.Sprint(gpus["RTX 4090"]), "timestamps") {
		t.Errorf("history: %v", gpus)
	}
	w.refused("", "GET", "/api/v0/metrics/gpu/history/?step=1", "", http.StatusBadRequest, "step")
	w.refused("", "GET", "/api/v0/metrics/gpu/history/?start=5&end=4", "", http.StatusBadRequest, "start")
	w.refused("", "GET", "/api/v0/metrics/gpu/history/?start=0&end=40000000", "", http.StatusBadRequest, "year")
	for query, want := range map[string]string{ // step and points
		"start=0&end=86400": "3600 24", "start=0&end=86400&step=60": "120 720", "start=0&end=60000&step=60": "60 1000", "start=0&end=60001&step=60": "120 501",
		"start=0&end=30000000&step=60": "30000 1000", "start=0&end=90&step=77": "77 2",
	} {
		got := w.ok("GET", "/api/v0/metrics/gpu/history/?gpu_name=L40S&"+query, "")
		gpus, _ := got["gpus"].(map[string]any)
		l40s, _ := gpus["L40S"].(map[string]any)
		pricing, _ := l40s["pricing"].(map[string]any)
		stamps, _ := pricing["timestamps"].([]any)
		if got := fmt.Sprint(got["step"], " ", len(stamps)); got != want {
			t.Errorf("%s: step and points %s, want %s", query, got, want)
		}
	}
}

var _ vast.Custodian = (*keeper)(nil)
