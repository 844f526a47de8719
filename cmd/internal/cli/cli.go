// Package cli is what Rialto's three commands share: how a main starts and ends ([Main]), how errors
// speak ([Hint], [Nearest], [Setup]), and how things look ([Printer], [Table], [Progress], units).
//
// Exit codes: 0 when all went well; 125 for an error of Rialto's own; 128+n when signal n ended the
// command (130 after Ctrl-C); any other code belongs to the container and comes in an [ExitError].
//
// Results go to stdout, all talk goes to stderr. Colours and moving bars appear only on a terminal,
// and never when NO_COLOR is set. Nothing here keeps state in the package.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// ExitOwn is the exit code of an error of Rialto's own, as container tools use it.
const ExitOwn = 125

// RunFunc is a whole command: what a main does, testable without a process.
type RunFunc func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// ExitError ends a command with a code and prints nothing more: the container exited with it.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// InterruptError is the cause of a context that a signal cancelled.
type InterruptError struct{ Signal syscall.Signal }

func (e *InterruptError) Error() string {
	if e.Signal == syscall.SIGINT {
		return "interrupted"
	}
	return fmt.Sprintf("ended by signal %d", int(e.Signal))
}

// Main runs a command with the process's arguments and outputs and returns its exit code. The first
// SIGINT or SIGTERM cancels the context with an [InterruptError]; the second one ends the process,
// unless the command listens for it itself.
func Main(name string, run RunFunc) int {
	ctx, stop := withSignals(context.Background())
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	return Report(ctx, os.Stderr, name, err)
}

// withSignals derives a context that ends with the first signal. The caller calls stop.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the first signal or with stop
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			number, ok := s.(syscall.Signal)
			if !ok {
				number = syscall.SIGINT
			}
			cancel(&InterruptError{Signal: number})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Report prints err for a person, with its hint, and returns the exit code that it stands for.
func Report(ctx context.Context, stderr io.Writer, name string, err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return exit.Code
	}
	interrupt, ok := errors.AsType[*InterruptError](err)
	if !ok && errors.Is(err, context.Canceled) {
		interrupt, ok = errors.AsType[*InterruptError](context.Cause(ctx))
	}
	if ok {
		fmt.Fprintf(stderr, "%s: %v\n", name, interrupt)
		return 128 + int(interrupt.Signal)
	}
	tone := newTones(stderr)
	fmt.Fprintf(stderr, "%s %v\n", tone.paint(Bad, name+":"), err)
	for _, hint := range hints(err) {
		fmt.Fprintf(stderr, "  %s %s\n", tone.paint(Dim, "→"), strings.ReplaceAll(hint, "\n", "\n    "))
	}
	return ExitOwn
}

// hintError carries advice beside an error without being part of its text.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }

func (e *hintError) Unwrap() error { return e.err }

// Hint adds what to do next to an error. The text of the error stays as it is; [Report] prints the
// hint on a line of its own. A nil error stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintError{err: err, hint: fmt.Sprintf(format, args...)}
}

// hints collects all advice in an error's chain, outermost first.
func hints(err error) []string {
	var all []string
	for err != nil {
		switch link := err.(type) { //nolint:errorlint // each link of the chain is looked at by itself
		case *hintError:
			all = append(all, link.hint)
		case interface{ Unwrap() []error }:
			for _, e := range link.Unwrap() {
				all = append(all, hints(e)...)
			}
		}
		err = errors.Unwrap(err)
	}
	return all
}
