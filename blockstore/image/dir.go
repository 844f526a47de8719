package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
)

// ErrWeights reports a directory that cannot become weights.
var ErrWeights = errors.New("not usable as weights")

// ImportDir turns a directory into one layer, the same on every machine: entries sorted by name, owner 0,
// mode 0644, or 0755 for directories and executable files, mtimes of files in whole seconds and of nothing
// else. It takes regular files, directories, and symlinks that stay inside. It calls put with the blocks in order;
// the manifest's own blocks are the caller's to put after it.
func ImportDir(ctx context.Context, dir string, put func(context.Context, blockstore.Block) error) (*blockstore.Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	r, w := io.Pipe()
	var layer blockstore.Layer
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := writeTar(ctx, root, w)
		w.CloseWithError(err)
		return err
	})
	g.Go(func() error {
		var err error
		layer, err = blockstore.Cut(r, func(b blockstore.Block) error { return put(ctx, b) })
		r.CloseWithError(err) // ends the writer, if it still writes
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("import %s: %w", dir, err)
	}
	return &blockstore.Manifest{Layers: []blockstore.Layer{layer}}, nil
}

// DirSize returns the bytes in the regular files of a directory, for a progress bar.
func DirSize(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

func writeTar(ctx context.Context, root *os.Root, w io.Writer) error {
	tw := tar.NewWriter(w)
	empty := true
	// WalkDir goes in lexical order.
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		empty = false
		if err := ctx.Err(); err != nil {
			return err
		}
		return writeEntry(tw, root, name, d)
	})
	if err != nil {
		return err
	}
	if empty {
		return fmt.Errorf("%w: the directory is empty", ErrWeights)
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, root *os.Root, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{
		Name:    filepath.ToSlash(name),
		Mode:    0o644,
		ModTime: time.Unix(0, 0),
		Format:  tar.FormatPAX,
	}
	switch {
	case d.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, h.Name+"/", 0o755
		return tw.WriteHeader(h)
	case d.Type() == fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, filepath.ToSlash(target), 0o777
		if resolved := path.Join(path.Dir(h.Name), h.Linkname); path.IsAbs(h.Linkname) || resolved == ".." || strings.HasPrefix(resolved, "../") {
			return fmt.Errorf("%s: %w: the symlink leaves the directory", name, ErrWeights)
		}
		return tw.WriteHeader(h)
	case info.Mode().IsRegular():
		if info.Mode()&0o100 != 0 {
			h.Mode = 0o755
		}
		h.Typeflag, h.Size, h.ModTime = tar.TypeReg, info.Size(), info.ModTime().Truncate(time.Second)
		return writeFile(tw, root, name, h)
	default:
		return fmt.Errorf("%s: %w: neither file, directory nor symlink", name, ErrWeights)
	}
}

func writeFile(tw *tar.Writer, root *os.Root, name string, h *tar.Header) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	buf := make([]byte, blockstore.MaxBlock)
	if _, err := io.CopyBuffer(onlyWriter{tw}, io.LimitReader(f, h.Size), buf); err != nil {
		return err
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", name, err)
	}
	return nil
}

// onlyWriter hides ReadFrom, which would not use the large buffer.
type onlyWriter struct{ io.Writer }
