// Package page is the market's web page: plain HTML, CSS and JavaScript modules that are compiled in and run as they are
// written, with nothing of others'. It knows the market through the public API alone, so that whoever serves the API may
// serve it: the broker at its root, and `rialto web` on a customer's own machine.
//
// # Paths
//
//	/                 the page; its addresses are in the fragment: #/offers?q=…, #/model/RTX%204090, #/job/ID
//	/page/HASH/FILE   what it is made of; HASH names the content of all of it, so that browsers keep it for good
//
// The page loads nothing from anywhere else and runs no inline code: see [policy]. A token that a person signs in with stays
// in that tab's sessionStorage and is sent to the page's own origin only.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed assets
var assets embed.FS

// policy lets the page do what it does and no more: its own files and its own API, no frames, no forms to elsewhere.
const policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

// prefix is where all files but the page itself are.
const prefix = "/page/"

// mark stands in index.html where the hash belongs.
const mark = "HASH"

// file is an asset, ready to be sent.
type file struct {
	kind    string
	body    []byte
	zipped  []byte // nil: not smaller
	tag     string
	forGood bool // its path names its content
}

// Handler returns the page. It answers GET and HEAD of / and of what is below /page/.
func Handler() (http.Handler, error) {
	names, err := fs.Glob(assets, "assets/*")
	if err != nil {
		return nil, err
	}
	bodies := map[string][]byte{}
	all := sha256.New()
	for _, name := range names { // sorted
		body, err := assets.ReadFile(name)
		if err != nil {
			return nil, err
		}
		bodies[path.Base(name)] = body
		fmt.Fprintf(all, "%s %d\n", name, len(body))
		all.Write(body)
	}
	hash := hex.EncodeToString(all.Sum(nil)[:8])
	files := map[string]*file{}
	for name, body := range bodies {
		at := prefix + hash + "/" + name
		if name == "index.html" {
			at, body = "/", bytes.ReplaceAll(body, []byte(mark), []byte(hash))
		}
		kind, err := kindOf(name)
		if err == nil {
			files[at], err = newFile(kind, body)
		}
		if err != nil {
			return nil, err
		}
		files[at].forGood = at != "/"
	}
	if files["/"] == nil {
		return nil, errors.New("page: no index.html")
	}
	return handler(files), nil
}

// kindOf is an asset's media type. The system's table is not asked: it differs from machine to machine.
func kindOf(name string) (string, error) {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8", nil
	case ".css":
		return "text/css; charset=utf-8", nil
	case ".js":
		return "text/javascript; charset=utf-8", nil
	case ".svg":
		return "image/svg+xml", nil
	}
	return "", fmt.Errorf("page: %s: no media type for its ending", name)
}

func newFile(kind string, body []byte) (*file, error) {
	sum := sha256.Sum256(body)
	f := &file{kind: kind, body: body, tag: strconv.Quote(hex.EncodeToString(sum[:8]))}
	var zipped bytes.Buffer
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(body); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if zipped.Len() < len(body) {
		f.zipped = zipped.Bytes()
	}
	return f, nil
}

type handler map[string]*file

// ServeHTTP implements http.Handler.
func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := h[r.URL.Path]
	head := w.Header()
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "the page takes GET", http.StatusMethodNotAllowed)
		return
	case f == nil:
		head.Set("Cache-Control", "no-store")
		http.Error(w, "no such file: the page was replaced by a newer one; load it again", http.StatusNotFound)
		return
	case f.forGood:
		head.Set("Cache-Control", "public, max-age=31536000, immutable")
	default:
		head.Set("Cache-Control", "no-cache")
	}
	head.Set("Content-Type", f.kind)
	head.Set("ETag", f.tag)
	head.Set("Vary", "Accept-Encoding")
	if knows(r.Header.Get("If-None-Match"), f.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.body
	if f.zipped != nil && takesGzip(r.Header.Get("Accept-Encoding")) {
		head.Set("Content-Encoding", "gzip")
		body = f.zipped
	}
	head.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // a reader that is gone misses nothing
	}
}

func knows(header, tag string) bool {
	for known := range strings.SplitSeq(header, ",") {
		if known = strings.TrimPrefix(strings.TrimSpace(known), "W/"); known == tag || known == "*" {
			return true
		}
	}
	return false
}

// takesGzip reads what browsers send; who weighs encodings otherwise gets the file as it is.
func takesGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, weight, weighed := strings.Cut(strings.TrimSpace(coding), ";")
		if strings.TrimSpace(name) == "gzip" {
			return !weighed || strings.Trim(strings.TrimPrefix(strings.TrimSpace(weight), "q="), "0.") != ""
		}
	}
	return false
}
