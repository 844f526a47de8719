package vast_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// create is what vastai create instance ID --image IMAGE sends, with some of it replaced.
func create(replaced string) string {
	body := `"client_id":"me","image":"python:3","env":{},"price":null,"disk":10.0,"label":null,"extra":null,"onstart":null,` +
		`"image_login":null,"python_utf8":false,"lang_utf8":false,"use_jupyter_lab":false,"jupyter_dir":null,"force":false,` +
		`"cancel_unavail":false,"template_hash_id":null,"user":null,"runtype":"ssh"`
	for part := range strings.SplitSeq(replaced, "\n") {
		key, _, ok := strings.Cut(part, ":")
		if !ok {
			continue
		}
		members := strings.Split(body, `,"`)
		kept := members[:0]
		for i, p := range members {
			if i > 0 {
				p = `"` + p
			}
			if !strings.HasPrefix(p, key+":") {
				kept = append(kept, p)
			}
		}
		body = strings.Join(append(kept, part), ",")
	}
	return "{" + body + "}"
}

// ask returns the path to rent the cheapest offer with a number of GPUs.
func (w *world) ask(gpus int) string {
	w.t.Helper()
	offers := list(w.ok("POST", "/api/v0/bundles/", fmt.Sprintf(`{"num_gpus":{"eq":"%d"}}`, gpus))["offers"])
	if len(offers) == 0 {
		w.t.Fatal("no offer")
	}
	return "/api/v0/asks/" + id(offers[0]["id"]) + "/"
}

// show returns an instance as vastai show instance does.
func (w *world) show(contract any) map[string]any {
	w.t.Helper()
	o, _ := w.ok("GET", "/api/v0/instances/"+id(contract)+"/?owner=me", "")["instances"].(map[string]any)
	return o
}

// TestInstance follows one from its creation to its destruction.
func TestInstance(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 4, gpu("RTX 4090", 24_564), "0.40/h")
	started := w.ok("PUT", w.ask(2), create("\"label\":\"one\"\n\"onstart\":\"echo hi\"\n\"env\":{\"B\":\"2\",\"A\":\"x=y\"}\n\"python_utf8\":true"))
	// The answer says how it is rented, and for how much (pain 3).
	if started["success"] != true || started["type"] != "on-demand" || started["is_bid"] != false || started["dph_total"] != 0.8 || started["hold"] != 19.2 {
		t.Errorf("created: %v", started)
	}
	if !strings.Contains(fmt.Sprint(started["notes"]), "holds this account's key") || !strings.Contains(fmt.Sprint(started["notes"]), "no ssh") {
		t.Errorf("created without a word about custody and ssh: %v", started["notes"])
	}
	contract := started["new_contract"]
	i := w.show(contract)
	j, l := w.job(i)
	for _, key := range []string{"start_date", "extra_env"} { // vastai raises KeyError without
		if i[key] == nil {
			t.Errorf("%s is missing: %v", key, i[key])
		}
	}
	if fmt.Sprint(i["extra_env"]) != "[[A x=y] [B 2] [PYTHONIOENCODING utf-8] [PYTHONUTF8 1]]" {
		t.Errorf("extra_env: %v", i["extra_env"])
	}
	want := map[string]any{
		"id": contract, "label": "one", "actual_status": "loading", "cur_state": "running", "intended_status": "running", "next_state": "running",
		"num_gpus": 2.0, "gpu_name": "RTX 4090", "dph_total": 0.8, "is_bid": false, "image_uuid": "python:3", "image_runtype": "ssh",
		"onstart": "echo hi", "disk_space": 10.0, "ssh_host": nil, "public_ipaddr": nil, "end_date": nil, "hold": 19.2,
	}
	for key, v := range want {
		if i[key] != v {
			t.Errorf("%s: %v, want %v", key, i[key], v)
		}
	}
	if ports, ok := i["ports"].(map[string]any); !ok || len(ports) != 0 {
		t.Errorf("ports: %v, want none", i["ports"])
	}
	if j.Spec.Provider != p.id() || j.Spec.Where != "id=o-berlin" || j.Spec.MaxRate != p.offer.Rate || j.Spec.MaxDuration != 24*time.Hour || j.Spec.GPU.Count != 2 {
		t.Errorf("signed %+v", j.Spec)
	}

	p.report(l, broker.Report{Phase: broker.PhaseReady})
	if i := w.show(contract); i["actual_status"] != "running" || i["end_date"] == nil || i["uptime_mins"] == nil || !strings.Contains(fmt.Sprint(i["status_msg"]), "no ssh") {
		t.Errorf("running: %v", i)
	}
	if r := w.ok("PUT", "/api/v0/instances/"+id(contract)+"/", `{"label":"two"}`); r["success"] != true {
		t.Errorf("label: %v", r)
	}
	w.ok("PUT", "/api/v0/instances/"+id(contract)+"/", `{"state":"running"}`) // it is
	w.ok("PUT", "/api/v0/instances/"+id(contract)+"/", `{"state":"stopped"}`)
	w.ok("PUT", "/api/v0/instances/"+id(contract)+"/", `{"state":"stopped"}`) // and again
	p.report(l, broker.Report{Phase: broker.PhaseExited, ExitCode: 143, Used: time.Millisecond})
	i = w.show(contract)
	if i["actual_status"] != "exited" || i["intended_status"] != "stopped" || i["label"] != "two" || !strings.Contains(fmt.Sprint(i["status_msg"]), "cannot be started again") {
		t.Errorf("stopped: %v", i)
	}
	w.refused(w.token, "PUT", "/api/v0/instances/"+id(contract)+"/", `{"state":"running"}`, http.StatusConflict, "create another")
	w.ok("DELETE", "/api/v0/instances/"+id(contract)+"/", `{}`)
	w.ok("DELETE", "/api/v0/instances/"+id(contract)+"/", `{}`) // the first answer may have been lost
	if i := w.show(contract); i != nil {
		t.Errorf("destroyed, and shown: %v", i)
	}
	if all := w.ok("GET", "/api/v0/instances/", ""); len(list(all["instances"])) != 0 {
		t.Errorf("destroyed, and listed: %v", all)
	}
	w.refused(w.token, "PUT", "/api/v0/instances/"+id(contract)+"/", `{"label":"x"}`, http.StatusNotFound)
	w.refused(w.token, "DELETE", "/api/v0/instances/77/", `{}`, http.StatusNotFound, "77")
	w.refused(w.token, "DELETE", "/api/v0/instances/x/", `{}`, http.StatusBadRequest, "id")
	if a, err := w.market.Account(t.Context(), w.account.ID); err != nil || a.Held != 0 {
		t.Errorf("account %+v, %v; want nothing held", a, err)
	}
}

