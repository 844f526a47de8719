package main

import (
	"context"
	"errors"
	"fmt"
	"io"

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
		return "", cli.Hint(err, "check the name and the tag; a private image cannot be used, because hosts fetch without your password")
	}
	if err != nil {
		return "", err
	}
	return digest.String(), nil
}
