package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// goFor runs the go command for the customer's build on another system.
func goFor(t *testing.T, goos string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("GOOS=%s go %s: %v\n%s", goos, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestDeps keeps the customer's command light: it speaks HTTP to the broker and WireGuard to the job.
func TestDeps(t *testing.T) {
	forbidden := []string{
		"github.com/libp2p/", "github.com/quic-go/", "github.com/ipfs/boxo", "github.com/dgraph-io/",
		"github.com/NVIDIA/", "github.com/opencontainers/runc", "github.com/opencontainers/cgroups",
		"rialto/broker/ledger", "rialto/broker/service", "rialto/provider/", "runtime/cgo",
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for pkg := range strings.Lines(goFor(t, goos, "list", "-deps", ".")) {
			pkg = strings.TrimSpace(pkg)
			for _, f := range forbidden {
				if pkg == f || strings.HasPrefix(pkg, f) {
					t.Errorf("GOOS=%s: the customer's command depends on %s", goos, pkg)
				}
			}
		}
	}
}

// TestBuildsEverywhere type-checks the command for the other systems that customers use.
func TestBuildsEverywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for two more systems")
	}
	for _, goos := range []string{"darwin", "windows"} {
		goFor(t, goos, "vet", ".")
	}
}

// TestEveryCommandShowsExamples holds what a person reads first.
func TestEveryCommandShowsExamples(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || !strings.Contains(c.Example, "rialto ") {
			t.Errorf("%s: no summary or no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
}
