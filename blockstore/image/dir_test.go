package image_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/image"
)

// write makes files by path and content, all of one age.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func importWeights(t *testing.T, name string, put func(context.Context, blockstore.Block) error) (blockstore.CID, error) {
	t.Helper()
	w, err := image.OpenWeights(name)
	if err != nil {
		return blockstore.CID{}, err
	}
	defer w.Close()
	return w.Import(t.Context(), put)
}

func TestWeights(t *testing.T) {
	large := strings.Repeat("w", 2<<20+7)
	files := map[string]string{"model.safetensors": large, "config.json": "{}", "sub/tokenizer": "t"}
	build := func() string {
		dir := t.TempDir()
		write(t, dir, files)
		symlink(t, "../config.json", filepath.Join(dir, "sub", "link"))
		return dir
	}
	var k keep
	put := func(ctx context.Context, b blockstore.Block) error { return k.Put(ctx, b) }
	one, err := importWeights(t, build(), put)
	if err != nil {
		t.Fatal(err)
	}
	two, err := importWeights(t, build(), put)
	if err != nil || one != two {
		t.Errorf("the same files give %v and %v, %v", one, two, err)
	}
	if got := filesOf(t, one, &k); !maps.Equal(got, files) {
		t.Errorf("%d files, want %d, or other content", len(got), len(files))
	}
	// A single file is a directory with that file.
	file := filepath.Join(build(), "model.safetensors")
	root, err := importWeights(t, file, put)
	if err != nil {
		t.Fatal(err)
	}
	if got := filesOf(t, root, &k); !maps.Equal(got, map[string]string{"model.safetensors": large}) {
		t.Errorf("got %d files, want the one", len(got))
	}
	stop := errors.New("stop")
	if _, err := importWeights(t, build(), func(context.Context, blockstore.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error = %v, want that of put", err)
	}
}

func TestWeightsRefused(t *testing.T) {
	for name, make := range map[string]func(dir string){
		"empty":            func(string) {},
		"absolute symlink": func(dir string) { symlink(t, "/etc/passwd", filepath.Join(dir, "s")) },
		"symlink outside":  func(dir string) { symlink(t, "../x", filepath.Join(dir, "s")) },
		"absolute symlink, ours": func(dir string) {
			write(t, dir, map[string]string{"x": "x"})
			symlink(t, dir+"/x", filepath.Join(dir, "s"))
		},
	} {
		dir := t.TempDir()
		make(dir)
		if _, err := importWeights(t, dir, func(context.Context, blockstore.Block) error { return nil }); !errors.Is(err, image.ErrWeights) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

// The hub's cache keeps a snapshot as links to blobs beside it.
func TestWeightsOfHubCache(t *testing.T) {
	model := filepath.Join(t.TempDir(), "models--org--name")
	write(t, model, map[string]string{"blobs/aa": "old", "blobs/bb": "weights", "blobs/cc": "{}", "refs/main": "rev2\n"})
	symlink(t, "../../blobs/aa", filepath.Join(model, "snapshots/rev1/model.safetensors"))
	symlink(t, "../../blobs/bb", filepath.Join(model, "snapshots/rev2/model.safetensors"))
	symlink(t, "../../../blobs/cc", filepath.Join(model, "snapshots/rev2/onnx/config.json"))
	want := map[string]string{"model.safetensors": "weights", "onnx/config.json": "{}"}
	var k keep
	put := func(ctx context.Context, b blockstore.Block) error { return k.Put(ctx, b) }
	for _, name := range []string{model, filepath.Join(model, "snapshots/rev2")} {
		root, err := importWeights(t, name, put)
		if err != nil {
			t.Fatal(err)
		}
		if got := filesOf(t, root, &k); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if err := os.Remove(filepath.Join(model, "refs/main")); err != nil {
		t.Fatal(err)
	}
	if _, err := importWeights(t, model, put); !errors.Is(err, image.ErrWeights) {
		t.Errorf("two snapshots and no ref: %v", err)
	}
	symlink(t, "../../../outside", filepath.Join(model, "snapshots/rev2/evil"))
	write(t, filepath.Dir(model), map[string]string{"outside": "secret"})
	if _, err := importWeights(t, filepath.Join(model, "snapshots/rev2"), put); !errors.Is(err, image.ErrWeights) {
		t.Errorf("a link out of the cache: %v", err)
	}
}
