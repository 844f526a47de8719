package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/cmd/internal/cli"
)

// uploads is how many blocks travel at once.
const uploads = 8

func (a *app) weightsCommand() *cobra.Command {
	c := &cobra.Command{Use: "weights", Short: "Bring directories of weights into containers", Example: "  rialto weights add ./llama --name llama"}
	add := &cobra.Command{
		Use:   "add DIR",
		Short: "Upload a directory as content-addressed blocks",
		Long: "Cut a directory into content-addressed blocks, upload those that the broker lacks, and remember the root\n" +
			"under a name for `rialto run --weights NAME:/path`. An interrupted upload goes on where it was.",
		Example: "  rialto weights add ./llama-3-8b --name llama\n  rialto run --weights llama:/models IMAGE",
		Args:    cli.Args(1, 1),
	}
	name := add.Flags().String("name", "", "name for the weights; the directory's unless given")
	added := a.jsonFlag(add)
	add.RunE = func(c *cobra.Command, args []string) error { return a.addWeights(c.Context(), args[0], *name, added) }
	ls := &cobra.Command{
		Use:     "ls",
		Short:   "List weights that were added on this machine",
		Example: "  rialto weights ls",
		Args:    cli.Args(0, 0),
	}
	listed := a.jsonFlag(ls)
	ls.RunE = func(*cobra.Command, []string) error {
		h, err := openHome(a.getenv)
		if err != nil {
			return err
		}
		all, err := h.weights()
		if err != nil {
			return err
		}
		return listed.Table(all, weightsTable(all))
	}
	c.AddCommand(add, ls)
	return c
}

func weightsTable(all map[string]weights) *cli.Table {
	t := &cli.Table{Columns: []cli.Column{{Title: "NAME"}, {Title: "SIZE", Align: cli.Right}, {Title: "ROOT"}, {Title: "FROM"}, {Title: "ADDED"}}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w := all[name]
		t.Add(name, cli.FormatBytes(w.Bytes), w.Root, w.From, w.Added.Local().Format(time.DateTime))
	}
	return t
}

func (a *app) addWeights(ctx context.Context, dir, name string, p *cli.Printer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if name == "" {
		name = filepath.Base(dir)
	}
	if !regexp.MustCompile(keyPattern).MatchString(name) {
		return fmt.Errorf("name %q: want 1 to 64 letters, digits, '.', '_' or '-'", name)
	}
	m, err := a.connect()
	if err != nil {
		return err
	}
	size, err := image.DirSize(dir)
	if err != nil {
		return err
	}
	progress := cli.NewProgress(a.stderr)
	defer progress.Close()
	up := &upload{market: m, bar: progress.Bar(name, size), size: size}
	root, err := up.dir(ctx, dir)
	if err != nil {
		return cli.Hint(explain(err), "the same command again goes on where it was")
	}
	up.bar.End()
	all, err := m.home.weights()
	if err != nil {
		return err
	}
	w := weights{Root: root.String(), Bytes: size, From: dir, Added: time.Now().UTC()}
	all[name] = w
	if err := m.home.save(all, "weights.json"); err != nil {
		return err
	}
	return p.Print(w, func(out io.Writer) error {
		_, err := fmt.Fprintf(out, "%s  %s\n", w.Root, name)
		return err
	})
}

// upload brings blocks to the broker, each once.
type upload struct {
	market *market
	bar    *cli.Bar
	size   int64
	done   atomic.Int64
	sent   atomic.Int64
}

// dir cuts a directory, uploads what is missing and returns the root.
func (u *upload) dir(ctx context.Context, dir string) (blockstore.CID, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	manifest, err := image.ImportDir(gctx, dir, func(_ context.Context, b blockstore.Block) error {
		g.Go(func() error { return u.put(gctx, b) })
		return gctx.Err()
	})
	if uploadErr := g.Wait(); uploadErr != nil {
		return blockstore.CID{}, uploadErr
	}
	if err != nil {
		return blockstore.CID{}, err
	}
	blocks, err := manifest.Blocks()
	if err != nil {
		return blockstore.CID{}, err
	}
	for _, b := range slices.Backward(blocks) { // the root last: where it is, everything is
		if err := u.put(ctx, b); err != nil {
			return blockstore.CID{}, err
		}
	}
	return blocks[0].CID(), nil
}

// put uploads one block unless the broker has it. A broker that is away for a moment is asked again.
func (u *upload) put(ctx context.Context, b blockstore.Block) error {
	has, err := retry(ctx, func() (bool, error) { return u.market.HasBlock(ctx, b.CID()) })
	if err != nil {
		return err
	}
	if !has {
		if _, err := retry(ctx, func() (struct{}, error) { return struct{}{}, u.market.PutBlock(ctx, b) }); err != nil {
			return err
		}
		u.sent.Add(int64(b.Size()))
	}
	u.bar.Set(u.done.Add(int64(b.Size())), u.size, "("+cli.FormatBytes(u.sent.Load())+" sent)")
	return nil
}

// completeWeights completes names of weights.
func (a *app) completeWeights(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	h, err := openHome(a.getenv)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := h.weights()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := slices.Sorted(maps.Keys(all))
	for i := range names {
		names[i] += ":/"
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
