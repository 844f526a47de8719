package blocks

import (
	"archive/tar"
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"rialto/blockstore"
)

// file is a file of a generated tree. Its content is a piece of a corpus.
type file struct {
	path string
	at   int // in the corpus
	size int
	sec  int64 // of the last change
}

// corpusSize is a multiple of any file's size, so that few files share bytes.
const corpusSize = 64 << 20

// corpus returns text that a seed decides. It compresses to about a third, as program text does.
func corpus(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	words := make([]string, 4096)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for k := range w {
			w[k] = byte('a' + r.IntN(26))
		}
		words[i] = string(w)
	}
	const ends = "    (),:=.\n"
	text := make([]byte, 0, corpusSize+16)
	for len(text) < corpusSize {
		text = append(append(text, words[r.IntN(len(words))]...), ends[r.IntN(len(ends))])
	}
	return text[:corpusSize]
}

// pythonFiles returns the files of about n files in packages below a directory, in the order of their paths. Their sizes are
// those of an image with a Python installation: of 100, 65 have less than 4 KiB, 31 less than 64 KiB, 3.8 less than 1 MiB,
// and the rest up to 3 MiB, all times scale.
func pythonFiles(seed uint64, dir string, n int, scale float64) []file {
	r := rand.New(rand.NewPCG(seed, 1))
	files := make([]file, 0, n)
	part := ""
	for i := range n {
		if i%9 == 0 { // about nine files in a directory
			part = fmt.Sprintf("%s/package%03d/module%02d/part%d", dir, r.IntN(120), r.IntN(12), r.IntN(4))
		}
		files = append(files, newFile(r, fmt.Sprintf("%s/file%05d.txt", part, i), scale))
	}
	return sorted(files)
}

func newFile(r *rand.Rand, name string, scale float64) file {
	between := func(lo, hi float64) int { return int(lo * math.Pow(hi/lo, math.Pow(r.Float64(), 3))) }
	f := file{path: name, sec: 1_700_000_000 + r.Int64N(1e7)}
	switch p := r.Float64(); {
	case p < 0.65:
		f.size = r.IntN(4096)
	case p < 0.96:
		f.size = between(4096, 64<<10)
	case p < 0.998:
		f.size = between(64<<10, 1<<20)
	default:
		f.size = between(1<<20, 3<<20)
	}
	f.size = int(float64(f.size) * scale)
	f.at = r.IntN(corpusSize - f.size)
	return f
}

func sorted(files []file) []file {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.path, b.path) })
	return files
}

// rebuilt returns what a new build of the same image would hold: one package is gone, two are new, a hundred files (or one of
// 400, in a small tree) have other content, and every file has another time.
func rebuilt(seed uint64, files []file) []file {
	r := rand.New(rand.NewPCG(seed, 2))
	packages := make(map[string]int)
	for _, f := range files {
		packages[packageOf(f.path)]++
	}
	names := make([]string, 0, len(packages))
	for name := range packages {
		names = append(names, name)
	}
	slices.Sort(names)
	gone := names[r.IntN(len(names))]
	next := make([]file, 0, len(files)+len(files)/50)
	for _, f := range files {
		if packageOf(f.path) == gone {
			continue
		}
		f.sec += 10_000_000
		next = append(next, f)
	}
	for range max(1, min(100, len(next)/400)) {
		f := &next[r.IntN(len(next))]
		f.at = r.IntN(corpusSize - f.size)
	}
	for i := range 2 {
		dir := fmt.Sprintf("%s/new%03d-%d", path.Dir(names[0]), r.IntN(1000), i)
		for k := range len(files) / len(names) {
			f := newFile(r, fmt.Sprintf("%s/part%d/file%05d.txt", dir, k/9, k), 1)
			f.sec += 10_000_000
			next = append(next, f)
		}
	}
	return sorted(next)
}

// packageOf returns the directory three levels above a file: its package's.
func packageOf(name string) string { return path.Dir(path.Dir(path.Dir(name))) }

// build makes the tree that an import of these files makes.
func build(files []file, text []byte) (*blockstore.Tree, error) {
	root := &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: make(map[string]*blockstore.Inode)}
	for i, f := range files {
		dir := root
		parts := strings.Split(f.path, "/")
		for _, name := range parts[:len(parts)-1] {
			next := dir.Children[name]
			if next == nil {
				next = &blockstore.Inode{Kind: blockstore.Dir, Mode: 0o755, Children: make(map[string]*blockstore.Inode)}
				dir.Children[name] = next
			}
			dir = next
		}
		n := &blockstore.Inode{Kind: blockstore.File, Mode: 0o644, Sec: f.sec, Size: int64(f.size), Data: int64(i)}
		if f.size >= blockstore.LargeFile {
			for leaf := range slices.Chunk(text[f.at:f.at+f.size], blockstore.MaxBlock) {
				n.Leaves = append(n.Leaves, blockstore.Ref{CID: blockstore.Sum(leaf), Size: len(leaf)})
			}
		}
		dir.Children[parts[len(parts)-1]] = n
	}
	read := func(n *blockstore.Inode) ([]byte, error) {
		f := files[n.Data]
		return text[f.at : f.at+f.size], nil
	}
	return blockstore.Build(root, read, func(blockstore.Block) error { return nil })
}

// writeTar writes the files as a layer, with the directories that they lie in.
func writeTar(w *tar.Writer, files []file, text []byte) error {
	made := make(map[string]bool)
	var dirs func(name string) error
	dirs = func(name string) error {
		if name == "." || made[name] {
			return nil
		}
		if err := dirs(path.Dir(name)); err != nil {
			return err
		}
		made[name] = true
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(1_700_000_000, 0)})
	}
	for _, f := range files {
		if err := dirs(path.Dir(f.path)); err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: 0o644, Size: int64(f.size), ModTime: time.Unix(f.sec, 0)}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(text[f.at : f.at+f.size]); err != nil {
			return err
		}
	}
	return nil
}

// chunks counts the bytes of a stream's chunks of a fixed size.
type chunks struct {
	size int
	seen map[blockstore.CID]int
	buf  []byte
}

func newChunks(size int) *chunks {
	return &chunks{size: size, seen: make(map[blockstore.CID]int), buf: make([]byte, 0, size)}
}

// Write implements io.Writer. Flush must follow the last.
func (c *chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), c.size-len(c.buf))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == c.size {
			c.flush()
		}
	}
	return n, nil
}

func (c *chunks) flush() {
	if len(c.buf) > 0 {
		c.seen[blockstore.Sum(c.buf)] = len(c.buf)
		c.buf = c.buf[:0]
	}
}

var _ io.Writer = (*chunks)(nil)

// newBytes returns which part of b's bytes is not in a, and how many pieces that is.
func newBytes(a, b map[blockstore.CID]int) (ratio float64, pieces int) {
	var fresh, all int
	for c, n := range b {
		all += n
		if _, have := a[c]; !have {
			fresh += n
			pieces++
		}
	}
	return float64(fresh) / float64(max(all, 1)), pieces
}
