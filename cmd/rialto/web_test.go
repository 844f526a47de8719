//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// talk collects what a command says while it runs.
type talk struct {
	mu   sync.Mutex
	text strings.Builder
}

func (t *talk) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *talk) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// links returns the address of the page and the keys of the links that were printed.
func (t *talk) links() (address string, keys []string) {
	for _, m := range regexp.MustCompile(`Open (http://127\.0\.0\.1:\d+)/#key=(\w+)`).FindAllStringSubmatch(t.String(), -1) {
		address, keys = m[1], append(keys, m[2])
	}
	return address, keys
}

// startWeb runs `rialto web` beside a job that printed something, and returns what it says and the job.
func startWeb(t *testing.T, w *world) (*talk, string) {
	t.Helper()
	w.addAgent(t, "alpha", "RTX 4090:2", "0.40/h")
	w.offered(t, 1)
	t.Setenv("RIALTO_HOME", filepath.Join(t.TempDir(), "home"))
	t.Setenv("RIALTO_TOKEN", "")
	t.Setenv("RIALTO_BROKER", "")
	var job strings.Builder
	for _, args := range [][]string{
		{"account", "login", w.api.URL, w.token},
		{"run", "-d", pushImage(t), "--", "sh", "-c", `printf '\033[32mhello\033[0m from the host\n<b>not markup</b>\n'; exec sleep 600`},
	} {
		var stderr strings.Builder
		job.Reset()
		if err := run(t.Context(), args, &job, &stderr); err != nil {
			t.Fatalf("rialto %q: %v\n%s", args, err, &stderr)
		}
	}
	said := new(talk)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"web"}, io.Discard, said) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("rialto web: %v", err)
		}
	})
	eventually(t, "a link", func() bool { _, keys := said.links(); return len(keys) == 1 })
	return said, strings.TrimSpace(job.String())
}

// TestWeb: who may ask what, and that logs flow.
func TestWeb(t *testing.T) {
	w := newWorld(t)
	said, job := startWeb(t, w)
	address, keys := said.links()
	ask := func(method, path, token string, header ...string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK && strings.HasPrefix(path, "/local/logs/") {
			line := make([]byte, 64) // the log goes on
			n, err := io.ReadAtLeast(resp.Body, line, len("hello from the host"))
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(line[:n])
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text)+fmt.Sprint(resp.Header), w.token) {
			t.Errorf("%s %s: the broker's token is in the answer", method, path)
		}
		return resp.StatusCode, string(text)
	}
	status, text := ask("POST", "/local/enter", keys[0])
	session := regexp.MustCompile(`"token":"(\w+)"`).FindStringSubmatch(text)
	if status != http.StatusOK || session == nil {
		t.Fatalf("the link: %d %s", status, text)
	}
	token := session[1]
	host := strings.TrimPrefix(address, "http://")
	_, port, _ := strings.Cut(host, ":")
	eventually(t, "another link", func() bool { _, keys := said.links(); return len(keys) == 2 })
	for _, tt := range []struct {
		name, method, path, token string
		header                    []string
		status                    int
		want                      string
	}{
		{"the page", "GET", "/", "", nil, 200, "<!doctype html>"},
		{"signed in", "GET", "/v1/account", token, []string{"Origin", address, "Sec-Fetch-Site", "same-origin"}, 200, `"name":"ada"`},
		{"prices", "GET", "/v1/prices", token, nil, 200, `"prices":`},
		{"the log", "GET", "/local/logs/" + job, token, nil, 200, "hello"},
		{"a rebound name", "GET", "/", "", []string{"Host", "rebound.example:" + port}, 421, "no other name"},
		{"another spelling", "GET", "/v1/account", token, []string{"Host", "localhost:" + port}, 421, ""},
		{"another port's page", "GET", "/v1/account", token, []string{"Origin", "http://127.0.0.1:1"}, 403, "another page"},
		{"no origin to speak of", "POST", "/local/enter", keys[0], []string{"Origin", "null"}, 403, "another page"},
		{"a script of another page", "GET", "/page/x/main.js", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, "another page"},
		{"without a token", "GET", "/v1/account", "", nil, 401, "open the link"},
		{"without a token, prices", "GET", "/v1/prices", "", nil, 401, ""},
		{"with the broker's token", "GET", "/v1/account", w.token, nil, 401, ""},
		{"with a link's key", "GET", "/v1/account", keys[0], nil, 401, ""},
		{"without a token, a log", "GET", "/local/logs/" + job, "", nil, 401, ""},
		{"a link again", "POST", "/local/enter", keys[0], nil, 403, "used already"},
		{"a link by GET", "GET", "/local/enter", keys[0], nil, 403, ""},
		{"submit", "POST", "/v1/jobs", token, nil, 404, "no use"},
		{"cancel", "DELETE", "/v1/jobs/" + job, token, nil, 404, "no use"},
		{"metrics", "GET", "/metrics", token, nil, 404, "no use"},
		{"a log of nobody's job", "GET", "/local/logs/j-aaaaaaaaaaaaaaaaaaaaaaaaaa", token, nil, 502, "no such job"},
	} {
		status, text := ask(tt.method, tt.path, tt.token, tt.header...)
		if status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %.200s, want %d %q", tt.name, status, text, tt.status, tt.want)
		}
	}
	w.setAway(true)
	if status, text := ask("GET", "/v1/account", token); status != http.StatusBadGateway || !strings.Contains(text, "cannot be reached") {
		t.Errorf("without the broker: %d %s", status, text)
	}
	w.setAway(false)
}

