package service_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
)

const otherRoot = "bafkreigzfgfbbunqonmdpxcl3bo2yza3b46o6j5epzovhjkpf47vwl6p7i"

// tell sends a trace as an agent does.
func (a *agent) tell(lease broker.LeaseID, root string, trace ...uint32) error {
	a.t.Helper()
	envelope, err := wire.SealTrace(a.key, broker.TraceReport{Lease: lease, Root: root, Trace: trace})
	if err != nil {
		a.t.Fatal(err)
	}
	_, err = a.host.Request(a.t.Context(), a.w.key.ID(), wire.ProtocolTrace, envelope)
	return err
}

// begin takes a job to the moment when its workload runs on a provider, and returns the hold.
func (a *agent) begin(spec broker.JobSpec) broker.Hold {
	a.t.Helper()
	spec.Provider = a.id()
	if _, err := a.w.Submit(a.t.Context(), a.w.account, spec.Nonce, a.w.seal(spec)); err != nil {
		a.t.Fatal(err)
	}
	hold := next(a.t, "hold", a.holds)
	next(a.t, "confirm", a.confirms)
	a.mustReport(broker.Report{Lease: hold.Lease, Phase: broker.PhaseReady})
	return hold
}

func (a *agent) end(lease broker.LeaseID) {
	a.t.Helper()
	a.mustReport(broker.Report{Lease: lease, Phase: broker.PhaseExited, Used: time.Nanosecond})
}

// run runs a job, tells what it read of an image, and returns the trace that came with the hold.
func (a *agent) run(spec broker.JobSpec, root string, trace ...uint32) blockstore.Trace {
	a.t.Helper()
	hold := a.begin(spec)
	if err := a.tell(hold.Lease, root, trace...); err != nil {
		a.t.Errorf("trace refused: %v", err)
	}
	a.end(hold.Lease)
	return hold.Trace
}

// command is a job of the world's image.
func (w *world) command(root string, args ...string) broker.JobSpec {
	spec := w.spec()
	spec.Root, spec.Command = root, args
	return spec
}

func sameTrace(t *testing.T, what string, got, want blockstore.Trace) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got trace %v, want %v", what, got, want)
	}
}

