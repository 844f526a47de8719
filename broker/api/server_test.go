package api_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

func TestBadInputIsNamed(t *testing.T) {
	url := start(t, &market{}, nil)
	spec := `"spec":"AAAAAAAA"`
	tests := []struct {
		name, method, path, body, key string
		status                        int
		field, nearest, detail        string
	}{
		{name: "unknown body field", method: "POST", path: "/v1/jobs", body: `{` + spec + `,"specc":1}`, key: "k", status: 422, field: "specc", nearest: "spec"},
		{name: "missing body field", method: "POST", path: "/v1/jobs", body: `{}`, key: "k", status: 422, detail: "spec"},
		{name: "no idempotency key", method: "POST", path: "/v1/jobs", body: `{` + spec + `}`, status: 422, field: "header.Idempotency-Key"},
		{name: "not base64", method: "POST", path: "/v1/jobs", body: `{"spec":"!!!!"}`, key: "k", status: 422, field: "spec"},
		{name: "not JSON", method: "POST", path: "/v1/jobs", body: `{`, key: "k", status: 400},
		{name: "wrong type", method: "POST", path: "/v1/quotes", body: `{"duration_ms":"1h"}`, status: 422, field: "duration_ms"},
		{name: "out of range", method: "POST", path: "/v1/quotes", body: `{"duration_ms":1,"count":17}`, status: 422, field: "count"},
		{name: "unknown quote field", method: "POST", path: "/v1/quotes", body: `{"duration_ms":1,"max_rate":1}`, status: 422, field: "max_rate"},
		{name: "near quote field", method: "POST", path: "/v1/quotes", body: `{"duration_m":1}`, status: 422, detail: "duration_m"},
		{name: "unknown query parameter", method: "GET", path: "/v1/offers?modell=x", status: 400, field: "query.modell", nearest: "model"},
		{name: "bad query value", method: "GET", path: "/v1/offers?count=many", status: 400, field: "query.count"},
		{name: "unknown GPU", method: "GET", path: "/v1/offers?model=RTX+409", status: 400, field: "gpu.model", nearest: "RTX 4090"},
		{name: "parameter twice", method: "GET", path: "/v1/offers?q=gpus%3D1&q=gpus%3D2", status: 400, field: "query.q", detail: "twice"},
		{name: "parameter of another route", method: "GET", path: "/v1/jobs?sort=price", status: 400, field: "query.sort"},
		{name: "parameter of none", method: "GET", path: "/v1/market?x=1", status: 400, field: "query.x"},
		{name: "half an escape", method: "GET", path: "/v1/offers?q=%zz", status: 400, detail: "escape"},
		{name: "unknown field asked for", method: "GET", path: "/v1/offers?q=gpu_rma%3E%3D24", status: 400, field: "gpu_rma", nearest: "gpu_ram"},
		{name: "unknown operator", method: "GET", path: "/v1/offers?q=gpu_ram%3D%3E24", status: 400, field: "gpu_ram", nearest: ">="},
		{name: "unknown unit", method: "GET", path: "/v1/offers?q=disk%3E1tib+memory%3E1gig", status: 400, field: "memory", nearest: "1GiB"},
		{name: "no evidence", method: "GET", path: "/v1/offers?q=dlperf%3E1", status: 400, field: "dlperf", detail: "no evidence"},
		{name: "unknown order", method: "GET", path: "/v1/offers?sort=-prize", status: 400, field: "prize", nearest: "price"},
		{name: "too many", method: "GET", path: "/v1/offers?limit=1001", status: 400, field: "query.limit"},
		{name: "explain an unknown field", method: "POST", path: "/v1/offers:explain", body: `{"q":"gpu_rma>=24"}`, status: 400, field: "gpu_rma", nearest: "gpu_ram"},
		{name: "explain with an unknown parameter", method: "POST", path: "/v1/offers:explain", body: `{"query":"gpu_ram>=24"}`, status: 422, field: "query"},
		{name: "quote with a bad value", method: "POST", path: "/v1/quotes", body: `{"duration_ms":1,"q":"verified=yes"}`, status: 400, field: "verified", nearest: "true"},
		{name: "bad digest", method: "GET", path: "/v1/images/latest", status: 400, field: "digest"},
		{name: "no image", method: "POST", path: "/v1/images", body: `{"digest":"sha256:1"}`, status: 422, detail: "image"},
		{name: "unknown image field", method: "POST", path: "/v1/images", body: `{"image":"x","digest":"sha256:1","root":"bafy"}`, status: 422, field: "root"},
		{name: "unknown path", method: "GET", path: "/v1/offer", status: 404, nearest: "/v1/offers"},
		{name: "wrong method", method: "PATCH", path: "/v1/jobs", status: 405, detail: "GET, POST"},
		{name: "no funds", method: "POST", path: "/v1/jobs", body: `{` + spec + `}`, key: "poor", status: 402, detail: "not enough money"},
		{name: "our fault", method: "POST", path: "/v1/jobs", body: `{` + spec + `}`, key: "broken", status: 500, detail: "its log says why"},
		{name: "bad CID", method: "PUT", path: "/v1/blocks/Qm123", body: "x", status: 422, detail: "CID"},
		{name: "large body", method: "PUT", path: "/v1/account/key", body: `{"key":"` + strings.Repeat("k", 1<<20) + `"}`, status: 413},
		{name: "long idempotency key", method: "POST", path: "/v1/jobs", body: `{` + spec + `}`, key: strings.Repeat("k", 300), status: 422, field: "header.Idempotency-Key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := []string{}
			if tt.key != "" {
				header = append(header, "Idempotency-Key", tt.key)
			}
			if tt.name == "bad CID" {
				header = append(header, "Content-Type", "application/octet-stream")
			}
			status, h, p := ask(t, tt.method, url+tt.path, ownerToken, tt.body, header...)
			if status != tt.status || h.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("status %d, %s: %v; want %d", status, h.Get("Content-Type"), p, tt.status)
			}
			if tt.field != "" && p["field"] != tt.field {
				t.Errorf("field %v, want %q: %v", p["field"], tt.field, p)
			}
			if tt.nearest != "" && p["nearest"] != tt.nearest {
				t.Errorf("nearest %v, want %q: %v", p["nearest"], tt.nearest, p)
			}
			if all := fmt.Sprint(p); !strings.Contains(all, tt.detail) || strings.Contains(all, "secret") {
				t.Errorf("problem %v, want %q in it", p, tt.detail)
			}
		})
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	url := start(t, &market{}, new(blockstore.Memory))
	block := blockstore.Sum([]byte("x")).String()
	tests := []struct {
		method, path, body              string
		nobody, owner, other, admin, no int // no: an unknown token
	}{
		{"GET", "/v1/market", "", 200, 200, 200, 200, 200},
		{"GET", "/v1/offers", "", 200, 200, 200, 200, 200},
		{"POST", "/v1/offers:explain", `{}`, 200, 200, 200, 200, 200},
		{"GET", "/healthz", "", 200, 200, 200, 200, 200},
		{"GET", "/readyz", "", 200, 200, 200, 200, 200},
		{"GET", "/metrics", "", 200, 200, 200, 200, 200},
		{"GET", "/openapi.json", "", 200, 200, 200, 200, 200},
		{"GET", "/v1/account", "", 401, 200, 200, 403, 401},
		{"PUT", "/v1/account/key", `{"key":"k"}`, 401, 200, 200, 403, 401},
		{"GET", "/v1/jobs", "", 401, 200, 200, 403, 401},
		{"POST", "/v1/jobs", `{"spec":"AAAAAAAA"}`, 401, 202, 202, 403, 401},
		{"GET", "/v1/jobs/j-1", "", 401, 200, 404, 403, 401},
		{"DELETE", "/v1/jobs/j-1", "", 401, 202, 404, 403, 401},
		{"GET", "/v1/jobs/j-1/events", "", 401, 200, 404, 403, 401},
		{"GET", "/v1/jobs/j-1/lease", "", 401, 200, 404, 403, 401},
		{"GET", "/v1/jobs/j-1/nodes", "", 401, 404, 404, 403, 401},
		{"GET", "/v1/jobs/" + string(broker.MemberID("g-1", 1)) + "/nodes", "", 401, 200, 404, 403, 401},
		{"GET", "/v1/jobs/j-1/receipt", "", 401, 404, 404, 403, 401},
		{"PUT", "/v1/blocks/" + block, "x", 401, 204, 204, 403, 401},
		{"HEAD", "/v1/blocks/" + block, "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/" + readyDigest, "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/" + failedDigest, "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/" + unknownDigest, "", 401, 404, 404, 403, 401},
		{"GET", "/v1/images/" + readyDigest + "/traces", "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/" + unknownDigest + "/traces", "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/latest/traces", "", 401, 400, 400, 403, 401},
		{"GET", "/v1/images/" + readyDigest + "/traces/c0", "", 401, 200, 200, 403, 401},
		{"GET", "/v1/images/" + readyDigest + "/traces/c1", "", 401, 404, 404, 403, 401},
		{"POST", "/v1/images", `{"image":"debian","digest":"` + readyDigest + `"}`, 401, 200, 200, 403, 401},
		{"POST", "/v1/images", `{"image":"debian","digest":"` + unknownDigest + `"}`, 401, 202, 202, 403, 401},
		{"POST", "/v1/images", `{"image":"busy","digest":"` + unknownDigest + `"}`, 401, 503, 503, 403, 401},
		{"PUT", "/v1/account/limits", `{"job_nanousd":1,"day_nanousd":2,"total_nanousd":3}`, 401, 200, 200, 403, 401},
		{"PUT", "/v1/account/limits", `{"job_nanousd":-1,"day_nanousd":2,"total_nanousd":3}`, 401, 422, 422, 403, 401},
		{"POST", "/v1/admin/accounts", `{"name":"n"}`, 401, 403, 403, 201, 401},
		{"GET", "/v1/admin/accounts", "", 401, 403, 403, 200, 401},
		{"POST", "/v1/admin/accounts/a-owner/deposits", `{"amount_nanousd":1,"ref":"payment 1"}`, 401, 403, 403, 200, 401},
	}
	for _, tt := range tests {
		for token, want := range map[string]int{"": tt.nobody, ownerToken: tt.owner, otherToken: tt.other, adminToken: tt.admin, "rialto_no": tt.no} {
			contentType := "application/json"
			if strings.HasPrefix(tt.path, "/v1/blocks") {
				contentType = "application/octet-stream"
			}
			got, h, p := ask(t, tt.method, url+tt.path, token, tt.body, "Idempotency-Key", "k", "Content-Type", contentType)
			if got != want {
				t.Errorf("%s %s as %q: %d %v, want %d", tt.method, tt.path, token, got, p, want)
			}
			if got == 401 && h.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s: 401 without WWW-Authenticate", tt.method, tt.path)
			}
		}
	}
}