// TestWebInABrowser: the link signs in, and the job's log is on its page, as text.
func TestWebInABrowser(t *testing.T) {
	binary, err := exec.LookPath("chromium")
	if testing.Short() || err != nil {
		t.Skip("missing: chromium (make deps, or apt-get install chromium), or time")
	}
	w := newWorld(t)
	said, job := startWeb(t, w)
	address, keys := said.links()
	options := append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(binary), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(time.Minute),
	}, chromedp.DefaultExecAllocatorOptions[:]...)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate(address+"/#key="+keys[0])); err != nil {
		t.Fatal(err)
	}
	eval := func(expression string) string {
		out, err := chromedp.Run(ctx, chromedp.Evaluate[string](expression))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	eventually(t, "the market", func() bool { return strings.Contains(eval(`document.body.innerText`), "RTX 4090") })
	if got := eval(`location.href`); strings.Contains(got, keys[0]) {
		t.Errorf("the key stays in the address: %s", got)
	}
	eval(`location.hash = "#/job/` + job + `"`)
	eventually(t, "the log", func() bool {
		return strings.Contains(eval(`document.querySelector(".lines")?.textContent ?? ""`), "markup")
	})
	if got, want := eval(`document.querySelector(".lines").textContent`), "hello from the host\n<b>not markup</b>\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	// The calculator asks the host for a firm quote, and accepting it leads to the job.
	eval(`location.hash = "#/calculator?hours=0.5&memory=1&real=0"`)
	eventually(t, "the panel for quotes", func() bool {
		return strings.Contains(eval(`document.querySelector(".quote")?.innerText ?? ""`), "alpha would hold 1 × RTX 4090 for 15 seconds")
	})
	fill := func(image string) {
		eval(fmt.Sprintf(`(document.querySelector("#quote-image").value = %q, document.querySelector("#quote-command").value = "echo quoted; sleep 60", "")`, image))
		eval(`(document.querySelector(".quote form button").click(), "")`)
	}
	fill("registry.invalid/no/image")
	eventually(t, "why there is no quote", func() bool {
		return strings.Contains(eval(`document.querySelector(".quote .problem").textContent`), "registry.invalid")
	})
	fill(pushImage(t))
	eventually(t, "a quote", func() bool { return strings.Contains(eval(`document.querySelector(".quote").innerText`), " s left") })
	if got := eval(`document.querySelector(".quote").innerText`); !strings.Contains(got, "on alpha at $0.40/h, signed by the host") || !strings.Contains(got, "$0.20 at most for 30 min 0 s") {
		t.Errorf("quote: %q", got)
	}
	if got := eval(`document.activeElement.textContent`); got != "Accept and run" {
		t.Errorf("the focus is on %q", got)
	}
	eval(`(document.activeElement.click(), "")`)
	eventually(t, "the log of the job that the quote became", func() bool {
		return strings.Contains(eval(`location.hash.startsWith("#/job/") ? document.querySelector(".lines")?.textContent ?? "" : ""`), "quoted")
	})
	if got := eval(`JSON.stringify(sessionStorage) + document.cookie`); strings.Contains(got, w.token) {
		t.Errorf("the browser has the broker's token: %s", got)
	}
}
