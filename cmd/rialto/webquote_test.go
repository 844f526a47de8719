//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"rialto/broker/api"
)

// TestWebQuotes: the page asks for firm quotes, gives one back and runs one; whoever has no session gets none.
func TestWebQuotes(t *testing.T) {
	w := newWorld(t)
	said, _ := startWeb(t, w)
	address, keys := said.links()
	ask := func(method, path, token, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	_, text := ask("POST", "/local/enter", keys[0], "")
	token := regexp.MustCompile(`"token":"(\w+)"`).FindStringSubmatch(text)[1]
	image := pushImage(t)
	body := func(change string) string {
		all := map[string]any{"image": image, "command": "exit 7", "model": "RTX 4090", "gpus": 1, "duration_ms": 600_000}
		if err := json.Unmarshal([]byte(change), &all); err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	quote := func() api.FirmQuote {
		t.Helper()
		status, text := ask("POST", "/local/quotes", token, body(`{"provider":"alpha","traffic_bytes":2000000000}`))
		var q api.FirmQuote
		if err := json.Unmarshal([]byte(text), &q); err != nil || status != http.StatusOK || q.State != "quoted" || q.Host != "alpha" || q.TrafficBytes != 2e9 || q.DiskMiB != 10<<10 || q.ExpiresInMS < 5_000 {
			t.Fatalf("quote: %d %s %v", status, text, err)
		}
		return q
	}
	for name, tt := range map[string]struct {
		method, path, token, body string
		status                    int
		want                      string
	}{
		"without a session": {"POST", "/local/quotes", "", body(`{}`), 401, "open the link"},
		"no image":          {"POST", "/local/quotes", token, body(`{"image":" "}`), 422, "image"},
		"a flag":            {"POST", "/local/quotes", token, body(`{"image":"--max-cost"}`), 422, "reference"},
		"no GPU":            {"POST", "/local/quotes", token, body(`{"gpus":0}`), 422, "gpus 0"},
		"no time":           {"POST", "/local/quotes", token, body(`{"duration_ms":0}`), 422, "duration_ms 0"},
		"too long":          {"POST", "/local/quotes", token, body(`{"duration_ms":9000000000000}`), 422, "2592000000"},
		"no such disk":      {"POST", "/local/quotes", token, body(`{"disk_mib":15}`), 422, "disk_mib 15: want 16 to 16777215"},
		"too much disk":     {"POST", "/local/quotes", token, body(`{"disk_mib":16777216}`), 422, "16777215"},
		"no such traffic":   {"POST", "/local/quotes", token, body(`{"traffic_bytes":-1}`), 422, "traffic_bytes -1: want 1 to 1000000000000000"},
		"too much traffic":  {"POST", "/local/quotes", token, body(`{"traffic_bytes":1000000000000001}`), 422, "1000000000000000"},
		"no such host":      {"POST", "/local/quotes", token, body(`{"provider":"beta"}`), 422, "no such host"},
		"unknown field":     {"POST", "/local/quotes", token, body(`{"max_cost":1}`), 422, "max_cost"},
		"no JSON":           {"POST", "/local/quotes", token, "{", 422, "request"},
		"nobody's quote":    {"POST", "/local/quotes/j-aaaaaaaaaaaaaaaaaaaaaaaaaa/accept", token, "", 422, "not on this machine"},
		"nobody's to drop":  {"DELETE", "/local/quotes/j-aaaaaaaaaaaaaaaaaaaaaaaaaa", token, "", 422, "not on this machine"},
		"another method":    {"PUT", "/local/quotes", token, "", 404, "no use"},
	} {
		if status, text := ask(tt.method, tt.path, tt.token, tt.body); status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %.300s, want %d %q", name, status, text, tt.status, tt.want)
		}
	}
	state := func(id string) string {
		_, text := ask("GET", "/v1/jobs/"+id, token, "")
		var j api.Job
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			t.Fatal(err)
		}
		if j.ExitCode != nil {
			return fmt.Sprint(j.State, " ", *j.ExitCode)
		}
		return j.State
	}
	back := quote()
	if status, text := ask("DELETE", "/local/quotes/"+back.ID, token, ""); status != http.StatusOK || !strings.Contains(text, back.ID) || strings.Contains(text, "key") {
		t.Errorf("giving back: %d %s", status, text)
	}
	if got := state(back.ID); got != "cancelled" {
		t.Errorf("given back, it is %s", got)
	}
	if status, text := ask("POST", "/local/quotes/"+back.ID+"/accept", token, ""); status != http.StatusUnprocessableEntity {
		t.Errorf("accepting what was given back: %d %s", status, text)
	}
	taken := quote()
	for range 2 { // the second time finds the same job
		if status, text := ask("POST", "/local/quotes/"+taken.ID+"/accept", token, ""); status != http.StatusOK || !strings.Contains(text, taken.ID) || strings.Contains(text, "key") {
			t.Errorf("accepting: %d %s", status, text)
		}
	}
	eventually(t, "the end of the job", func() bool { return state(taken.ID) == "done 7" })
}
