package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/cmd/internal/cli"
)

func (a *app) weightsCommand() *cobra.Command {
	c := &cobra.Command{Use: "weights", Short: "Bring directories of weights into containers", Example: "  rialto weights add ./llama --name llama"}
	add := &cobra.Command{
		Use:   "add DIR|FILE",
		Short: "Upload a directory or a file as content-addressed blocks",
		Long: "Cut weights into content-addressed blocks, upload those that the broker lacks, and remember the root under\n" +
			"a name for `rialto run --weights NAME:/path`. A model's directory in the cache of Hugging Face's hub stands for\n" +
			"its present snapshot. An interrupted upload goes on where it was.\n\n" +
			"Files of 64 KiB and more are shown with the CID that `ipfs add` gives them under the profile unixfs-v1-2025:\n" +
			"a host that holds them serves them to any IPFS node that is connected to it.\n\n" + privacy,
		Example: "  rialto weights add ./llama-3-8b --name llama\n  rialto weights add --private ./ours\n  rialto run --weights llama:/models IMAGE",
		Args:    cli.Args(1, 1),
	}
	name := add.Flags().String("name", "", "name for the weights; the directory's unless given")
	private := add.Flags().Bool("private", false, "encrypt the weights: only hosts that run a job with them can read them")
	added := a.jsonFlag(add)
	add.RunE = func(c *cobra.Command, args []string) error {
		return a.addWeights(c.Context(), args[0], *name, *private, added)
	}
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
	t := &cli.Table{Columns: []cli.Column{{Title: "NAME"}, {Title: "SIZE", Align: cli.Right}, {Title: "PRIVATE"}, {Title: "ROOT"}, {Title: "FROM"}, {Title: "ADDED"}}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w := all[name]
		t.Add(name, cli.FormatBytes(w.Bytes), yesNo(w.Private), w.Root, w.From, w.Added.Local().Format(time.DateTime))
	}
	return t
}

func (a *app) addWeights(ctx context.Context, dir, name string, private bool, p *cli.Printer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	name = firstOf(name, filepath.Base(dir))
	if err := checkName(name); err != nil {
		return err
	}
	m, err := a.connect()
	if err != nil {
		return err
	}
	from, err := image.OpenWeights(dir)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // it was only read
	progress := cli.NewProgress(a.stderr)
	defer progress.Close()
	up := &upload{market: m, bar: progress.Bar(name, from.Size), size: from.Size}
	var salt blockstore.Salt
	if private {
		if salt, err = m.home.salt(); err != nil {
			return err
		}
	}
	var root blockstore.CID
	var key blockstore.Key
	err = up.all(ctx, func(ctx context.Context, put putFunc) (err error) {
		counted := func(ctx context.Context, b blockstore.Block) error {
			up.read(b.Size())
			return put(ctx, b)
		}
		if private {
			root, key, err = from.ImportPrivate(ctx, salt, counted)
		} else {
			root, err = from.Import(ctx, counted)
		}
		return err
	})
	if err != nil {
		return cli.Hint(explain(err), "the same command again goes on where it was")
	}
	up.bar.End()
	all, err := m.home.weights()
	if err != nil {
		return err
	}
	w := weights{Root: root.String(), Bytes: from.Size, From: dir, Added: time.Now().UTC(), Private: private}
	w.IPFS, w.Files = ipfsFiles(from.Tree())
	if private {
		if err := m.home.saveBlockKey(root, key); err != nil {
			return err
		}
	}
	all[name] = w
	if err := m.home.save(all, "weights.json"); err != nil {
		return err
	}
	return p.Print(w, func(out io.Writer) error {
		fmt.Fprintf(out, "%s  %s\n", w.Root, name)
		return printIPFS(out, w.IPFS)
	})
}

// printIPFS shows by which CIDs IPFS knows large files.
func printIPFS(out io.Writer, files []ipfsFile) error {
	var err error
	for _, f := range files {
		_, err = fmt.Fprintf(out, "ipfs  %s  %s\n", f.CID, cli.Clean(f.Path))
	}
	return err
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
