package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"rialto/blockstore"
	"rialto/blockstore/image"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

// addedImage is what `rialto image add` prints.
type addedImage struct {
	Image  string `json:"image"` // to give to `rialto run`
	Digest string `json:"digest"`
	Root   string `json:"root"`
	Bytes  int64  `json:"bytes"` // of its files, or of its layers in the registry
	// IPFS has the large files of an image of this machine.
	IPFS []ipfsFile `json:"ipfs,omitempty"`
}

func (a *app) imageAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add IMAGE|LAYOUT-DIR|ARCHIVE.tar",
		Short: "Make an image's root known, so that hosts exchange its files block by block",
		Long: "An image in a registry is imported by the broker, which then vouches for its root; jobs that you start later\n" +
			"are signed with it. Jobs do this by themselves: the command only does it beforehand.\n\n" +
			"An OCI layout directory, or an archive that `docker save` wrote, is imported on this machine and uploaded to\n" +
			"the broker, so that an image can run that is in no registry: `rialto run local/NAME`. Whoever learns its root can\n" +
			"fetch it. An interrupted upload goes on where it was.",
		Example: "  rialto image add pytorch/pytorch:latest\n" +
			"  docker save mine -o mine.tar && rialto image add mine.tar && rialto run local/mine",
		Args: cli.Args(1, 1),
	}
	name := c.Flags().String("name", "", "name for an image of this machine; the directory's or the archive's unless given")
	tag := c.Flags().String("tag", "", "which image of an archive, such as mine:latest; the only one unless given")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		kind, err := kindOf(args[0])
		if err != nil {
			return err
		}
		if kind != dockerArchive && *tag != "" {
			return errors.New("--tag: only an archive of `docker save` has several images")
		}
		if kind == inRegistry && *name != "" {
			return errors.New("--name: an image in a registry has its name there")
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		var added addedImage
		if kind == inRegistry {
			added, err = a.buildImage(c.Context(), m, args[0])
		} else {
			added, err = a.addImage(c.Context(), m, kind, args[0], *name, *tag)
		}
		if err != nil {
			return err
		}
		return p.Print(added, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "image   %s\ndigest  %s\nroot    %s\n", added.Image, added.Digest, added.Root)
			return err
		})
	}
	return c
}

// imageKind is where an image is.
type imageKind int

const (
	inRegistry    imageKind = iota
	ociLayout               // an OCI layout directory
	dockerArchive           // a file of `docker save`
)

// kindOf tells a path from a reference: what is on this machine under the name is meant.
func kindOf(name string) (imageKind, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && (strings.HasPrefix(name, ".") || filepath.IsAbs(name) || strings.HasSuffix(name, ".tar")):
		return 0, err
	case err != nil:
		return inRegistry, nil //nolint:nilerr // then it is no path
	case !info.IsDir():
		return dockerArchive, nil
	}
	if _, err := os.Stat(filepath.Join(name, "oci-layout")); err != nil {
		return 0, cli.Hint(fmt.Errorf("%s: the directory is no OCI layout", name),
			"`rialto weights add` takes other directories; an image in a registry can be named with its registry, such as docker.io/library/%s", filepath.Base(name))
	}
	return ociLayout, nil
}

// buildImage asks the broker for the root of an image in a registry and waits for it.
func (a *app) buildImage(ctx context.Context, m *market, name string) (addedImage, error) {
	digest, err := resolveImage(ctx, name)
	if err != nil {
		return addedImage{}, err
	}
	built, err := m.BuildImage(ctx, name, digest)
	if err == nil && built.State == string(broker.BuildRunning) {
		built, err = a.awaitBuild(ctx, m, name, digest)
	}
	if err != nil {
		return addedImage{}, explain(err)
	}
	if built.State != string(broker.BuildReady) {
		return addedImage{}, cli.Hint(fmt.Errorf("image %s: the broker could not import it: %s", cli.Clean(name), cli.Clean(built.Error)),
			"it tries again when it is asked in a minute; a job can run all the same if its host reaches the registry")
	}
	return addedImage{Image: name, Digest: built.Digest, Root: built.Root, Bytes: built.Bytes}, nil
}

