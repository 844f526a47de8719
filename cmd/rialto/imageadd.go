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

	Private bool   `json:"private,omitempty"`
	KeyFile string `json:"key_file,omitempty"` // of a private image

	LeftOut int `json:"left_out,omitempty"` // device nodes, pipes and extended attributes of an image of this machine
}

func (a *app) imageAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add IMAGE|LAYOUT-DIR|ARCHIVE.tar",
		Short: "Make an image's root known, so that hosts exchange its files block by block",
		Long: "An image in a registry is imported by the broker, which then vouches for its root; jobs that you start later\n" +
			"are signed with it. Jobs do this by themselves: the command only does it beforehand.\n\n" +
			"An OCI layout directory, or an archive that `docker save` wrote, is imported on this machine and uploaded to\n" +
			"the broker, so that an image can run that is in no registry: `rialto run local/NAME`. Whoever learns its root can\n" +
			"fetch it. An interrupted upload goes on where it was.\n\n" + privacy,
		Example: "  rialto image add pytorch/pytorch:latest\n" +
			"  docker save mine -o mine.tar && rialto image add --private mine.tar && rialto run local/mine",
		Args: cli.Args(1, 1),
	}
	name := c.Flags().String("name", "", "name for an image of this machine; the directory's or the archive's unless given")
	private := c.Flags().Bool("private", false, "encrypt the image of this machine: only hosts that run it can read it")
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
		if kind == inRegistry && *private {
			return cli.Hint(errors.New("--private: an image in a registry is the registry's to keep private"),
				"`docker save %s -o image.tar`, then `rialto image add --private image.tar`", args[0])
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		var added addedImage
		if kind == inRegistry {
			added, err = a.buildImage(c.Context(), m, args[0])
		} else {
			added, err = a.addImage(c.Context(), m, localSource{kind: kind, from: args[0], name: *name, tag: *tag, private: *private})
		}
		if err != nil {
			return err
		}
		return p.Print(added, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "image   %s\ndigest  %s\nroot    %s\n", added.Image, added.Digest, added.Root)
			if err == nil && added.Private {
				_, err = fmt.Fprintf(w, "key     %s\n", added.KeyFile)
			}
			if err == nil && added.LeftOut > 0 {
				_, err = fmt.Fprintf(w, "%d device nodes, pipes or extended attributes that containers must not bring were left out\n", added.LeftOut)
			}
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

// privacy is what --private does.
const privacy = "With --private this machine encrypts before anything leaves it, names included; the key stays here, in the folder\n" +
	"of your Rialto key, and goes to each host that you lease, through the job's tunnel. Back the folder up: nobody\n" +
	"else has the key. Brokers and other hosts see how many blocks there are, how large they are, and which of them your\n" +
	"private images share. The host that runs a job can read what it runs."

// localSource is an image of this machine.
type localSource struct {
	kind            imageKind
	from, name, tag string
	private         bool
}

// open returns the image.
func (s localSource) open() (*image.Source, error) {
	if s.kind == ociLayout {
		return image.OpenLayout(s.from, blockstore.Digest{}, v1.Platform{})
	}
	return image.OpenArchive(s.from, s.tag)
}

// addImage imports an image of this machine, uploads it and remembers it.
func (a *app) addImage(ctx context.Context, m *market, what localSource) (addedImage, error) {
	var err error
	if what.from, err = filepath.Abs(what.from); err != nil {
		return addedImage{}, err
	}
	name := firstOf(what.name, strings.TrimSuffix(filepath.Base(what.from), ".tar"))
	if err := checkName(name); err != nil {
		return addedImage{}, cli.Hint(err, "--name gives it one")
	}
	source, err := what.open()
	if err != nil {
		return addedImage{}, err
	}
	to := image.Import{}
	if what.private {
		salt, err := m.home.salt()
		if err != nil {
			return addedImage{}, err
		}
		to.Salt = &salt
	}
	progress := cli.NewProgress(a.stderr)
	defer progress.Close()
	up := &upload{market: m, size: source.CompressedSize()}
	up.bar = progress.Bar(name, up.size)
	var got *image.Imported
	err = up.all(ctx, func(ctx context.Context, put putFunc) (err error) {
		to.Put, to.Read = put, up.read
		got, err = source.Import(ctx, to)
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
		Digest: source.Digest().String(), Root: got.Root.String(), Bytes: got.Tree.Size(), From: what.from, Added: time.Now().UTC(),
		IPFS: large, Private: what.private,
	}
	added := addedImage{
		Image: broker.LocalImage(name), Digest: all[name].Digest, Root: all[name].Root, Bytes: all[name].Bytes, IPFS: large, Private: what.private,
		LeftOut: got.Skipped,
	}
	if what.private {
		if err := m.home.saveBlockKey(got.Root, got.Key); err != nil {
			return addedImage{}, err
		}
		added.KeyFile = m.home.keyFile(got.Root)
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

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func imagesTable(all map[string]localImage) *cli.Table {
	t := &cli.Table{Columns: []cli.Column{{Title: "IMAGE"}, {Title: "SIZE", Align: cli.Right}, {Title: "PRIVATE"}, {Title: "ROOT"}, {Title: "FROM"}, {Title: "ADDED"}}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		i := all[name]
		t.Add(broker.LocalImage(name), cli.FormatBytes(i.Bytes), yesNo(i.Private), i.Root, i.From, i.Added.Local().Format(time.DateTime))
	}
	return t
}
