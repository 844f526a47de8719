package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "image", Short: "Bring images to the market, and look at them",
		Example: "  rialto image add ./image.tar --name mine\n  rialto image resolve python:3.13",
	}
	resolve := &cobra.Command{
		Use:     "resolve REF",
		Short:   "Ask a registry which digest a reference means now",
		Example: "  rialto image resolve python:3.13",
		Args:    cli.Args(1, 1),
	}
	p := a.jsonFlag(resolve)
	resolve.RunE = func(c *cobra.Command, args []string) error {
		digest, err := resolveImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		return p.Print(map[string]string{"image": args[0], "digest": digest}, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, digest)
			return err
		})
	}
	c.AddCommand(a.imageAddCommand(), a.imageListCommand(), resolve, a.imageTraceCommand())
	return c
}

// resolveImage asks the registry which digest a reference means.
func resolveImage(ctx context.Context, reference string) (string, error) {
	digest, err := tenant.Resolve(ctx, image.Registry{}, reference)
	if err != nil {
		return "", err
	}
	return digest.String(), nil
}

// imageRef is what an image's name means now.
type imageRef struct {
	digest string
	root   string // CID; empty: nobody vouches for one

	private bool // digest is the root's own
}

// findImage looks for an image on this machine or asks its registry. Roots are known of images of this machine alone.
func (h home) findImage(ctx context.Context, name string) (imageRef, error) {
	if !broker.IsLocalImage(name) {
		digest, err := resolveImage(ctx, name)
		return imageRef{digest: digest}, err
	}
	all, err := h.images()
	if err != nil {
		return imageRef{}, err
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if names = append(names, broker.LocalImage(n)); name == names[len(names)-1] {
			return all[n].ref()
		}
	}
	err = fmt.Errorf("image %s: not known on this machine", cli.Clean(name))
	if near, ok := cli.Nearest(name, names); ok {
		return imageRef{}, cli.Hint(err, "did you mean %s?", near)
	}
	return imageRef{}, cli.Hint(err, "`rialto image add LAYOUT-DIR|ARCHIVE.tar --name NAME` adds images of this machine")
}

// ref is what jobs are signed with.
func (i localImage) ref() (imageRef, error) {
	if !i.Private {
		return imageRef{digest: i.Digest, root: i.Root}, nil
	}
	root, err := blockstore.ParseCID(i.Root)
	if err != nil {
		return imageRef{}, err
	}
	return imageRef{digest: root.Digest().String(), root: i.Root, private: true}, nil
}

// vouchedPatience is how long a job waits to hear whether the broker vouches for its image: it can do without.
const vouchedPatience = 2 * time.Second

// findVouched is findImage, and asks the broker for the root of a registry's image.
func (m *market) findVouched(ctx context.Context, name string) (imageRef, error) {
	found, err := m.home.findImage(ctx, name)
	if err != nil {
		return found, err
	}
	if broker.IsLocalImage(name) {
		return found, m.holds(ctx, name, found.root)
	}
	ctx, cancel := context.WithTimeout(ctx, vouchedPatience)
	defer cancel()
	known, err := m.Image(ctx, found.digest)
	if err != nil || known.State != string(broker.BuildReady) {
		return found, nil // then hosts import the image
	}
	if _, err := blockstore.ParseCID(known.Root); err != nil {
		return found, fmt.Errorf("broker's answer: root of image %s: %w", cli.Clean(name), err)
	}
	found.root = known.Root
	return found, nil
}

// holds makes sure that hosts can get an image of this machine from the broker: it may be another one than the image
// was uploaded to.
func (m *market) holds(ctx context.Context, name, root string) error {
	cid, err := blockstore.ParseCID(root)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	has, err := m.HasBlock(ctx, cid)
	if err == nil && !has {
		return cli.Hint(fmt.Errorf("image %s: the broker at %s does not hold it", name, m.url), "`rialto image add` uploads it there")
	}
	return explain(err)
}

// completeImages completes names of images of this machine.
func (a *app) completeImages(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	h, err := openHome(a.getenv)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := h.images()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := slices.Sorted(maps.Keys(all))
	for i := range names {
		names[i] = broker.LocalImage(names[i])
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
