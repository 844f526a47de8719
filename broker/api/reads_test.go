package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestReads holds every answer that anybody may read to the same rules: it has an ETag that spares reading it again, a
// parameter that it does not know is a 400 that names it, and so is one out of its range.
func TestReads(t *testing.T) {
	_, base := newHall(t, 3)
	cell := "cell=" + priceCell
	for _, r := range []struct {
		path, bad, field string // a bad parameter, and what the problem calls it
		untagged         bool   // it never changes, or always
	}{
		{path: "/v1/market", untagged: true},
		{path: "/v1/models"},
		{path: "/v1/prices", bad: "term=spot", field: "query.term"},
		{path: "/v1/prices?model=rtx4090&gpus=8", bad: "gpus=many", field: "query.gpus"},
		{path: "/v1/prices/history?" + cell, bad: "step=2m", field: "query.step"},
		{path: "/v1/prices/history?" + cell + "&step=5m", bad: "to=now", field: "query.to"},
		{path: "/v1/prices/forecast?" + cell, bad: "h=5", field: "query.h"},
		{path: "/v1/prices/" + priceCell + "/receipt", bad: "t=noon", field: "query.t"},
		{path: "/v1/prices/" + priceCell + "/hedonic", bad: "t=noon", field: "query.t"},
		{path: "/v1/prices/" + priceCell + "/wash"},
		{path: "/v1/book", bad: "qty=-1", field: "query.qty"},
		{path: "/v1/book?region=any&qty=3", bad: "tier=gold", field: "query.tier"},
		{path: "/v1/market/health"},
		{path: "/v1/offers", bad: "limit=0", field: "query.limit"},
		{path: "/v1/offers?q=num_gpus%3D1&brief=true", bad: "run_ms=-1", field: "query.run_ms"},
		{path: "/v1/offers?sort=-price", bad: "cursor=x", field: "cursor"},
		{path: "/v1/stream", bad: "kinds=gossip", field: "query.kinds[0]", untagged: true},
	} {
		t.Run(r.path, func(t *testing.T) {
			with := func(parameter string) string {
				if strings.Contains(r.path, "?") {
					return base + r.path + "&" + parameter
				}
				return base + r.path + "?" + parameter
			}
			refused := func(parameter, field string) {
				t.Helper()
				status, header, p := ask(t, http.MethodGet, with(parameter), "", "")
				if detail, _ := p["detail"].(string); status != http.StatusBadRequest || header.Get("Content-Type") != "application/problem+json" ||
					p["status"] != 400.0 || p["field"] != field || detail == "" {
					t.Errorf("%s: %d %s %v, want a problem with %s", parameter, status, header.Get("Content-Type"), p, field)
				}
			}
			refused("colour=red", "query.colour")
			if r.bad != "" {
				refused(r.bad, r.field)
			}
			if r.untagged {
				return
			}
			first := fetch(t, base+r.path)
			etag := first.header.Get("ETag")
			if first.status != http.StatusOK || len(etag) < 3 || !strings.HasPrefix(first.header.Get("Content-Type"), "application/json") {
				t.Fatalf("status %d, ETag %q, %q", first.status, etag, first.header.Get("Content-Type"))
			}
			for _, known := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
				if again := fetch(t, base+r.path, "If-None-Match", known); again.status != http.StatusNotModified || again.body != "" || again.header.Get("ETag") != etag {
					t.Errorf("known as %s: status %d, ETag %q, %q", known, again.status, again.header.Get("ETag"), again.body)
				}
			}
			if other := fetch(t, base+r.path, "If-None-Match", `"x"`); other.status != http.StatusOK {
				t.Errorf("another is known: status %d", other.status)
			}
		})
	}
}

// TestReadsOfBodies: what is asked in a body is held to the same, with the status for bodies.
func TestReadsOfBodies(t *testing.T) {
	_, base := newHall(t, 3)
	for path, good := range map[string]string{"/v1/offers:explain": `"q":"price<=0.10/h"`, "/v1/quotes": `"duration_ms":1000`} {
		if status, _, p := ask(t, http.MethodPost, base+path, "", "{"+good+"}"); status != http.StatusOK {
			t.Errorf("%s: %d %v", path, status, p)
		}
		for body, want := range map[string]struct {
			status int
			field  string
		}{
			`"colour":"red"`:  {http.StatusUnprocessableEntity, "colour"},
			`"count":"two"`:   {http.StatusUnprocessableEntity, "count"},
			`"q":"colour>=1"`: {http.StatusBadRequest, "colour"},
		} {
			if path == "/v1/offers:explain" && strings.HasPrefix(body, `"q"`) {
				good = `"count":1`
			}
			status, header, p := ask(t, http.MethodPost, base+path, "", "{"+good+","+body+"}")
			if status != want.status || header.Get("Content-Type") != "application/problem+json" || p["field"] != want.field {
				t.Errorf("%s of %s: %d %v, want %d with %s", body, path, status, p, want.status, want.field)
			}
		}
		if status, _, p := ask(t, http.MethodPost, base+path+"?colour=red", "", "{"+good+"}"); status != http.StatusBadRequest || p["field"] != "query.colour" {
			t.Errorf("%s with a parameter: %d %v", path, status, p)
		}
	}
}
