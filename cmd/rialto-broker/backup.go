package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"rialto/broker/ledger"
	"rialto/cmd/internal/cli"
)

func backupCommand(state *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy the key and the ledger into a new state directory and audit the copy; the broker must be stopped",
		Long: "Copy the broker's key and ledger into a new state directory, and audit the original and the copy: they\n" +
			"must agree on the journal's head and on every sum. To restore, run the broker with --state DIR. Weights that\n" +
			"customers uploaded are not copied; they can be uploaded again.",
		Example: "  rialto-broker backup /mnt/backup/market --state /var/lib/rialto-broker\n" +
			"  rialto-broker audit --state /mnt/backup/market",
		Args: cli.Args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := backup(c.Context(), stateDir(*state), args[0])
			if err != nil {
				return err
			}
			p := cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}
			if !asJSON {
				if _, err := fmt.Fprintf(p.Out, "verified   %s is the same as %s\n", args[0], *state); err != nil {
					return err
				}
			}
			return printAudit(p, r)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// backup copies a stopped broker's state. The copy gets its name when it is whole and verified.
func backup(ctx context.Context, from stateDir, to string) (r ledger.Report, err error) {
	to = filepath.Clean(to)
	source, err := openStopped(ctx, from)
	if err != nil {
		return r, err
	}
	defer closing(&err, source)
	want, err := ledger.Audit(ctx, source)
	if err != nil {
		return r, openHint(err)
	}
	if entries, err := os.ReadDir(to); err == nil && len(entries) > 0 {
		return r, cli.Hint(fmt.Errorf("%s is not empty", to), "choose a directory that does not exist")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	partial, err := os.MkdirTemp(filepath.Dir(to), filepath.Base(to)+".partial-")
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	copied := stateDir(partial)
	if err := copyState(ctx, copied, from, source); err != nil {
		return r, err
	}
	if r, err = auditStopped(ctx, copied); err != nil {
		return r, fmt.Errorf("audit of the copy: %w", err)
	}
	if r != want {
		return r, fmt.Errorf("the copy ends at batch %d %.16x, the original at %d %.16x: %w", r.Batches, r.Head, want.Batches, want.Head, ledger.ErrCorrupt)
	}
	if err := os.Rename(partial, to); err != nil {
		return r, err
	}
	return r, syncDir(filepath.Dir(to))
}

func copyState(ctx context.Context, to, from stateDir, source ledger.Store) (err error) {
	key, err := os.ReadFile(from.keyPath())
	if err != nil {
		return err
	}
	if err := writeSynced(to.keyPath(), key); err != nil {
		return err
	}
	s, err := ledger.Open(ctx, ledger.Config{Dir: to.ledger()})
	if err != nil {
		return openHint(err)
	}
	defer closing(&err, s)
	if err := ledger.Copy(ctx, s, source); err != nil {
		return fmt.Errorf("copy the ledger: %w", err)
	}
	return syncDir(string(to))
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