// TestCreateRefuses wants nothing to be started that is not what was asked for.
func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.40/h")
	path := w.ask(1)
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"a bid (trap 10)":                   {create(`"price":0.1`), []string{"price", "on-demand"}},
		"more disk than there is (trap 11)": {create(`"disk":105`), []string{"disk", "97.65625", "disk_space>=105"}},
		"ssh (trap 5)":                      {create(`"runtype":"ssh_direc ssh_proxy"`), []string{"runtype", "ssh"}},
		"jupyter (trap 5)":                  {create(`"runtype":"jupyter_direc ssh_direc ssh_proxy"`), []string{"runtype"}},
		"a port (trap 6)":                   {create(`"env":{"A":"b","-p 8080:8080":"1"}`), []string{"env", "8080", "public port"}},
		"an identity-mapped port (trap 6)":  {create(`"env":{"-p 70000:70000":"1"}`), []string{"env", "70000"}},
		"a hostname":                        {create(`"env":{"-h":"billybob"}`), []string{"env", "-h"}},
		"a login":                           {create(`"image_login":"-u bob -p secret docker.io"`), []string{"image_login"}},
		"docker's options":                  {create(`"extra":"--privileged"`), []string{"extra"}},
		"a template":                        {create(`"template_hash_id":"661d064b"`), []string{"template_hash_id"}},
		"a volume":                          {create(`"volume_info":{"create_new":true}`), []string{"volume_info"}},
		"no image":                          {create(`"image":null`), []string{"image"}},
		"jupyter lab":                       {create(`"use_jupyter_lab":true`), []string{"use_jupyter_lab"}},
		"a user":                            {create(`"user":"root"`), []string{"user"}},
		"an unknown key":                    {create(`"imgae":"x"`), []string{"imgae", "image"}},
		"arguments and ssh":                 {create(`"args":["x"]`), []string{"args", "runtype"}},
		"a disk that is no number":          {create(`"disk":"large"`), []string{"disk"}},
		"a variable that is an object":      {create(`"env":{"A":{}}`), []string{"env", "A"}},
		"what dstack sends": {
			`{"client_id":"me","image":"x","disk":80,"label":"l","env":{"-p 10022:10022":"1"},"onstart":"a && b","runtype":"ssh_direc","image_login":null,` +
				`"python_utf8":false,"lang_utf8":false,"use_jupyter_lab":false,"jupyter_dir":null,"create_from":null,"force":false}`,
			[]string{"10022"},
		},
		"what beta9 sends": {`{"label":"n","client_id":"m","onstart":"#!/bin/sh"}`, []string{"image"}},
	} {
		t.Run(name, func(t *testing.T) { w.refused(w.token, "PUT", path, c.body, http.StatusBadRequest, c.want...) })
	}
	w.refused(w.token, "PUT", "/api/v0/asks/99/", create(""), http.StatusNotFound, "99")
	w.refused(w.token, "PUT", "/api/v0/asks/0/", create(""), http.StatusBadRequest)
	if page, _, err := w.market.Jobs(t.Context(), w.account.ID, "", 10); err != nil || len(page) != 0 {
		t.Errorf("%d jobs were started, %v", len(page), err)
	}
}

