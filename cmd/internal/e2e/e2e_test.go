// Package e2e holds the whole-system scripts: the real programs, each on a host of its own, a real registry
// and real containers. The scripts in testdata read like a customer's and an operator's day.
//
// Beside testscript's own commands they have:
//
//	rialto ARGS…             the customer's command; "! rialto" wants it to fail
//	exit CODE rialto ARGS…   the same, wanting this exit code
//	start rialto ARGS…       the same in the background; "await" waits for it
//	interrupt                sends Ctrl-C to what was started
//	await                    waits for what was started and takes its output
//	until PATTERN rialto|vastai ARGS…  repeats a command until its output matches
//	until PATTERN provider HOST ARGS…  likewise, the owner's command on a host
//	crash|halt|boot WHO      kill -9, SIGTERM or start of "broker", "alpha", "bravo" or "charlie"
//	boot HOST FLAG…          starts an agent with flags for this time
//	forget HOST              restarts an agent without its blocks
//	fetch URL TEXT           fetches a page on the customer's host until it contains TEXT
//	layout DIR OUT           makes an OCI layout of the lab's image with the files of DIR on top
//	hides WHO TEXT           looks for TEXT in every file that "broker" or a host has on its disk, and must not find it;
//	                         "! hides" must
//	locked HOST              waits until a host shows no private image or weights any more
//	custodial NAME DOLLARS   opens an account whose key the broker holds; its token is in KEY
//	vast METHOD PATH [BODY]  asks as a client of Vast does; the answer is in the file "answer"
//	vastuntil PATTERN METHOD PATH [BODY]  repeats that until the answer matches
//	output PATTERN PATH BODY asks for an instance's output and fetches it until it matches
//	vastai ARGS…             Vast's own command line, with the key in KEY; what it prints is in the file "answer"
//	owner HOST               makes a key for the owner of a host; it is in KEY
//	keep NAME PATTERN rialto ARGS…  keeps the first match of the group in PATTERN in the variable NAME
//	take NAME KEY            keeps what the answer says of KEY in the variable NAME
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"rialto/cmd/internal/lab"
)

func TestScripts(t *testing.T) {
	w := newWorld(t)
	testscript.RunT(serial{t}, testscript.Params{
		Dir:   "testdata",
		Setup: func(env *testscript.Env) error { return w.setup(env) },
		Cmds:  w.commands(),
	})
}

// serial runs one script after the other: they share one world and crash it.
type serial struct{ *testing.T }

func (serial) Parallel() {}

func (serial) Verbose() bool { return testing.Verbose() }

func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

// world is the lab and what the running script started in it.
type world struct {
	*lab.World
	started *exec.Cmd
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a whole world; not with -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces and containers")
	}
	for _, p := range []string{"docker-registry", "debootstrap", "ip", "nsenter"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: make deps", p)
		}
	}
	bin := os.Getenv("RIALTO_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "..", "bin")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "runc")); err != nil {
		t.Skip("needs the built programs: make build")
	}
	// Not t.TempDir: socket paths below it would be longer than the kernel allows.
	work, err := os.MkdirTemp("", "rialto-e2e-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.NewWorld(context.Background(), lab.Config{Bin: bin, Work: work, Name: "e2e", Broker: []string{"--min-run", "3s", "--notice", "20s"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"broker", "alpha", "bravo", "charlie"} {
				t.Logf("%s:\n%s", name, l.Tail(name))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		left, err := l.Leftovers()
		if err != nil {
			t.Error(err)
		}
		for _, s := range left {
			t.Errorf("left over: %s", s)
		}
	})
	return &world{World: l}
}

// endStarted ends what a script started and, because it failed, did not await.
func (w *world) endStarted() {
	if w.started != nil {
		_ = w.started.Process.Kill()
		_ = w.started.Wait()
		fmt.Printf("not awaited: %v\n%v\n%v\n", w.started.Args, w.started.Stdout, w.started.Stderr)
		w.started = nil
	}
}

func (w *world) setup(env *testscript.Env) error {
	env.Defer(w.endStarted)
	env.Setenv("RIALTO_HOME", w.Customer.Home())
	env.Setenv("IMAGE", w.Ref)
	env.Setenv("BROKER", w.Market.URL)
	env.Setenv("NO_COLOR", "1")
	return nil
}
