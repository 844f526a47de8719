package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"rialto/blockstore"
	"rialto/broker"
)

// order is a build that waits for its outcome.
type order struct {
	image    string
	digest   blockstore.Digest
	progress func(done, total int64)
	outcome  chan error
}

// builder tells of each build and lets the test say what comes of it.
type builder chan order

func (b builder) Build(ctx context.Context, image string, digest blockstore.Digest, progress func(done, total int64)) (blockstore.CID, error) {
	o := order{image, digest, progress, make(chan error)}
	select {
	case b <- o:
	case <-ctx.Done():
		return blockstore.CID{}, ctx.Err()
	}
	select {
	case err := <-o.outcome:
		return rootOf(digest), err
	case <-ctx.Done():
		return blockstore.CID{}, ctx.Err()
	}
}

func rootOf(d blockstore.Digest) blockstore.CID { return blockstore.Sum(d[:]) }

func digestOf(i int) string { return blockstore.Sum(fmt.Append(nil, i)).Digest().String() }

func newBuilderWorld(t *testing.T) (*world, builder) {
	t.Helper()
	b := make(builder)
	return newWorld(t, memory(), func(w *world) { w.builder = b }), b
}

// image asks until an image has a state.
func (w *world) image(digest string, want broker.BuildState) broker.ImageBuild {
	w.t.Helper()
	var got broker.ImageBuild
	w.eventually(fmt.Sprintf("image %s is %s", digest, want), func() bool {
		var err error
		got, err = w.Image(w.t.Context(), digest)
		return err == nil && got.State == want
	})
	return got
}

// TestJobsHaveTheirImageBuilt, once, for good, and only if its root is not signed already.
func TestJobsHaveTheirImageBuilt(t *testing.T) {
	w, b := newBuilderWorld(t)
	if _, err := w.Image(t.Context(), digest); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("before any job: %v, want ErrNotFound", err)
	}
	newAgent(t, w).offer()
	vouched := w.spec()
	vouched.Root, vouched.Digest = root, digestOf(1)
	if _, err := w.Submit(t.Context(), w.account, "vouched", w.seal(vouched)); err != nil {
		t.Fatal(err)
	}
	w.submit("first")
	o := next(t, "build", b)
	if o.image != w.spec().Image || o.digest.String() != digest {
		t.Errorf("built %s at %v", o.image, o.digest)
	}
	o.progress(3, 8)
	if got := w.image(digest, broker.BuildRunning); got.Done != 3 || got.Bytes != 8 || got.Root != "" {
		t.Errorf("while it runs: %+v", got)
	}
	w.submit("second")
	if got, err := w.BuildImage(t.Context(), "a-test", "elsewhere/app", digest); err != nil || got.State != broker.BuildRunning {
		t.Errorf("asked for again: %+v, %v", got, err)
	}
	o.progress(8, 8)
	o.outcome <- nil
	got := w.image(digest, broker.BuildReady)
	if got.Root != rootOf(o.digest).String() || got.Bytes != 8 || got.Built.IsZero() {
		t.Errorf("ready: %+v", got)
	}
	w.submit("third")
	misses := func() int64 {
		found, err := w.Search(t.Context(), broker.Query{Image: digest})
		hosts := slices.Concat(found.Matches, found.Busy)
		if err != nil || len(hosts) != 1 {
			t.Fatalf("search: %+v, %v", found, err)
		}
		return hosts[0].Cost.MissBytes
	}
	if got := misses(); got != 8 {
		t.Errorf("the host misses %d bytes of the image, want 8", got)
	}
	w.stop()
	w.start()
	newAgent(t, w).offer()
	if got := misses(); got != 8 {
		t.Errorf("after a restart the host misses %d bytes, want 8", got)
	}
	if again := w.image(digest, broker.BuildReady); again != got {
		t.Errorf("after a restart: %+v, want %+v", again, got)
	}
	// Had any other build been ordered, it would come before this one.
	if _, err := w.BuildImage(t.Context(), "a-test", "other", digestOf(2)); err != nil {
		t.Fatal(err)
	}
	if o := next(t, "build", b); o.digest.String() != digestOf(2) {
		t.Errorf("built %v again, or for a job with a signed root", o.digest)
	}
}

