package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func (w *world) layout(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: layout DIR OUT")
	}
	dir, err := w.Image(context.Background())
	ts.Check(err)
	index, err := layout.ImageIndexFromPath(dir)
	ts.Check(err)
	manifest, err := index.IndexManifest()
	ts.Check(err)
	img, err := index.Image(manifest.Manifests[0].Digest)
	ts.Check(err)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	ts.Check(tw.AddFS(os.DirFS(ts.MkAbs(args[0]))))
	ts.Check(tw.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	ts.Check(err)
	img, err = mutate.AppendLayers(img, layer)
	ts.Check(err)
	out, err := layout.Write(ts.MkAbs(args[1]), empty.Index)
	ts.Check(err)
	ts.Check(out.AppendImage(img))
}

// hides stays on the file system of the directory: what a host shows of other trees is not on its disk.
func (w *world) hides(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: hides WHO TEXT")
	}
	w.proc(ts, args[:1])
	dir := w.Path(args[0])
	var top, st unix.Stat_t
	ts.Check(unix.Stat(dir, &top))
	files, where := 0, ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it lives
		}
		if err != nil {
			return err
		}
		if err := unix.Lstat(path, &st); err != nil || st.Dev != top.Dev {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		files++
		found, err := holds(path, []byte(args[1]))
		if found {
			where = path
			return fs.SkipAll
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	ts.Check(err)
	if (where != "") != neg {
		ts.Fatalf("of %d files below %s, one that holds %q: %q", files, dir, args[1], where)
	}
}

// holds looks for a text in a file, and passes over holes: what a container may write is a large one.
func holds(path string, text []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		if at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n, err := f.ReadAt(buf, at)
		if bytes.Contains(buf[:n], text) {
			return true, nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return false, err
		}
		at += int64(n - len(text)) // it may lie across
	}
}

func (w *world) locked(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: locked HOST")
	}
	w.agent(ts, args[0])
	dir := w.Path(args[0], "mounts", "private")
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := os.ReadDir(dir)
		ts.Check(err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s still shows %v", args[0], left)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
