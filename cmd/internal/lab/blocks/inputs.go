package blocks

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"rialto/cmd/internal/lab"
)

// Inputs are kept under these names in the lab's cache; change them when the recipes below change.
const (
	siteKey  = "blocks-site-v2"
	bigKey   = "blocks-big-v2"
	largeKey = "blocks-large-v1"
)

const (
	seed        = 1
	modules     = 1847   // that one import reads
	fillers     = 35_600 // files beside Debian's and the modules' that make the image one of 46,000
	fillerScale = 0.56   // of their sizes, because Debian's are larger: the image has 650 MB
	moreFillers = 14_000 // that the large image has, and the small one has not
	largeFile   = 256 << 20
	bigSize     = 10e9 // bytes of the large image at scale 1
)

// Where generated files are in an image.
const (
	packages  = "usr/lib/python3/dist-packages"
	moduleDir = packages + "/many"
	fillerDir = packages + "/site"
	moreDir   = packages + "/more"
	modelsDir = "opt/models"
)

// importAll is what a container runs: it imports every module.
const importAll = "import many.all"

// site is the image with a Python installation of 46,000 files: as an OCI layout, and unpacked on ext4.
type site struct{ oci, root string }

// cached returns a directory of the cache, which make fills if it is not there yet.
func cached(l *lab.Lab, key string, fill func(dir string) error) (string, error) {
	dir := l.CachePath(key)
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(l.CachePath(), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(l.CachePath(), "making-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // the cache only keeps what was renamed
	made := filepath.Join(tmp, "made")
	if err := os.Mkdir(made, 0o755); err != nil {
		return "", err
	}
	if err := fill(made); err != nil {
		return "", fmt.Errorf("make %s: %w", key, err)
	}
	return dir, os.Rename(made, dir)
}

func makeSite(ctx context.Context, l *lab.Lab) (site, error) {
	dir, err := cached(l, siteKey, func(dir string) error {
		base, err := l.Image(ctx)
		if err != nil {
			return err
		}
		img, err := openLayout(base)
		if err != nil {
			return err
		}
		root := filepath.Join(dir, "root")
		if err := unpack(ctx, img, root); err != nil {
			return err
		}
		if err := writeModules(ctx, root); err != nil {
			return err
		}
		layer := filepath.Join(dir, "layer.tar")
		if err := writeLayer(layer, func(w *tar.Writer) error {
			return writeTar(w, pythonFiles(seed, fillerDir, fillers, fillerScale), corpus(seed))
		}); err != nil {
			return err
		}
		generated := filepath.Join(dir, "modules.tar")
		for _, args := range [][]string{
			{"tar", "--sort=name", "--numeric-owner", "-C", root, "-cf", generated, moduleDir},
			{"tar", "--numeric-owner", "-C", root, "-xpf", layer},
		} {
			if _, err := lab.Output(exec.CommandContext(ctx, args[0], args[1:]...)); err != nil {
				return err
			}
		}
		return writeLayout(filepath.Join(dir, "oci"), img, generated, layer)
	})
	return site{filepath.Join(dir, "oci"), filepath.Join(dir, "root")}, err
}

// writeModules writes a package whose import reads many modules, and compiles it with the image's own Python.
func writeModules(ctx context.Context, root string) error {
	text := corpus(seed + 1)
	var all strings.Builder
	at := time.Unix(1_700_000_000, 0)
	write := func(name, body string) error {
		name = filepath.Join(root, moduleDir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			return err
		}
		return os.Chtimes(name, at, at) // the compiled form carries it
	}
	const perPackage = 40
	for i := range modules - 2 - (modules+perPackage-1)/perPackage { // less the packages and the list itself
		pkg := fmt.Sprintf("p%02d", i/perPackage)
		if i%perPackage == 0 {
			if err := write(pkg+"/__init__.py", ""); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("m%04d", i)
		fmt.Fprintf(&all, "import many.%s.%s\n", pkg, name)
		if err := write(pkg+"/"+name+".py", moduleText(i, text)); err != nil {
			return err
		}
	}
	if err := write("__init__.py", ""); err != nil {
		return err
	}
	if err := write("all.py", all.String()); err != nil {
		return err
	}
	_, err := lab.Output(exec.CommandContext(ctx, "chroot", root, "/usr/bin/python3", "-m", "compileall", "-q", "/"+moduleDir))
	return err
}

// moduleText is a module of some 20 KB: functions and a class, as modules have them.
func moduleText(i int, text []byte) string {
	var b strings.Builder
	r := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // a module's number is not negative
	word := func(n int) string {
		at := r.IntN(len(text) - n)
		return strings.Map(func(c rune) rune {
			if c < 'a' || c > 'z' {
				return ' '
			}
			return c
		}, string(text[at:at+n]))
	}
	fmt.Fprintf(&b, "\"\"\"%s\"\"\"\n", word(400))
	fmt.Fprintf(&b, "class C%d:\n", i)
	for k := range 10 {
		fmt.Fprintf(&b, "    def m%d(self, a, b=%d):\n        \"\"\"%s\"\"\"\n        return [a, b, %q]\n", k, r.IntN(1000), word(300), word(60))
	}
	for k := range 24 {
		fmt.Fprintf(&b, "def f%d(x, y=%d):\n    \"\"\"%s\"\"\"\n    if x > y:\n        return {%q: x, %q: y}\n    return sum(i * %d for i in range(x))\n",
			k, r.IntN(1000), word(400), word(20), word(20), r.IntN(100))
	}
	return b.String()
}

// makeBig returns the OCI layout of a large image: the site's, more small files, and large ones up to the size.
func makeBig(ctx context.Context, l *lab.Lab, s site, scale float64) (string, error) {
	dir, err := cached(l, fmt.Sprintf("%s-%g", bigKey, scale), func(dir string) error {
		img, err := openLayout(s.oci)
		if err != nil {
			return err
		}
		size, err := diskUsage(s.root)
		if err != nil {
			return err
		}
		files := pythonFiles(seed+2, moreDir, moreFillers, 1)
		for _, f := range files {
			size += int64(f.size)
		}
		var layers []string
		next := func(fill func(w *tar.Writer) error) error {
			name := filepath.Join(dir, fmt.Sprintf("layer%02d.tar", len(layers)))
			layers = append(layers, name)
			return writeLayer(name, fill)
		}
		if err := next(func(w *tar.Writer) error { return writeTar(w, files, corpus(seed)) }); err != nil {
			return err
		}
		random := rand.NewChaCha8([32]byte{seed})
		for n := 0; ; n++ {
			left := int64(scale*bigSize) - size
			if left <= 0 && n > 0 {
				break
			}
			part := min(max(left, 16<<20), 4*largeFile) // there is a large file in any case
			size += part
			if err := next(func(w *tar.Writer) error { return writeLarge(ctx, w, random, n, part) }); err != nil {
				return err
			}
		}
		return writeLayout(filepath.Join(dir, "oci"), img, layers...)
	})
	return filepath.Join(dir, "oci"), err
}

// writeLarge writes files of random bytes, as weights are to a compressor.
func writeLarge(ctx context.Context, w *tar.Writer, random io.Reader, n int, size int64) error {
	for k := 0; size > 0; k++ {
		part := min(size, largeFile)
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/part%03d-%d.bin", modelsDir, n, k), Mode: 0o644, Size: part, ModTime: time.Unix(1_700_000_000, 0),
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyN(w, random, part); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		size -= part
	}
	return nil
}

// makeLarge returns a directory with one large file of random bytes.
func makeLarge(l *lab.Lab) (string, error) {
	return cached(l, largeKey, func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "large.bin"))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{seed, 1}), largeFile)
		return errors.Join(err, f.Close())
	})
}

func writeLayer(name string, fill func(*tar.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(out)
	return errors.Join(fill(w), w.Close(), out.Flush(), f.Close())
}

// writeLayout writes an image with further layers, whose files it removes.
func writeLayout(dir string, img v1.Image, layers ...string) error {
	for _, name := range layers {
		layer, err := tarball.LayerFromFile(name, tarball.WithCompressionLevel(gzip.BestSpeed))
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return err
		}
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := p.AppendImage(img); err != nil {
		return err
	}
	for _, name := range layers {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// openLayout returns the only image of an OCI layout.
func openLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s: want one image, have %d", dir, len(manifest.Manifests))
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// unpack unpacks an image that deletes nothing.
func unpack(ctx context.Context, img v1.Image, root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "tar", "--numeric-owner", "-C", root, "-xpf", "-")
		cmd.Stdin = r
		_, err = lab.Output(cmd)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// diskUsage returns the bytes of all files below a directory.
func diskUsage(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
