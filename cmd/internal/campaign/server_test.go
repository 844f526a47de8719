//go:build linux

package campaign

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// life is one life of a host, for tests that tell it what to do.
type life struct {
	tb   testing.TB
	dir  string
	host *process
}

func newLife(tb testing.TB, dir string) *life {
	tb.Helper()
	h, err := startHost(dir, 200<<20)
	if err != nil {
		tb.Fatal(err)
	}
	l := &life{tb, dir, h}
	tb.Cleanup(func() {
		h.kill()
		cleanUp(tb, dir)
	})
	l.await(func(e event) bool { return e.Event == evReady })
	return l
}

// await returns the first event of its kind.
func (l *life) await(last func(event) bool) event {
	l.tb.Helper()
	for limit := time.After(time.Minute); ; {
		e, err := l.host.next(limit)
		if err != nil {
			l.tb.Fatalf("%v\n%s", err, l.host.said())
		}
		if last(e) {
			return e
		}
	}
}

func (l *life) order(o order) {
	l.tb.Helper()
	if err := l.host.order(o); err != nil {
		l.tb.Fatal(err)
	}
}

// ensure wants something under a name, and returns where it is shown.
func (l *life) ensure(name string, t *thing) string {
	l.tb.Helper()
	l.order(order{Op: opEnsure, Name: name, Want: t.want})
	e := l.await(func(e event) bool { return e.Name == name })
	if e.Event != evShown {
		l.tb.Fatalf("%+v\n%s", e, l.host.said())
	}
	return e.Dir
}

// seal returns when a thing is shown without the server.
func (l *life) seal(name string, t *thing) string {
	l.tb.Helper()
	for {
		if dir := l.ensure(name, t); strings.Contains(dir, "/sealed-") {
			return dir
		}
		l.order(order{Op: opRelease, Name: name})
	}
}

// end ends the host as it should, and wants nothing to be left.
func (l *life) end() {
	l.tb.Helper()
	if err := l.host.end(); err != nil {
		l.tb.Error(err)
	}
	for _, rest := range left(l.dir) {
		l.tb.Error(rest)
	}
}

// TestServerIsKilled: who reads what is not sealed gets errors and nothing else, who reads what is sealed notices
// nothing, and who wants the same again gets it, though others hold on to the dead mount.
func TestServerIsKilled(t *testing.T) {
	w := newWorld(t)
	whole := w.addImage(t, "whole", some(1, "whole", 1<<20, 50))
	late := w.addWeights(t, "late", some(2, "late", 12<<20, 5))
	l := newLife(t, filepath.Join(t.TempDir(), "host"))
	sealed := l.seal("first", whole)
	steady := read(t, new(watch), whole.files, sealed, 2, 1)
	lazy := l.ensure("second", late)
	torn := read(t, new(watch), late.files, lazy, 4, 2)
	pid := serverPID(l.dir)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnd(pid)
	if err := late.files.compare(lazy); !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("compared what has no server: %v", err)
	}
	_, failed, wrong, last := torn.stop()
	t.Logf("%d reads failed, the last: %v", failed, last)
	if len(wrong) > 0 || failed == 0 {
		t.Errorf("%d reads failed, wrong are %v", failed, wrong)
	}
	again := l.ensure("third", late)
	if err := late.files.compare(again); err != nil {
		t.Error(err)
	}
	if err := whole.files.compare(l.ensure("fourth", whole)); err != nil {
		t.Error(err)
	}
	if reads, failed, wrong, last := steady.stop(); failed > 0 || len(wrong) > 0 || reads == 0 {
		t.Errorf("of %d reads of what is sealed %d failed, %v, and wrong are %v", reads, failed, last, wrong)
	}
	l.end()
}