// awaitBuild shows how far the broker is until it is done.
func (a *app) awaitBuild(ctx context.Context, m *market, name, digest string) (api.Image, error) {
	progress := cli.NewProgress(a.stderr)
	defer progress.Close()
	bar := progress.Bar("the broker imports "+cli.Clean(name), 0)
	for attempt := 0; ; attempt++ {
		// Asking again changes nothing, unless the broker forgot, because it was started again.
		built, err := retry(ctx, func() (api.Image, error) { return m.BuildImage(ctx, name, digest) })
		if err != nil {
			return built, err
		}
		bar.Set(built.DoneBytes, built.Bytes, "")
		switch built.State {
		case string(broker.BuildRunning):
		case string(broker.BuildReady):
			bar.End()
			return built, nil
		default:
			return built, nil
		}
		if !backoff(ctx, min(attempt, 3)) {
			return built, cli.Hint(context.Cause(ctx), "the broker goes on without you; the same command waits for it again")
		}
	}
}

// addImage imports an image of this machine, uploads it and remembers it.
func (a *app) addImage(ctx context.Context, m *market, kind imageKind, from, name, tag string) (addedImage, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return addedImage{}, err
	}
	name = firstOf(name, strings.TrimSuffix(filepath.Base(from), ".tar"))
	if err := checkName(name); err != nil {
		return addedImage{}, cli.Hint(err, "--name gives it one")
	}
	var source *image.Source
	if kind == ociLayout {
		source, err = image.OpenLayout(from, blockstore.Digest{}, v1.Platform{})
	} else {
		source, err = image.OpenArchive(from, tag)
	}
	if err != nil {
		return addedImage{}, err
	}
	progress := cli.NewProgress(a.stderr)
	defer progress.Close()
	up := &upload{market: m, size: source.CompressedSize()}
	up.bar = progress.Bar(name, up.size)
	var got *image.Imported
	err = up.all(ctx, func(ctx context.Context, put putFunc) (err error) {
		got, err = source.Import(ctx, image.Import{Put: put, Read: up.read})
		return err
	})
	if err != nil {
		return addedImage{}, cli.Hint(explain(err), "the same command again goes on where it was")
	}
	up.bar.End()
	all, err := m.home.images()
	if err != nil {
		return addedImage{}, err
	}
	large, _ := ipfsFiles(got.Tree)
	all[name] = localImage{
		Digest: source.Digest().String(), Root: got.Root.String(), Bytes: got.Tree.Size(), From: from, Added: time.Now().UTC(),
		IPFS: large,
	}
	added := addedImage{
		Image: broker.LocalImage(name), Digest: all[name].Digest, Root: all[name].Root, Bytes: all[name].Bytes, IPFS: large,
	}
	return added, m.home.save(all, "images.json")
}

func (a *app) imageListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List images of this machine that were added",
		Example: "  rialto image ls",
		Args:    cli.Args(0, 0),
	}
	p := a.jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		h, err := openHome(a.getenv)
		if err != nil {
			return err
		}
		all, err := h.images()
		if err != nil {
			return err
		}
		return p.Table(all, imagesTable(all))
	}
	return c
}

func imagesTable(all map[string]localImage) *cli.Table {
	t := &cli.Table{Columns: []cli.Column{{Title: "IMAGE"}, {Title: "SIZE", Align: cli.Right}, {Title: "ROOT"}, {Title: "FROM"}, {Title: "ADDED"}}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		i := all[name]
		t.Add(broker.LocalImage(name), cli.FormatBytes(i.Bytes), i.Root, i.From, i.Added.Local().Format(time.DateTime))
	}
	return t
}
