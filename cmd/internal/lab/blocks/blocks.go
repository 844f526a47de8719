// Package blocks measures how Rialto stores, moves and shows images: each figure beside what others do on the same machine
// in the same run, and beside the limit that nobody can pass. The last line that it prints is one JSON object.
//
// Exchange and store are measured by their packages' own Go benchmarks, whose output is read here. All else runs here on
// generated inputs, which are kept in the lab's cache: an image with Debian's Python and 46,000 files in all, and one of
// 10 GB times a scale. Everything that runs is removed in the end, which is checked.
package blocks

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"rialto/blockstore"
	"rialto/cmd/internal/lab"
)

// Config says what to measure.
type Config struct {
	Lab   lab.Config
	Scale float64  // of the inputs that are as large as one likes; 1: full size
	Bench string   // file with the output of the Go benchmarks; empty: their figures are left out
	Parts []string // of "chunks", "trees", "start"; empty: all
}

func (c Config) wants(part string) bool { return len(c.Parts) == 0 || slices.Contains(c.Parts, part) }

// rebuiltFiles is the size of the tree that is built again: a Python installation's.
const rebuiltFiles = 46_000

var errNoBench = errors.New("the Go benchmark that measures it printed nothing; its output tells why")

// Run measures everything and prints the table to out. What cannot be measured is named with the reason, and is no error.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	if cfg.Scale <= 0 || cfg.Scale > 1 {
		return fmt.Errorf("scale %g: want more than 0 and at most 1", cfg.Scale)
	}
	for _, p := range cfg.Parts {
		if p != "chunks" && p != "trees" && p != "start" {
			return fmt.Errorf("part %q: want chunks, trees or start", p)
		}
	}
	r := newReport(out)
	fmt.Fprintf(out, "blocks at scale %g: the image of \"10 GB\" has %s GB; all other inputs have their full size\n", cfg.Scale, number(cfg.Scale*bigSize/1e9))
	if err := gobenches(r, cfg.Bench); err != nil {
		return err
	}
	l, err := lab.New(cfg.Lab)
	if err != nil {
		return err
	}
	err = errors.Join(measure(ctx, r, l, cfg), l.Close())
	left, lerr := l.Leftovers()
	if err = errors.Join(err, lerr); err != nil {
		return err
	}
	// Others may mount and unmount on this machine meanwhile; what is ours is in our directory, or has the lab's name.
	left = slices.DeleteFunc(left, func(s string) bool {
		return !strings.Contains(s, cfg.Lab.Work) && (strings.HasPrefix(s, "mount ") || strings.HasPrefix(s, "link "))
	})
	if len(left) > 0 {
		return fmt.Errorf("left over: %q", left)
	}
	return r.end()
}

func gobenches(r *report, path string) error {
	if path == "" {
		r.absent(errors.New("the Go benchmarks were not run"), "fastpath_mbps", "bitswap_mbps", "link50_ratio", "fanout20_origin_gb", "fanout20_time_ratio", "put_mbps")
		return nil
	}
	g, err := readGobench(path)
	if err != nil {
		return err
	}
	g.wire(r)
	g.swarm(r)
	g.put(r)
	return nil
}

// measure runs the parts that need the lab. One that fails is named, and the others go on.
func measure(ctx context.Context, r *report, l *lab.Lab, cfg Config) error {
	if cfg.wants("chunks") {
		r.absent(rebuild(r), "rebuilt_new_ratio")
		r.absent(zipf(r), "zipf_local_ratio")
	}
	s, err := makeSite(ctx, l)
	if err != nil {
		return err
	}
	if cfg.wants("trees") {
		r.absent(trees(ctx, r, l, s), "mount_ms", "tree_first_lazy_s", "tree_first_sealed_s", "warm_seq_gbps", "native_seq_gbps", "import_warm_ratio", "cold_import_50ms_s")
	}
	if cfg.wants("start") {
		r.absent(start(ctx, r, l, cfg, s), "start10gb_s", "start10gb_plain_s", "rss_mb")
	}
	return ctx.Err()
}

// trees measures mounts of the site on this host.
func trees(ctx context.Context, r *report, l *lab.Lab, s site) (err error) {
	host, err := openLocal(ctx, l, l.Path("trees"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.stop()) }()
	t, err := host.importSite(ctx, s.oci)
	if err != nil {
		return fmt.Errorf("import the image: %w", err)
	}
	if err := t.mounting(ctx, r, l, s.root); err != nil {
		return fmt.Errorf("mount and read: %w", err)
	}
	large, err := makeLarge(l)
	if err != nil {
		return err
	}
	if err := host.sequential(ctx, r, large); err != nil {
		return fmt.Errorf("read one file: %w", err)
	}
	native, err := t.warmImports(ctx, r, s.root)
	if err != nil {
		return fmt.Errorf("warm imports: %w", err)
	}
	if err := t.coldImports(ctx, r, l, native); err != nil {
		return fmt.Errorf("cold imports: %w", err)
	}
	return nil
}

// rebuild compares the blocks of an image with those of its next build.
func rebuild(r *report) error {
	text := corpus(seed)
	files := pythonFiles(seed, fillerDir, rebuiltFiles, 1)
	both := [][]file{files, rebuilt(seed, files)}
	var ours, fixed, whole [2]map[blockstore.CID]int
	for i, files := range both {
		t, err := build(files, text)
		if err != nil {
			return err
		}
		ours[i], whole[i] = make(map[blockstore.CID]int), make(map[blockstore.CID]int)
		for ref := range t.Refs() {
			ours[i][ref.CID] = ref.Size
		}
		for _, f := range files {
			whole[i][blockstore.Sum(text[f.at:f.at+f.size])] = f.size
		}
		c := newChunks(512 << 10)
		w := tar.NewWriter(c)
		if err := errors.Join(writeTar(w, files, text), w.Close()); err != nil {
			return err
		}
		c.flush()
		fixed[i] = c.seen
	}
	r.section(fmt.Sprintf("an image of %d files built again: a package gone, two new, a hundred files edited, all times new", len(files)))
	ratio, n := newBytes(ours[0], ours[1])
	r.figure("rebuilt_new_ratio", "our blocks that are new", ratio, fmt.Sprintf("%d of %d blocks", n, len(ours[1])))
	ratio, _ = newBytes(fixed[0], fixed[1])
	r.row("rival: chunks of 512 KiB of the layer", ratio, "of the bytes", "")
	r.row("rival: the layer as an OCI blob", 1, "of the bytes", "its digest is another")
	ratio, n = newBytes(whole[0], whole[1])
	r.row("limit: file by file", ratio, "of the bytes", fmt.Sprintf("%d of %d files, each a block", n, len(whole[1])))
	return nil
}
