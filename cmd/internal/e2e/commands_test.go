package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rialto/cmd/internal/lab"
)

type command = func(ts *testscript.TestScript, neg bool, args []string)

func (w *world) commands() map[string]command {
	return map[string]command{
		"rialto":    w.rialto,
		"exit":      w.exit,
		"start":     w.start,
		"interrupt": w.interrupt,
		"await":     w.await,
		"until":     w.until,
		"keep":      w.keep,
		"crash":     func(ts *testscript.TestScript, _ bool, args []string) { w.proc(ts, args).Kill() },
		"halt":      func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(w.proc(ts, args).Stop()) },
		"boot":      w.boot,
		"forget":    w.forget,
		"fetch":     w.fetch,
		"layout":    w.layout,
		"hides":     w.hides,
		"locked":    w.locked,
		"custodial": w.custodial,
		"vast":      w.vast,
		"vastuntil": w.vastuntil,
		"output":    w.output,
		"take":      w.take,
		"vastai":    w.vastai,
		"owner":     w.owner,
	}
}

func (w *world) rialto(ts *testscript.TestScript, neg bool, args []string) {
	cmd := w.Customer.Rialto(context.Background(), args...)
	err := ts.Exec(cmd.Args[0], cmd.Args[1:]...)
	if neg && err == nil {
		ts.Fatalf("rialto succeeded and should not")
	}
	if !neg && err != nil {
		ts.Fatalf("rialto: %v", err)
	}
}

func (w *world) exit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || args[1] != "rialto" {
		ts.Fatalf("usage: exit CODE rialto ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := w.Customer.Rialto(context.Background(), args[2:]...)
	err = ts.Exec(cmd.Args[0], cmd.Args[1:]...)
	got := 0
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		got = ee.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func (w *world) start(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 1 || args[0] != "rialto" || w.started != nil {
		ts.Fatalf("usage: start rialto ARGS…, one at a time")
	}
	cmd := w.Customer.Rialto(context.Background(), args[1:]...)
	cmd.Env = append(os.Environ(), "RIALTO_HOME="+w.Customer.Home(), "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	ts.Check(cmd.Start())
	w.started = cmd
}

func (w *world) interrupt(ts *testscript.TestScript, _ bool, _ []string) {
	if w.started == nil {
		ts.Fatalf("nothing was started")
	}
	ts.Check(w.started.Process.Signal(os.Interrupt))
}

// await leaves what the background command printed in the files "stdout" and "stderr" of the script.
func (w *world) await(ts *testscript.TestScript, neg bool, _ []string) {
	cmd := w.started
	if cmd == nil {
		ts.Fatalf("nothing was started")
	}
	w.started = nil
	err := cmd.Wait()
	for name, out := range map[string]any{"out": cmd.Stdout, "err": cmd.Stderr} {
		text := fmt.Sprint(out)
		ts.Logf("[%s]\n%s", name, text)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
	if (err != nil) != neg {
		ts.Fatalf("rialto in the background: %v", err)
	}
}

func (w *world) until(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 || args[1] != "rialto" && args[1] != "vastai" && args[1] != "provider" {
		ts.Fatalf("usage: until PATTERN rialto|vastai|provider ARGS…")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		cmd := w.Customer.Rialto(context.Background(), args[2:]...)
		switch args[1] {
		case "vastai":
			cmd = w.vastClient(ts, args[2:])
		case "provider":
			cmd = w.agent(ts, args[2]).Owner(context.Background(), args[3:]...)
		}
		out, err := cmd.CombinedOutput()
		if err == nil && want.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q did not come: %v\n%s", args[0], err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) keep(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 4 || args[2] != "rialto" {
		ts.Fatalf("usage: keep NAME PATTERN rialto ARGS…")
	}
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	out, err := w.Customer.Rialto(context.Background(), args[3:]...).Output()
	ts.Check(err)
	found := want.FindSubmatch(out)
	if len(found) != 2 {
		ts.Fatalf("no %q in\n%s", args[1], out)
	}
	ts.Setenv(args[0], string(found[1]))
}

func (w *world) agent(ts *testscript.TestScript, name string) *lab.Agent {
	for _, a := range w.Agents {
		if a.Host.Name == name {
			return a
		}
	}
	ts.Fatalf("no agent %q", name)
	return nil
}

func (w *world) proc(ts *testscript.TestScript, args []string) *lab.Proc {
	if len(args) != 1 {
		ts.Fatalf("whom?")
	}
	if args[0] == "broker" {
		return w.Market.Proc
	}
	return w.agent(ts, args[0]).Proc
}

func (w *world) boot(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("whom?")
	}
	if args[0] == "broker" {
		ts.Check(w.Market.Start(context.Background()))
		return
	}
	ts.Check(w.agent(ts, args[0]).Start(context.Background(), w.Market, args[1:]...))
}

func (w *world) forget(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("whom?")
	}
	ts.Check(w.Forget(context.Background(), w.agent(ts, args[0])))
}

func (w *world) fetch(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: fetch URL TEXT")
	}
	page, err := w.Customer.Host.Poll(context.Background(), args[0])
	ts.Check(err)
	if !strings.Contains(page, args[1]) {
		ts.Fatalf("%s: no %q in %q", args[0], args[1], page)
	}
	ts.Check(os.WriteFile(filepath.Join(ts.MkAbs("."), "page"), []byte(page), 0o600))
}