func TestClientRoundTrip(t *testing.T) {
	m := &market{}
	url := start(t, m, new(blockstore.Memory))
	c, admin := client(t, url, ownerToken), client(t, url, adminToken)
	ctx := t.Context()
	info, err := c.Market(ctx)
	if err != nil || info.FeePPM != 7 {
		t.Errorf("market: %+v, %v", info, err)
	}
	q := api.Query{Model: "RTX 4090", Count: 2, MinGPUMemoryMiB: 3, MemoryMiB: 4, CPUs: 5, MaxRateNanoUSDPerHour: 6, Region: "DE", Provider: "p", ImageDigest: "sha256:x", WeightRoots: []string{"a", "b"}}
	offers, err := c.Offers(ctx, q)
	if err != nil || len(offers.Offers) != 1 || !offers.Offers[0].Simulated || offers.Eliminated[0].Nearest != "$0.40/h" {
		t.Errorf("offers: %+v, %v", offers, err)
	}
	want := broker.Query{GPU: broker.GPURequest{Model: "RTX 4090", Count: 2, MinMemoryMiB: 3}, MemoryMiB: 4, CPUs: 5, MaxRate: 6, Region: "DE", Provider: "p", Image: "sha256:x", Weights: []string{"a", "b"}, Limit: 1000}
	if fmt.Sprint(m.query) != fmt.Sprint(want) {
		t.Errorf("query arrived as %+v, want %+v", m.query, want)
	}
	if _, err := c.Quote(ctx, api.QuoteRequest{DurationMS: 1}); !isKind(err, broker.ErrNoOffer) {
		t.Errorf("quote: %v, want ErrNoOffer", err)
	}
	if j, err := c.Submit(ctx, []byte("envelope"), "key 1"); err != nil || j.ID != string(jobID) || m.submits[0] != "key 1" {
		t.Errorf("submit: %+v, %v, keys %q", j, err, m.submits)
	}
	jobs, err := c.Jobs(ctx)
	if err != nil || len(jobs) != 2 || jobs[0].ID != string(jobID) || jobs[1].ExitCode == nil || *jobs[1].ExitCode != 3 {
		t.Errorf("jobs: %+v, %v; want newest first", jobs, err)
	}
	if l, err := c.Lease(ctx, jobID); err != nil || string(l.Answer) != "signed" || l.State != "active" {
		t.Errorf("lease: %+v, %v", l, err)
	}
	if _, err := c.Receipt(ctx, jobID); !isKind(err, broker.ErrNotFound) {
		t.Errorf("receipt: %v, want ErrNotFound", err)
	}
	if j, err := c.Cancel(ctx, jobID); err != nil || j.State != "cancelled" {
		t.Errorf("cancel: %+v, %v", j, err)
	}
	if j, err := c.ChangeBid(ctx, jobID, []byte("signed")); err != nil || j.BidNanoUSDPerHour != 7 || j.MaxCostNanoUSD != 9 {
		t.Errorf("change bid: %+v, %v", j, err)
	}
	if _, err := c.ChangeBid(ctx, jobID, []byte("older")); !isKind(err, broker.ErrConflict) {
		t.Errorf("change bid to what is older: %v, want ErrConflict", err)
	}
	if _, err := c.ChangeBid(ctx, "j-nobodys", []byte("signed")); !isKind(err, broker.ErrNotFound) {
		t.Errorf("change another's bid: %v, want ErrNotFound", err)
	}
	if i, err := c.Image(ctx, readyDigest); err != nil || i.State != "ready" || i.Root != "bafy" || i.Bytes != 7 || i.BuiltAt == nil {
		t.Errorf("image: %+v, %v", i, err)
	}
	if _, err := c.Image(ctx, unknownDigest); !isKind(err, broker.ErrNotFound) {
		t.Errorf("unknown image: %v, want ErrNotFound", err)
	}
	if i, err := c.BuildImage(ctx, "debian", unknownDigest); err != nil || i.State != "building" || i.DoneBytes != 2 || i.Bytes != 9 {
		t.Errorf("build image: %+v, %v", i, err)
	}
	if list, err := c.Traces(ctx, readyDigest); err != nil || len(list) != 1 || list[0] != (api.TracedCommand{Command: "c0", Runs: 2, Blocks: 3, UpdatedAt: list[0].UpdatedAt}) || list[0].UpdatedAt.Unix() != 1 {
		t.Errorf("traces: %+v, %v", list, err)
	}
	if list, err := c.Traces(ctx, unknownDigest); err != nil || len(list) != 0 {
		t.Errorf("traces of an unknown image: %+v, %v", list, err)
	}
	if got, err := c.Trace(ctx, readyDigest, "c0"); err != nil || got.Command != "c0" || !slices.Equal(got.Blocks, []uint32{4, 0, 2}) {
		t.Errorf("trace: %+v, %v", got, err)
	}
	if _, err := c.Trace(ctx, readyDigest, "../c0"); !isKind(err, broker.ErrNotFound) {
		t.Errorf("unknown trace: %v, want ErrNotFound", err)
	}
	limits := api.Limits{JobNanoUSD: 1, DayNanoUSD: 2, TotalNanoUSD: 3}
	if a, err := c.SetLimits(ctx, limits); err != nil || a.Limits == nil || *a.Limits != limits {
		t.Errorf("limits: %+v, %v", a, err)
	}
	if a, err := c.SetLimits(ctx, api.Limits{}); err != nil || a.Limits != nil {
		t.Errorf("no limits: %+v, %v", a, err)
	}
	if _, err := c.SetLimits(ctx, api.Limits{JobNanoUSD: 9, TotalNanoUSD: 3}); !isKind(err, broker.ErrLimit) || !strings.Contains(err.Error(), "in all") {
		t.Errorf("a limit that is broken: %v", err)
	}
	deposit := 10 * pricing.USD
	if a, err := admin.OpenAccount(ctx, "ada", &deposit); err != nil || a.Token != "rialto_new" || a.Account.AvailableNanoUSD != int64(deposit) {
		t.Errorf("open account: %+v, %v", a, err)
	}
	accusation := api.Accusation{Accuser: "a", Lease: "l-1", Want: "b", Got: "sha256:c", SizeBytes: 7, At: time.Unix(8, 0).UTC(), Times: 3, Counts: true}
	if list, err := admin.Accused(ctx); err != nil || len(list) != 1 || list[0].Peer != "bad" || list[0].Accusers != 2 ||
		!list[0].DistrustedUntil.Equal(time.Unix(9, 0)) || !slices.Equal(list[0].Accusations, []api.Accusation{accusation}) {
		t.Errorf("accused: %+v, %v", list, err)
	}
	if _, err := c.Accused(ctx); !isKind(err, broker.ErrForbidden) {
		t.Errorf("accused, for a customer: %v, want ErrForbidden", err)
	}
	if a, err := admin.OpenCustodialAccount(ctx, "vera", nil); err != nil || a.Token != "rialto_new" || !a.Account.Custodial {
		t.Errorf("open custodial account: %+v, %v", a, err)
	}
	if a, err := admin.Deposit(ctx, "a-new", deposit, "payment 1"); err != nil || a.ID != "a-new" || a.AvailableNanoUSD != int64(deposit) {
		t.Errorf("deposit: %+v, %v", a, err)
	}
	if _, err := admin.Deposit(ctx, "a-new", deposit, "payment 2"); !isKind(err, broker.ErrConflict) {
		t.Errorf("deposit under a used ref: %v", err)
	}
	if _, err := admin.Deposit(ctx, "a-new", 0, "payment 1"); !isKind(err, broker.ErrInvalid) {
		t.Errorf("deposit of nothing: %v", err)
	}
	if owner, err := admin.OwnerToken(ctx, "12D3owned"); err != nil || owner.Token != "rialto_owner" || owner.Provider != "12D3owned" {
		t.Errorf("owner's token: %+v, %v", owner, err)
	}
	if _, err := admin.OwnerToken(ctx, "x/y"); !isKind(err, broker.ErrInvalid) {
		t.Errorf("token of no provider: %v, want ErrInvalid", err)
	}
	if _, err := c.OwnerToken(ctx, "12D3owned"); !isKind(err, broker.ErrForbidden) {
		t.Errorf("a customer makes an owner's token: %v, want ErrForbidden", err)
	}
	if list, err := admin.Accounts(ctx); err != nil || len(list) != 2 {
		t.Errorf("accounts: %+v, %v", list, err)
	}
}