// TestFailedBuildIsRemembered for its image, so that nobody hammers a registry; another image's name is another try.
func TestFailedBuildIsRemembered(t *testing.T) {
	w, b := newBuilderWorld(t)
	for i, name := range []string{"registry/app", "mirror/app"} {
		if got, err := w.BuildImage(t.Context(), "a-test", name, digest); err != nil || got.State != broker.BuildRunning {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		next(t, "build", b).outcome <- fmt.Errorf("no such image %d %s", i, strings.Repeat("€", 1000))
		want := fmt.Sprint("no such image ", i)
		if got := w.image(digest, broker.BuildFailed); !strings.HasPrefix(got.Error, want) || len(got.Error) > 512 || strings.Contains(got.Error, "\ufffd") {
			t.Errorf("%s: %+v", name, got)
		}
		if got, err := w.BuildImage(t.Context(), "a-test", name, digest); err != nil || got.State != broker.BuildFailed || !strings.HasPrefix(got.Error, want) {
			t.Errorf("%s, asked for again: %+v, %v", name, got, err)
		}
	}
}

// TestBuildsAreBounded: one runs, some wait, the next is refused, and jobs do not mind.
func TestBuildsAreBounded(t *testing.T) {
	w, b := newBuilderWorld(t)
	ask := func(i int) error { // each account a few
		_, err := w.BuildImage(t.Context(), broker.AccountID(fmt.Sprint(i/4)), "app", digestOf(i))
		return err
	}
	if err := ask(0); err != nil {
		t.Fatal(err)
	}
	next(t, "build", b)
	n := 1
	for ; ask(n) == nil; n++ {
		if n > 100 {
			t.Fatal("nothing is ever refused")
		}
	}
	if err := ask(n); n != 17 || !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "16 images wait") {
		t.Errorf("after one that runs and %d that wait: %v", n-1, err)
	}
	newAgent(t, w).offer()
	w.submit("job")
	if _, err := w.Image(t.Context(), digest); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("the job's image: %v, want ErrNotFound", err)
	}
}

// TestOneAccountLeavesRoom for others in the queue, and has room again when a build of its own is over.
func TestOneAccountLeavesRoom(t *testing.T) {
	w, b := newBuilderWorld(t)
	ask := func(account broker.AccountID, i int) error {
		_, err := w.BuildImage(t.Context(), account, "app", digestOf(i))
		return err
	}
	for i := range 4 {
		if err := ask("greedy", i); err != nil {
			t.Fatal(err)
		}
	}
	first := next(t, "build", b)
	if err := ask("greedy", 4); !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "4 images of this account") {
		t.Errorf("the fifth: %v", err)
	}
	if err := ask("greedy", 0); err != nil {
		t.Errorf("one that is under way: %v", err)
	}
	if err := ask("other", 5); err != nil {
		t.Errorf("another account: %v", err)
	}
	first.outcome <- nil
	w.image(digestOf(0), broker.BuildReady)
	if err := ask("greedy", 4); err != nil {
		t.Errorf("after one is done: %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	w, _ := newBuilderWorld(t)
	for name, c := range map[string]struct{ image, digest string }{
		"no digest":     {"app", "latest"},
		"no image":      {"", digest},
		"a long name":   {strings.Repeat("a", 513), digest},
		"a local image": {broker.LocalImage("mine"), digest},
	} {
		if _, err := w.BuildImage(t.Context(), "a-test", c.image, c.digest); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := w.Image(t.Context(), "latest"); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("no digest: %v, want ErrInvalid", err)
	}
	if _, err := newWorld(t, memory()).BuildImage(t.Context(), "a-test", "app", digest); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("without a builder: %v, want ErrUnavailable", err)
	}
	full := newWorld(t, fullStore{memory()}, func(w *world) { w.builder = make(builder) })
	if _, err := full.BuildImage(t.Context(), "a-test", "app", digest); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("on a full disk: %v, want ErrUnavailable", err)
	}
}
