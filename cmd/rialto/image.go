package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"

	"rialto/blockstore/image"
	"rialto/cmd/internal/cli"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Look at container images", Example: "  rialto image resolve python:3.13"}
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
	c.AddCommand(resolve)
	return c
}

// resolveImage asks the registry which digest a reference means, so that nobody can change what runs
// between now and then. Providers fetch anonymously, so it asks anonymously too.
func resolveImage(ctx context.Context, reference string) (string, error) {
	digest, err := image.Registry{}.Resolve(ctx, reference)
	if errors.Is(err, image.ErrNoImage) {
		return "", cli.Hint(registryAnswer(reference, err), "check the name and the tag; a private image cannot be used, because hosts fetch without your password")
	}
	if unreachable, ok := errors.AsType[*net.OpError](err); ok {
		return "", cli.Hint(fmt.Errorf("image %s: its registry cannot be reached: %w", cli.Clean(reference), unreachable), "check the name of the registry, and your network")
	}
	if err != nil {
		return "", err
	}
	return digest.String(), nil
}

// registryAnswer says what a registry without the image answered, in its own words but not all of them.
func registryAnswer(reference string, err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok || len(answer.Errors) == 0 {
		return err
	}
	text := cmp.Or(answer.Errors[0].Message, string(answer.Errors[0].Code))
	return fmt.Errorf("image %s: its registry does not have it: %s", cli.Clean(reference), cli.Clean(text))
}
