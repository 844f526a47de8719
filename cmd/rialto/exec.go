package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rialto/cmd/internal/cli"
	"rialto/tunnel/console"
)

func (a *app) execCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "exec JOB -- CMD…",
		Short:             "Run another process in a container",
		Long:              "Run another process in a running container. Its exit code becomes the command's. Flags stand before JOB;\nall that follows it is the process's.",
		Example:           "  rialto exec --last -- nvidia-smi\n  rialto exec -it j-4k2 -- bash\n  rialto exec -i --last -- tar x < data.tar",
		ValidArgsFunction: a.completeJobs(true),
	}
	c.Flags().SetInterspersed(false) // what follows the job is the process's
	ref := newJobRef(c)
	interactive := c.Flags().BoolP("interactive", "i", false, "pass stdin on")
	tty := c.Flags().BoolP("tty", "t", false, "give the process a terminal")
	env := c.Flags().StringArrayP("env", "e", nil, "set a variable, KEY=VALUE (may be repeated)")
	node := nodeFlag(c, "rank of the node, of a job that runs on several hosts; 0 is the first")
	workdir := c.Flags().StringP("workdir", "w", "", "working directory")
	c.RunE = func(c *cobra.Command, args []string) error {
		word, command, err := ref.split(c, ref.withoutDash(args), 1, -1)
		if err != nil {
			return err
		}
		for _, e := range *env {
			if _, err := parseEnv(e); err != nil {
				return fmt.Errorf("--env: %w", err)
			}
		}
		e := console.Exec{Args: command, Env: *env, Workdir: *workdir, Stdout: a.stdout, Stderr: a.stderr}
		if *interactive {
			e.Stdin = a.stdin
		}
		s, err := a.reach(c.Context(), word, *node, true)
		if err != nil {
			return err
		}
		defer s.close()
		if s.over {
			return fmt.Errorf("job %s has ended", s.lease.Job)
		}
		code, err := a.exec(c.Context(), s, e, *tty)
		if err != nil {
			return s.explain(err)
		}
		if code != 0 {
			return &cli.ExitError{Code: code}
		}
		return nil
	}
	return c
}

// exec runs the process, with our terminal as its own if wanted.
func (a *app) exec(ctx context.Context, s *session, e console.Exec, tty bool) (int, error) {
	if !tty {
		return s.console.Exec(ctx, e)
	}
	in, inOK := terminal(a.stdin)
	out, outOK := terminal(a.stdout)
	if !inOK || !outOK {
		return 0, cli.Hint(errors.New("--tty: stdin or stdout is not a terminal"), "leave -t away to pass data through pipes")
	}
	size := func() console.Size {
		columns, rows, err := term.GetSize(out)
		if err != nil {
			return console.Size{Rows: 24, Cols: 80}
		}
		return console.Size{Rows: uint16(rows), Cols: uint16(columns)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.TTY, e.Size, e.Resize = true, size(), resizes(ctx, size)
	before, err := term.MakeRaw(in)
	if err != nil {
		return 0, fmt.Errorf("--tty: %w", err)
	}
	code, err := s.console.Exec(ctx, e)
	return code, errors.Join(err, term.Restore(in, before))
}

// terminal returns the descriptor of a stream that is a terminal.
func terminal(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}