// TestTracesGoWithTheNextHold takes two runs on two hosts to the third, over a restart.
func TestTracesGoWithTheNextHold(t *testing.T) {
	w := newWorld(t, memory())
	a, b := newAgent(t, w), newAgent(t, w)
	a.offer()
	b.offer()
	first, second := blockstore.Trace{5, 6, 7, 1}, blockstore.Trace{5, 6, 2, 7}
	merged := blockstore.MergeTraces(second, first)
	sameTrace(t, "first run", a.run(w.command(root, "serve"), root, first...), nil)
	sameTrace(t, "second run", b.run(w.command(root, "serve"), root, second...), first)
	sameTrace(t, "third run", a.begin(w.command(root, "serve")).Trace, merged)

	b.offer()
	sameTrace(t, "another image", b.run(w.command(otherRoot, "serve"), otherRoot, 9), nil)
	sameTrace(t, "another command", b.run(w.command(root, "train"), root, 3), merged)
	sameTrace(t, "the image's own command", b.begin(w.command(root)).Trace, blockstore.MergeTraces([]uint32{3}, first))

	list, err := w.Traces(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.start()
	again, err := w.Traces(t.Context(), digest)
	if err != nil || len(list) != 2 || !slices.Equal(again, list) {
		t.Fatalf("after a restart: %+v, %v; before: %+v", again, err, list)
	}
	want := broker.TracedCommand{Command: broker.CommandHash([]string{"serve"}), Runs: 2, Blocks: 4}
	got := again[1]
	if got.Updated.IsZero() {
		t.Error("no time")
	}
	if got.Updated = (time.Time{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	trace, err := w.Trace(t.Context(), digest, want.Command)
	if err != nil {
		t.Fatal(err)
	}
	sameTrace(t, "asked for", trace, merged)
	c := newAgent(t, w)
	c.offer()
	sameTrace(t, "after a restart", c.begin(w.command(root, "serve")).Trace, merged)
}

// TestTracesOfUnsignedRoots count under the digest.
func TestTracesOfUnsignedRoots(t *testing.T) {
	w := newWorld(t, memory())
	a := newAgent(t, w)
	a.offer()
	sameTrace(t, "first run", a.run(w.command(""), root, 4, 2), nil)
	sameTrace(t, "no root again", a.run(w.command(""), root, 4, 3), blockstore.Trace{4, 2})
	sameTrace(t, "its root signed", a.run(w.command(root), root, 4, 5), blockstore.Trace{4, 3})
	sameTrace(t, "another root signed", a.run(w.command(otherRoot), otherRoot, 1), nil)
}

// TestTracesAreHeldToTheirLease: only who has the lease tells, of the signed root, and in time.
func TestTracesAreHeldToTheirLease(t *testing.T) {
	w := newWorld(t, memory())
	a, thief := newAgent(t, w), newAgent(t, w)
	a.offer()
	thief.offer()
	hold := a.begin(w.command(root, "serve"))
	if err := thief.tell(hold.Lease, root, 1); err == nil {
		t.Error("a trace by another provider was taken")
	}
	if err := a.tell(hold.Lease, otherRoot, 1); err == nil {
		t.Error("a trace of another image was taken")
	}
	if err := a.tell("l-aaaaaaaaaaaaaaaaaaaaaaaaaa", root, 1); err == nil {
		t.Error("a trace of no lease was taken")
	}
	envelope, err := wire.SealTrace(a.key, broker.TraceReport{Lease: hold.Lease, Root: root, Trace: []uint32{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := thief.host.Request(t.Context(), w.key.ID(), wire.ProtocolTrace, envelope); err == nil {
		t.Error("a trace that another provider delivered was taken")
	}
	if list, err := w.Traces(t.Context(), digest); err != nil || len(list) != 0 {
		t.Errorf("remembered %+v, %v", list, err)
	}
	for _, digest := range []string{"", "latest"} {
		if _, err := w.Traces(t.Context(), digest); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("digest %q: %v, want ErrInvalid", digest, err)
		}
	}
	if _, err := w.Trace(t.Context(), digest, broker.CommandHash(nil)); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a command that never ran: %v, want ErrNotFound", err)
	}
}

// TestHostileProviderHasOneVoice however often it runs a command and tells.
func TestHostileProviderHasOneVoice(t *testing.T) {
	w := newWorld(t, memory())
	honest, liar := newAgent(t, w), newAgent(t, w)
	honest.offer()
	liar.offer()
	honest.run(w.command(root, "serve"), root, 1, 2, 3)
	for i := range uint32(7) {
		hold := liar.begin(w.command(root, "serve"))
		for j := range uint32(3) { // of one run, the first word counts
			if err := liar.tell(hold.Lease, root, 100*(i+1)+j); err != nil {
				t.Fatal(err)
			}
		}
		liar.end(hold.Lease)
	}
	list, err := w.Traces(t.Context(), digest)
	if err != nil || len(list) != 1 || list[0].Runs != 2 {
		t.Errorf("remembered %+v, %v; want one run of each provider", list, err)
	}
	want := blockstore.MergeTraces([]uint32{700}, []uint32{1, 2, 3})
	sameTrace(t, "next run", honest.begin(w.command(root, "serve")).Trace, want)
}

// TestFullDiskTakesNoTraces, and the job does not mind.
func TestFullDiskTakesNoTraces(t *testing.T) {
	s := &fillingUp{Store: memory()}
	w := newWorld(t, s)
	a := newAgent(t, w)
	a.offer()
	hold := a.begin(w.command(root))
	s.full.Store(true)
	if err := a.tell(hold.Lease, root, 1); err == nil {
		t.Error("a trace was taken")
	}
	a.end(hold.Lease)
}
