// Labctl runs the whole of Rialto on one machine: a demonstration, a market to play with, a benchmark; and a market that
// is simulated.
// The Makefile calls it; see `make help`.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rialto/blockstore/mount"
	"rialto/broker/markettest/sim"
	"rialto/cmd/internal/lab"
	"rialto/cmd/internal/lab/blocks"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == blocks.MountVerb {
		os.Exit(mount.ServerMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "labctl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("labctl", flag.ContinueOnError)
	bin := fs.String("bin", "bin", "`directory` of the programs")
	rounds := fs.Int("rounds", 5, "rounds of the benchmark")
	tunnel := fs.String("tunnel", "", "`file` with the output of the tunnel's benchmark, to be shown beside")
	scale := fs.Float64("scale", 0.1, "`size` of the largest inputs of the benchmark of blocks; 1 is full size")
	gobench := fs.String("gobench", "", "`file` with the output of the Go benchmarks of blocks, to be shown beside")
	parts := fs.String("parts", "", "`parts` of the benchmark of blocks, of chunks,trees,start; all if empty")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.Arg(0) == "sim" {
		return simulate(fs.Args()[1:], stdout)
	}
	abs, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "rialto-lab-")
	if err != nil {
		return err
	}
	cfg := lab.Config{Bin: abs, Work: work}
	switch fs.Arg(0) {
	case "demo":
		return lab.Demo(ctx, cfg, stdout)
	case "dev":
		return lab.Dev(ctx, cfg, stdout)
	case "bench":
		return lab.Bench(ctx, cfg, *rounds, *tunnel, stdout)
	case "blocks":
		only := strings.FieldsFunc(*parts, func(r rune) bool { return r == ',' })
		return blocks.Run(ctx, blocks.Config{Lab: cfg, Scale: *scale, Bench: *gobench, Parts: only}, stdout)
	default:
		return errors.Join(errors.New("usage: labctl [-bin DIR] demo | dev | bench | blocks | sim"), os.RemoveAll(work))
	}
}

// simulate prints what became of simulated markets.
func simulate(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("labctl sim", flag.ContinueOnError)
	var cfg sim.Config
	fs.IntVar(&cfg.Seeds, "seeds", 10, "how many simulations of each policy")
	fs.Uint64Var(&cfg.First, "first", 1, "the first `seed`")
	fs.IntVar(&cfg.Hosts, "hosts", 60, "hosts of a simulation")
	fs.DurationVar(&cfg.Span, "span", 48*time.Hour, "`time` in which jobs arrive")
	fs.Float64Var(&cfg.Load, "load", 0.6, "GPU time wanted over GPU time there is")
	fs.IntVar(&cfg.AuditEvery, "audit", 0, "audit all of the market after every so many `steps`; 0: at the end")
	asJSON := fs.Bool("json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("sim takes no argument %q", fs.Arg(0))
	}
	report, err := sim.Run(cfg)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(stdout).Encode(report)
	}
	_, err = fmt.Fprint(stdout, report)
	return err
}