func isKind(err, kind error) bool {
	_, ok := errors.AsType[*api.Problem](err)
	return ok && errors.Is(err, kind)
}

func TestEventsResume(t *testing.T) {
	c := client(t, start(t, &market{}, nil), ownerToken)
	for after := range uint64(4) {
		seq := after
		for e, err := range c.Events(t.Context(), jobID, after) {
			if err != nil || e.Seq != seq+1 || e.Text != fmt.Sprint("event\n", e.Seq) {
				t.Fatalf("after %d: %+v, %v", after, e, err)
			}
			seq = e.Seq
		}
		if seq != 3 {
			t.Errorf("after %d: ended at %d, want 3", after, seq)
		}
	}
}

func TestBlocks(t *testing.T) {
	c := client(t, start(t, &market{}, new(blockstore.Memory)), ownerToken)
	for i, size := range []int{1, 1000, 1 << 19} {
		b, err := blockstore.NewBlock([]byte(strings.Repeat(fmt.Sprint(i), size)))
		if err != nil {
			t.Fatal(err)
		}
		if has, err := c.HasBlock(t.Context(), b.CID()); has || err != nil {
			t.Errorf("before: %v, %v", has, err)
		}
		for range 2 {
			if err := c.PutBlock(t.Context(), b); err != nil {
				t.Errorf("put %d bytes: %v", size, err)
			}
		}
		if has, err := c.HasBlock(t.Context(), b.CID()); !has || err != nil {
			t.Errorf("after: %v, %v", has, err)
		}
	}
	full, err := blockstore.NewBlock(make([]byte, blockstore.MaxBlock))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PutBlock(t.Context(), full); err == nil || !strings.Contains(err.Error(), "uploaded its 1 MiB") {
		t.Errorf("over the quota: %v", err)
	}
}

