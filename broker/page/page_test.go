package page_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"rialto/broker/page"
)

// reply is an answer of the page.
type reply struct {
	status int
	header http.Header
	body   string
}

func ask(t *testing.T, method, path string, header ...string) reply {
	t.Helper()
	h, err := page.Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.String()}
}

func TestFiles(t *testing.T) {
	index := ask(t, "GET", "/")
	text := index.body
	if got, want := index.header.Get("Content-Security-Policy"), "default-src 'self'"; !strings.HasPrefix(got, want) {
		t.Errorf("policy %q, want %q…", got, want)
	}
	if got, want := index.header.Get("Cache-Control"), "no-cache"; got != want {
		t.Errorf("the page's caching: %q, want %q", got, want)
	}
	if again := ask(t, "GET", "/", "If-None-Match", "W/"+index.header.Get("ETag")); again.status != http.StatusNotModified || again.body != "" {
		t.Errorf("the page again: %d, want 304 without a body", again.status)
	}
	links := regexp.MustCompile(`(?:href|src)="(/page/[^"]+)"`).FindAllStringSubmatch(text, -1)
	if len(links) < 3 || strings.Contains(text, "HASH") {
		t.Fatalf("links of the page: %q", links)
	}
	for _, l := range links {
		plain := ask(t, "GET", l[1])
		if plain.status != http.StatusOK || !strings.Contains(plain.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, %q", l[1], plain.status, plain.header.Get("Cache-Control"))
		}
		want := plain.body
		zipped := ask(t, "GET", l[1], "Accept-Encoding", "br, gzip;q=0.8")
		if zipped.header.Get("Content-Encoding") != "gzip" {
			continue // too small to shrink
		}
		z, err := gzip.NewReader(bytes.NewReader([]byte(zipped.body)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(z); err != nil || string(got) != want {
			t.Errorf("%s differs when zipped: %v", l[1], err)
		}
	}
	if inline := regexp.MustCompile(`(?i)<script>|<style|\son\w+=|\sstyle=|https?://`).FindString(text); inline != "" {
		t.Errorf("the page has %q, which its policy forbids", inline)
	}
	for _, tt := range []struct {
		method, path, header string
		want                 int
	}{
		{"GET", "/page/0000/main.js", "", 404},
		{"GET", "/page/../page.go", "", 404},
		{"POST", "/", "", 405},
		{"HEAD", "/", "", 200},
		{"GET", "/", "identity, gzip;q=0", 200},
	} {
		r := ask(t, tt.method, tt.path, "Accept-Encoding", tt.header)
		if r.status != tt.want || r.header.Get("Content-Encoding") != "" {
			t.Errorf("%s %s: %d %q, want %d as it is", tt.method, tt.path, r.status, r.header.Get("Content-Encoding"), tt.want)
		}
	}
}

// TestOwnCodeOnly: the page loads nothing from elsewhere, and runs no text as code.
func TestOwnCodeOnly(t *testing.T) {
	index := ask(t, "GET", "/").body
	dir := regexp.MustCompile(`/page/\w+/`).FindString(index)
	todo, seen := []string{"main.js"}, map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		r := ask(t, "GET", dir+name)
		text := r.body
		if r.status != http.StatusOK {
			t.Fatalf("%s is imported, but %d", name, r.status)
		}
		for _, m := range regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(text, -1) {
			todo = append(todo, m[1])
		}
		for _, bad := range []string{"innerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "https://", "localStorage.setItem('rialto.token"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", name, bad)
			}
		}
		if n := strings.Count(text, "\n"); n >= 400 {
			t.Errorf("%s has %d lines", name, n)
		}
	}
}
