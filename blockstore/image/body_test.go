package image_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

// half passes the first half of a layer on and then calls end.
type half struct {
	http.ResponseWriter
	left int
	end  func()
}

func (h *half) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	h.left -= n
	if n, err := h.ResponseWriter.Write(p[:n]); err != nil {
		return n, err
	}
	if h.left == 0 {
		h.ResponseWriter.(http.Flusher).Flush()
		h.end()
	}
	return len(p), nil
}

func TestRegistryStopsInTheMiddle(t *testing.T) {
	const size = 300_000
	hang := func(r *http.Request) { <-r.Context().Done() }
	abort := func(*http.Request) { panic(http.ErrAbortHandler) }
	tests := []struct {
		name  string
		times int64
		end   func(*http.Request)
		want  error
	}{
		{"falls silent once", 1, hang, nil},
		{"breaks off once", 1, abort, nil},
		{"falls silent twice", 2, hang, image.ErrStalled},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var bad atomic.Int64
			inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && bad.Load() > 0 {
					w = &half{w, size / 2, func() {
						bad.Add(-1)
						tc.end(r)
					}}
				}
				inner.ServeHTTP(w, r)
			}))
			defer s.Close()
			content := make([]byte, size)
			rand.NewChaCha8([32]byte{}).Read(content)
			img := imageOf(t, layerOf(t, "gzip", string(content)))
			ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
			h, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			digest, err := blockstore.ParseDigest(h.String())
			if err != nil {
				t.Fatal(err)
			}
			found, err := image.Registry{}.Open(t.Context(), ref.String(), digest)
			if err != nil {
				t.Fatal(err)
			}
			bad.Store(tc.times)
			_, err = found.Import(t.Context(), image.Import{
				Put:      func(context.Context, blockstore.Block) error { return nil },
				Patience: 400 * time.Millisecond,
			})
			if !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
		})
	}
}