func TestWrongBlockIsRefused(t *testing.T) {
	blocks := new(blockstore.Memory)
	url := start(t, &market{}, blocks)
	cid := blockstore.Sum([]byte("right"))
	status, _, p := ask(t, "PUT", url+"/v1/blocks/"+cid.String(), ownerToken, "wrong", "Content-Type", "application/octet-stream")
	if has, _ := blocks.Has(t.Context(), cid); status != 422 || has {
		t.Errorf("wrong bytes: %d %v, stored %v", status, p, has)
	}
}

func TestUnreachableSaysWhich(t *testing.T) {
	c := client(t, "http://127.0.0.1:1", "")
	_, err := c.Market(t.Context())
	if err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1 cannot be reached") {
		t.Errorf("error %v", err)
	}
	if _, err := api.NewClient("localhost:7070", "", nil); err == nil {
		t.Error("a URL without a scheme was accepted")
	}
}

func TestNotReadyUntilRestored(t *testing.T) {
	url := start(t, &market{ready: broker.ErrUnavailable}, nil)
	if status, _, _ := ask(t, "GET", url+"/readyz", "", ""); status != 503 {
		t.Errorf("readyz: %d, want 503", status)
	}
	if status, _, _ := ask(t, "GET", url+"/healthz", "", ""); status != 200 {
		t.Errorf("healthz: %d, want 200", status)
	}
}