// TestWhoMayRent tells accounts apart.
func TestWhoMayRent(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.40/h")
	path := w.ask(1)
	_, ordinary, err := w.market.OpenAccount(t.Context(), "ada", new(5*pricing.USD))
	if err != nil {
		t.Fatal(err)
	}
	owners, err := w.market.OwnerToken(t.Context(), p.id())
	if err != nil {
		t.Fatal(err)
	}
	w.refused(ordinary, "PUT", path, create(""), http.StatusForbidden, "--custodial", "signs its jobs itself")
	w.refused(ordinary, "GET", "/api/v1/instances/", "", http.StatusForbidden, "--custodial")
	w.refused(owners, "PUT", path, create(""), http.StatusForbidden, "host owner")
	w.refused("", "PUT", path, create(""), http.StatusUnauthorized, "API key")
	w.refused("nobody's", "PUT", path, create(""), http.StatusUnauthorized)
	w.refused("nobody's", "POST", "/api/v0/bundles/", "{}", http.StatusUnauthorized)
	w.refused(w.token, "GET", "/api/v0/machines", "", http.StatusForbidden, "account owner")
	if r := w.call(ordinary, "GET", "/api/v0/users/current/", ""); r.status != 200 || r.object()["credit"] != 5.0 || r.object()["custodial"] != false {
		t.Errorf("user: %d %s", r.status, r.text)
	}
	// Another custodial account sees nothing of this one's instances.
	contract := w.ok("PUT", path, create(""))["new_contract"]
	_, other, err := w.market.OpenCustodial(t.Context(), "vanya", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := w.call(other, "GET", "/api/v0/instances/"+id(contract)+"/", ""); r.status != 200 || r.object()["instances"] != nil {
		t.Errorf("another's instance: %d %s", r.status, r.text)
	}
	w.refused(other, "DELETE", "/api/v0/instances/"+id(contract)+"/", "{}", http.StatusNotFound)
	w.refused(other, "PUT", "/api/v0/instances/request_logs/"+id(contract)+"/", "{}", http.StatusNotFound)
}

// TestNotTaken wants no job to be left behind when the host does not take it.
func TestNotTaken(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.40/h")
	path := w.ask(1)
	p.mu.Lock()
	p.refuse = "the owner is playing"
	p.mu.Unlock()
	w.refused(w.token, "PUT", path, create(""), http.StatusConflict, "the owner is playing")
	if all := list(w.ok("GET", "/api/v0/instances/", "")["instances"]); len(all) != 1 || all[0]["actual_status"] != "exited" {
		t.Errorf("instances: %v", all)
	}
	a, err := w.market.Account(t.Context(), w.account.ID)
	if err != nil || a.Held != 0 || a.Available != 25*pricing.USD {
		t.Errorf("account %+v, %v", a, err)
	}
	p.mu.Lock()
	p.refuse = ""
	p.mu.Unlock()
	p.post()
	w.ok("PUT", path, create(""))
	w.refused(w.token, "PUT", path, create(""), http.StatusConflict, "taken")
}

// TestMoney starts an instance for less than the term, and none for nothing.
func TestMoney(t *testing.T) {
	w := newWorld(t)
	w.provider("berlin", "DE", 2, gpu("RTX 4090", 24_564), "3.00/h")
	r := w.ok("PUT", w.ask(1), create(""))
	if r["hold"] != 25.0 || r["max_duration"] != 30000.0 { // $72 a day, and $25 there are
		t.Errorf("created: %v", r)
	}
	w.refused(w.token, "PUT", w.ask(1), create(""), http.StatusPaymentRequired, "$0.00", "$3.00/h")
}

// TestPrograms is what runs of what is asked for.
func TestPrograms(t *testing.T) {
	w := newWorld(t)
	w.provider("berlin", "DE", 8, gpu("RTX 4090", 24_564), "0.01/h")
	for name, c := range map[string]struct {
		body   string
		want   []string
		behind bool
		kind   string
	}{
		"image alone":               {create(`"runtype":"args"`), nil, false, "args"},
		"arguments":                 {create("\"runtype\":\"args\"\n\"args\":[\"--n\",\"1\"]"), []string{"--n", "1"}, true, "args"},
		"arguments say the runtype": {`{"image":"x","args":["a"]}`, []string{"a"}, true, "args"},
		"an argument as text":       {`{"image":"x","args":"a b"}`, []string{"a b"}, true, "args"},
		"entrypoint and arguments":  {create("\"runtype\":\"args\"\n\"onstart\":\"bash\"\n\"args\":[\"-c\",\"true\"]"), []string{"bash", "-c", "true"}, false, "args"},
		"a script":                  {create(`"onstart":"env | grep _"`), []string{"/bin/sh", "-c", "…", "onstart", "env | grep _"}, false, "ssh"},
		"nothing but an image":      {`{"image":"x"}`, []string{"/bin/sh", "-c", "…", "onstart", ""}, false, "ssh"},
	} {
		got := w.ok("PUT", w.ask(1), c.body)
		o := w.keeper.last()
		command := append([]string(nil), o.Spec.Command...)
		if len(command) == 5 {
			command[2] = "…"
		}
		if fmt.Sprint(command) != fmt.Sprint(c.want) || o.Append != c.behind {
			t.Errorf("%s: %q, behind %v; want %q, %v", name, command, o.Append, c.want, c.behind)
		}
		if i := w.show(got["new_contract"]); i["image_runtype"] != c.kind {
			t.Errorf("%s: runtype %v", name, i["image_runtype"])
		}
	}
}

// TestPages lists many instances as vastai show instances does, page by page.
func TestPages(t *testing.T) {
	w := newWorld(t)
	w.provider("berlin", "DE", 8, gpu("RTX 4090", 24_564), "0.01/h")
	for i := range 5 {
		label := `null`
		if i < 2 {
			label = `"train"`
		}
		w.ok("PUT", w.ask(1), create(`"label":`+label))
	}
	get := func(params ...string) map[string]any {
		t.Helper()
		v := url.Values{"select_filters": {"{}"}, "order_by": {`[{"col": "id", "dir": "asc"}]`}, "limit": {"2"}}
		for i := 0; i < len(params); i += 2 {
			v.Set(params[i], params[i+1])
		}
		return w.ok("GET", "/api/v1/instances/?"+v.Encode(), "")
	}
	seen, last, token := 0, 0.0, ""
	for {
		page := get()
		if token != "" {
			page = get("after_token", token)
		}
		if page["total_instances"] != 5.0 {
			t.Fatalf("total: %v", page["total_instances"])
		}
		for _, i := range list(page["instances"]) {
			n, _ := i["id"].(float64)
			if n <= last {
				t.Errorf("%v after %v", n, last)
			}
			last, seen = n, seen+1
		}
		next, more := page["next_token"].(string)
		if !more {
			break
		}
		token = next
	}
	if seen != 5 {
		t.Errorf("%d instances on all pages", seen)
	}
	if page := get("select_filters", `{"label":{"in":["train"]}}`); page["total_instances"] != 2.0 || fmt.Sprint(page["label_counts"]) != "map[train:2]" {
		t.Errorf("by label: %v", page)
	}
	if page := get("select_filters", `{"label":{"in":[null]},"actual_status":{"in":["loading"]},"gpu_name":{"in":["RTX 4090"]}}`); page["total_instances"] != 3.0 {
		t.Errorf("without a label: %v", page)
	}
	if page := get("select_filters", `{"num_gpus":{"neq":1}}`); page["total_instances"] != 0.0 {
		t.Errorf("not one GPU: %v", page)
	}
	if page := get("select_cols", `["id","label"]`); len(list(page["instances"])[0]) != 2 {
		t.Errorf("columns: %v", page)
	}
	for key, c := range map[string][2]string{
		"select_filters": {`{"labl":{"in":[]}}`, "labl"}, "order_by": {`[{"col":"idd"}]`, "idd"}, "select_cols": {`["x"]`, "x"},
		"limit": {"0", "limit"}, "after_token": {"zz!", "after_token"}, "limt": {"1", "limt"},
	} {
		v := url.Values{key: {c[0]}}
		w.refused(w.token, "GET", "/api/v1/instances/?"+v.Encode(), "", http.StatusBadRequest, c[1])
	}
	w.refused(w.token, "GET", "/api/v1/instances/?after_token=1", "", http.StatusBadRequest, "start again")
	if v := list(w.ok("GET", "/api/v0/instances/filters/", "")["filters"]); len(v) != 5 || v[0]["gpu_name"] != "RTX 4090" {
		t.Errorf("filters: %v", v)
	}
}

// TestMany does one thing with several.
func TestMany(t *testing.T) {
	w := newWorld(t)
	w.provider("berlin", "DE", 2, gpu("RTX 4090", 24_564), "0.01/h")
	one, two := w.ask(1), w.ask(2)
	number := func(path string) string { return strings.Trim(strings.TrimPrefix(path, "/api/v0/asks"), "/") }
	got := w.ok("POST", "/api/v0/asks/bulk/", `{"ids":[`+number(one)+`,`+number(two)+`],"image":"x"}`)
	if got["success"] != false || len(got["new_contracts"].([]any)) != 1 || len(list(got["results"])) != 2 || !strings.Contains(fmt.Sprint(got["results"]), "taken") {
		t.Errorf("bulk: %v", got)
	}
	contract := id(got["new_contracts"].([]any)[0])
	if r := w.ok("PUT", "/api/v0/instances/", `{"state":"stopped","ids":[`+contract+`,5]}`); r["success"] != false || !strings.Contains(fmt.Sprint(r["failed"]), "5") {
		t.Errorf("stop many: %v", r)
	}
	if r := w.ok("DELETE", "/api/v0/instances/", `{"instance_ids":["`+contract+`"]}`); r["success"] != true {
		t.Errorf("destroy many: %v", r)
	}
	w.refused(w.token, "DELETE", "/api/v0/instances/", `{"instance_ids":[]}`, http.StatusBadRequest, "instance_ids")
	w.refused(w.token, "DELETE", "/api/v0/instances/", `{}`, http.StatusBadRequest, "instance_ids")
}

// TestLaunch rents the first offer that matches and takes it.
func TestLaunch(t *testing.T) {
	w := newWorld(t)
	cheap := w.provider("berlin", "DE", 1, gpu("RTX 4090", 24_564), "0.10/h")
	w.provider("stockholm", "SE", 1, gpu("RTX 4090", 24_564), "0.20/h")
	cheap.mu.Lock()
	cheap.refuse = "busy"
	cheap.mu.Unlock()
	q := `{"verified":{"eq":true},"external":{"eq":false},"rentable":{"eq":true},"rented":{"eq":false},"num_gpus":{"eq":"1"},"gpu_name":{"eq":"RTX 4090"},"disk_space":{"gte":"16.0"},"order":[["score","desc"]],"type":"on-demand","limit":3,"allocated_storage":16.0}`
	body := `{"image":"x","disk":16.0,"q":` + q + `,"env":{},"label":null,"extra":null,"onstart":null,"image_login":null,"python_utf8":false,"lang_utf8":false,"use_jupyter_lab":false,"jupyter_dir":null,"cancel_unavail":false,"template_hash_id":null,"runtype":"ssh"}`
	if r := w.ok("PUT", "/api/v0/launch_instance/", body); r["dph_total"] != 0.2 {
		t.Errorf("launched %v", r)
	}
	w.refused(w.token, "PUT", "/api/v0/launch_instance/", strings.Replace(body, "RTX 4090", "L40S", 1), http.StatusConflict, "gpu_name")
	w.refused(w.token, "PUT", "/api/v0/launch_instance/", `{"image":"x"}`, http.StatusBadRequest, "q")
}
