package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
)

// view shows how a job starts: one moving line on a terminal, plain lines otherwise. Methods are safe
// for concurrent use.
type view struct {
	out   io.Writer
	quiet bool

	mu       sync.Mutex
	progress *cli.Progress // nil: plain lines, or closed
	bar      *cli.Bar
	flows    bool // the container speaks for itself
}

func newView(w io.Writer, quiet bool) *view {
	v := &view{out: w, quiet: quiet}
	if !quiet && cli.IsTerminal(w) {
		v.progress = cli.NewProgress(w)
		v.bar = v.progress.Bar("asking the market", 0)
	}
	return v
}

// say prints a line of talk that matters even when the view is quiet about the start.
func (v *view) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if v.progress != nil {
		v.progress.Say("rialto: " + text)
		return
	}
	fmt.Fprintln(v.out, "rialto: "+text)
}

// talk prints a line of talk, unless the view is quiet.
func (v *view) talk(format string, args ...any) {
	if !v.quiet {
		v.say(format, args...)
	}
}

// event shows a line of the job's history, up to where the container speaks for itself.
func (v *view) event(e api.Event) {
	switch e.State {
	case broker.JobQueued.String(), broker.JobHolding.String(), broker.JobLeased.String(), broker.JobReady.String():
	default:
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	text := cli.Clean(e.Text)
	if text == "" {
		text = e.State
	}
	switch {
	case v.quiet:
	case v.flows && e.State == broker.JobReady.String(): // its output has said so
	case v.bar != nil && e.State == broker.JobQueued.String():
		v.progress.Say("rialto: " + text)
		v.bar.Rename("waiting")
	case v.bar != nil && e.State == broker.JobLeased.String():
		v.progress.Say("rialto: " + text)
		v.bar.Rename("preparing")
	case v.bar != nil && e.State == broker.JobReady.String():
		v.progress.Say("rialto: " + text)
		v.end()
	case v.bar != nil:
		v.bar.Rename(text)
	case v.progress == nil:
		fmt.Fprintln(v.out, "rialto: "+text)
	}
}

// moving reports whether progress would be seen.
func (v *view) moving() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.progress != nil
}

// fetched shows how far the image is, by source.
func (v *view) fetched(f api.Fetched) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bar != nil && f.TotalBytes > 0 {
		v.bar.Set(f.LocalBytes+f.PeerBytes+f.RegistryBytes, f.TotalBytes, whence(f))
	}
}

// output gives the terminal to the container. It is idempotent.
func (v *view) output() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flows = true
	v.end()
}

// close takes the moving line away. It is idempotent.
func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.end()
}

func (v *view) end() {
	if v.progress != nil {
		v.progress.Close()
		v.progress, v.bar = nil, nil
	}
}

// whence is sources without the bytes where the bar shows the same.
func whence(f api.Fetched) string {
	switch done := f.LocalBytes + f.PeerBytes + f.RegistryBytes; {
	case done == 0:
		return ""
	case f.PeerBytes == done:
		return "from peers"
	case f.RegistryBytes == done:
		return "from the registry"
	default:
		return "(" + sources(f) + ")"
	}
}

// byNow is sources for a start that is over: an image is shown before all of it is there.
func byNow(f api.Fetched) string {
	if f.PeerBytes+f.RegistryBytes == 0 {
		return sources(f)
	}
	return sources(f) + " by now"
}

// sources says where bytes came from.
func sources(f api.Fetched) string {
	var parts []string
	for _, s := range []struct {
		bytes int64
		from  string
	}{{f.PeerBytes, "from peers"}, {f.RegistryBytes, "from the registry"}} {
		if s.bytes > 0 {
			parts = append(parts, cli.FormatBytes(s.bytes)+" "+s.from)
		}
	}
	if len(parts) == 0 {
		return "already on the host"
	}
	return strings.Join(parts, ", ")
}
