package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

// pushImage starts a registry and returns a reference to an image in it, and the image's digest.
func pushImage(t *testing.T) (string, blockstore.Digest) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/debian:12")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(200<<10, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Registry{}.Resolve(t.Context(), ref.Name())
	if err != nil {
		t.Fatal(err)
	}
	return ref.Name(), digest
}

// imported is the root that anybody else gets from the same image.
func imported(t *testing.T, ref string, digest blockstore.Digest) blockstore.CID {
	t.Helper()
	source, err := image.Registry{}.Open(t.Context(), ref, digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.Import(t.Context(), image.Import{
		Put: func(context.Context, blockstore.Block) error { return nil }, Scratch: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return got.Root
}

func TestBuilder(t *testing.T) {
	ref, digest := pushImage(t)
	scratch := filepath.Join(t.TempDir(), "scratch")
	if err := os.MkdirAll(filepath.Join(scratch, "left", "behind"), 0o700); err != nil {
		t.Fatal(err)
	}
	policy, err := cli.ParseRegistries([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBuilder(policy, scratch)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var mu sync.Mutex
	var done, total int64
	root, err := b.Build(t.Context(), ref, digest, func(d, n int64) {
		mu.Lock()
		defer mu.Unlock()
		done, total = max(done, d), n
	})
	if want := imported(t, ref, digest); err != nil || root != want {
		t.Errorf("root %v, %v; want %v", root, err, want)
	}
	if total < 3*200<<10 || done != total {
		t.Errorf("read %d of %d bytes", done, total)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("in the scratch directory: %v, %v", left, err)
	}
	if _, err := b.Build(t.Context(), ref, blockstore.Digest{1}, func(int64, int64) {}); !errors.Is(err, image.ErrNoImage) {
		t.Errorf("a digest that nobody has: %v, want ErrNoImage", err)
	}
	strict, err := newBuilder(image.Policy{}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	if _, err := strict.Build(t.Context(), ref, digest, func(int64, int64) {}); !errors.Is(err, image.ErrForbidden) {
		t.Errorf("a registry inside: %v, want ErrForbidden", err)
	}
}

// TestBrokerVouches asks a running broker for an image, again after a restart, and then one that may not build.
func TestBrokerVouches(t *testing.T) {
	ref, digest := pushImage(t)
	dir := t.TempDir()
	token := ""
	for _, flags := range [][]string{{"--allow-registry", "127.0.0.0/8"}, {}, {"--build-images=false"}} {
		serve(t, dir, flags, func(c func(token string) *api.Client, admin string) {
			if token == "" {
				opened, err := c(admin).OpenAccount(t.Context(), "ada", nil)
				if err != nil {
					t.Fatal(err)
				}
				token = opened.Token
				if i, err := c(token).BuildImage(t.Context(), ref, digest.String()); err != nil || i.State == "failed" {
					t.Fatalf("asked: %+v, %v", i, err)
				}
			}
			again := time.NewTicker(5 * time.Millisecond)
			defer again.Stop()
			var i api.Image
			for ; i.State != "ready"; <-again.C {
				var err error
				if i, err = c(token).Image(t.Context(), digest.String()); err != nil || i.State == "failed" {
					t.Fatalf("%v: %+v, %v", flags, i, err)
				}
			}
			if want := imported(t, ref, digest).String(); i.Root != want {
				t.Errorf("%v: root %s, want %s", flags, i.Root, want)
			}
		})
	}
}

// serve runs a broker while fn runs.
func serve(t *testing.T, dir string, flags []string, fn func(c func(token string) *api.Client, admin string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	args := append([]string{"run", "--state", dir, "--http", "127.0.0.1:0", "--p2p-listen", "/ip4/127.0.0.1/tcp/0", "--min-free", "1MiB"}, flags...)
	go func() { ended <- run(ctx, args, io.Discard, io.Discard) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%v: %v", flags, err)
		}
	}()
	if err := await(stateDir(dir)); err != nil {
		t.Fatal(err)
	}
	a, err := stateDir(dir).readAdmin()
	if err != nil {
		t.Fatal(err)
	}
	fn(func(token string) *api.Client {
		c, err := api.NewClient(a.URL, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}, a.Token)
}
