package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/broker"
)

// Builder makes roots of images that are in registries.
type Builder interface {
	// Build imports the image that a digest names from the repository of a reference, and returns its root. It
	// tells how many bytes of the layers it has read and how many there are, from any goroutine.
	Build(ctx context.Context, image string, digest blockstore.Digest, progress func(done, total int64)) (blockstore.CID, error)
}

const (
	// waitingBuilds bounds the builds that wait for their turn. A customer who asks for one more is refused; a job
	// is none the worse for it, because its host imports the image by itself.
	waitingBuilds = 16
	// accountBuilds bounds those of one account, the one that runs included, so that four must work together to keep
	// others out.
	accountBuilds = 4
	// buildTimeout is enough for 100 GB at 500 Mbit/s.
	buildTimeout = 30 * time.Minute
	// failureTime is how long a failure stands before the registry is asked again.
	failureTime = time.Minute
	// maxFailures bounds the failures that are remembered; the oldest is forgotten first.
	maxFailures = 256
	// roomEvery is how often a build looks whether the store's disk fills up.
	roomEvery = 250 * time.Millisecond

	maxImageName  = 512
	maxBuildError = 512

	imageNotes = "image/" // + digest → builtImage
)

// builtImage is the note of an image whose root was built.
type builtImage struct {
	Root  string    `json:"root"`
	Bytes int64     `json:"bytes"`
	Built time.Time `json:"built"`
}

// builds makes roots of images, one at a time and each once. What it made is kept as notes of the store.
type builds struct {
	s     *Service
	queue chan *build

	mu     sync.Mutex
	open   map[blockstore.Digest]*build // that wait or run
	failed []failure                    // in the order of their time
}

// build is one that waits or runs. Its counts are guarded by builds.mu.
type build struct {
	account     broker.AccountID // who asked first
	image       string
	digest      blockstore.Digest
	done, total int64
}

// failure is of an image under one name: that a registry does not have it says nothing about others.
type failure struct {
	image  string
	digest blockstore.Digest
	text   string
	at     time.Time
}

func newBuilds(s *Service) *builds {
	return &builds{s: s, queue: make(chan *build, waitingBuilds), open: map[blockstore.Digest]*build{}}
}

// Image says what is known about an image's root, or [broker.ErrNotFound].
func (s *Service) Image(ctx context.Context, digest string) (broker.ImageBuild, error) {
	if err := s.Ready(); err != nil {
		return broker.ImageBuild{}, err
	}
	d, err := parseDigest(digest)
	if err != nil {
		return broker.ImageBuild{}, err
	}
	return s.builds.look(ctx, "", d)
}

// BuildImage asks for an image's root, unless it is known, under way, or failed a moment ago, and says how far it is.
func (s *Service) BuildImage(ctx context.Context, account broker.AccountID, image, digest string) (broker.ImageBuild, error) {
	if err := s.Ready(); err != nil {
		return broker.ImageBuild{}, err
	}
	d, err := parseDigest(digest)
	if err != nil {
		return broker.ImageBuild{}, err
	}
	switch {
	case image == "" || len(image) > maxImageName || broker.IsLocalImage(image):
		return broker.ImageBuild{}, &broker.FieldError{Field: "image", Problem: "want the name of an image in a registry"}
	case s.c.Builder == nil:
		return broker.ImageBuild{}, fmt.Errorf("this broker builds no images: %w", broker.ErrUnavailable)
	}
	known, err := s.builds.look(ctx, image, d)
	if !errors.Is(err, broker.ErrNotFound) {
		return known, err
	}
	if err := s.c.Store.Room(); err != nil {
		return broker.ImageBuild{}, fmt.Errorf("the broker has no room to build images now: %w", broker.ErrUnavailable)
	}
	return s.builds.add(account, image, d)
}

func parseDigest(text string) (blockstore.Digest, error) {
	d, err := blockstore.ParseDigest(text)
	if err != nil {
		return d, &broker.FieldError{Field: "digest", Problem: err.Error()}
	}
	return d, nil
}

// accepted builds the root of an accepted job's image in the background, for whoever runs it next.
func (s *Service) accepted(ctx context.Context, account broker.AccountID, spec *broker.JobSpec) {
	if s.c.Builder == nil || spec.Root != "" {
		return
	}
	if _, err := s.BuildImage(ctx, account, spec.Image, spec.Digest); err != nil {
		s.c.Logger.Debug("image of a job is not built", "image", spec.Image, "digest", spec.Digest, "err", err)
	}
}

// look says what is known about a digest. Failures count under their image's name; an empty name means any.
func (b *builds) look(ctx context.Context, image string, d blockstore.Digest) (broker.ImageBuild, error) {
	b.mu.Lock()
	if open := b.open[d]; open != nil {
		defer b.mu.Unlock()
		return open.known(), nil
	}
	b.mu.Unlock()
	// Whatever was open and is no more was kept before it was closed.
	known, err := b.kept(ctx, d)
	if !errors.Is(err, broker.ErrNotFound) {
		return known, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget()
	for _, f := range slices.Backward(b.failed) {
		if f.digest == d && (image == "" || image == f.image) {
			return broker.ImageBuild{Digest: d.String(), State: broker.BuildFailed, Error: f.text}, nil
		}
	}
	return broker.ImageBuild{}, err
}

// kept returns what was built.
func (b *builds) kept(ctx context.Context, d blockstore.Digest) (broker.ImageBuild, error) {
	value, err := b.s.c.Store.Note(ctx, imageNotes+d.String())
	if errors.Is(err, broker.ErrNotFound) {
		return broker.ImageBuild{}, fmt.Errorf("the root of image %v: %w", d, broker.ErrNotFound)
	}
	if err != nil {
		return broker.ImageBuild{}, err
	}
	var n builtImage
	if err := json.Unmarshal(value, &n); err != nil {
		return broker.ImageBuild{}, fmt.Errorf("note of image %v: %w", d, err)
	}
	return broker.ImageBuild{Digest: d.String(), State: broker.BuildReady, Root: n.Root, Bytes: n.Bytes, Done: n.Bytes, Built: n.Built}, nil
}

// forget drops failures that no longer count. The caller holds b.mu.
func (b *builds) forget() {
	drop := max(0, len(b.failed)-maxFailures)
	for drop < len(b.failed) && time.Since(b.failed[drop].at) > failureTime {
		drop++
	}
	b.failed = b.failed[drop:]
}

func (o *build) known() broker.ImageBuild {
	return broker.ImageBuild{Digest: o.digest.String(), State: broker.BuildRunning, Bytes: o.total, Done: o.done}
}

// add lets a build wait for its turn.
func (b *builds) add(account broker.AccountID, image string, d blockstore.Digest) (broker.ImageBuild, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if open := b.open[d]; open != nil {
		return open.known(), nil
	}
	own := 0
	for _, open := range b.open {
		if open.account == account {
			own++
		}
	}
	if own >= accountBuilds {
		b.s.metrics.builds.WithLabelValues("refused").Inc()
		return broker.ImageBuild{}, fmt.Errorf("%d images of this account wait to be built already, wait for one of them: %w", own, broker.ErrUnavailable)
	}
	o := &build{account: account, image: image, digest: d}
	select {
	case b.queue <- o:
		b.open[d] = o
		return o.known(), nil
	default:
		b.s.metrics.builds.WithLabelValues("refused").Inc()
		return broker.ImageBuild{}, fmt.Errorf("%d images wait to be built already: %w", waitingBuilds, broker.ErrUnavailable)
	}
}

// run builds until ctx ends.
func (b *builds) run(ctx context.Context) {
	for {
		select {
		case o := <-b.queue:
			b.one(ctx, o)
		case <-ctx.Done():
			return
		}
	}
}

// one builds, keeps the outcome, and only then says so.
func (b *builds) one(ctx context.Context, o *build) {
	if _, err := b.kept(ctx, o.digest); err == nil { // since it was asked for
		b.mu.Lock()
		delete(b.open, o.digest)
		b.mu.Unlock()
		return
	}
	begun := time.Now()
	root, err := b.build(ctx, o)
	if err == nil {
		err = b.keep(ctx, o, root)
	}
	if ctx.Err() != nil {
		return // closing
	}
	log := b.s.c.Logger.With("image", o.image, "digest", o.digest)
	outcome := "ready"
	b.mu.Lock()
	delete(b.open, o.digest)
	if err != nil {
		outcome = "failed"
		b.failed = append(b.failed, failure{image: o.image, digest: o.digest, text: short(err.Error()), at: time.Now()})
		b.forget()
	}
	b.mu.Unlock()
	b.s.metrics.builds.WithLabelValues(outcome).Inc()
	b.s.metrics.build.Observe(time.Since(begun).Seconds())
	if err != nil {
		log.Warn("image was not built", "err", err)
		return
	}
	log.Info("image was built", "root", root, "took", time.Since(begun))
}

// build makes one root in limited time, unless the disk fills up meanwhile: an import keeps an image's small files
// on it until it is over.
func (b *builds) build(ctx context.Context, o *build) (blockstore.CID, error) {
	ctx, stop := context.WithTimeoutCause(ctx, buildTimeout, fmt.Errorf("not done within %v", buildTimeout))
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	looked := time.Now()
	root, err := b.s.c.Builder.Build(ctx, o.image, o.digest, func(done, total int64) {
		b.mu.Lock()
		o.done, o.total = done, total
		look := time.Since(looked) > roomEvery
		if look {
			looked = time.Now()
		}
		b.mu.Unlock()
		if look && b.s.c.Store.Room() != nil {
			cancel(errors.New("the broker's disk is too full"))
		}
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return root, fmt.Errorf("image %s: %w", o.image, context.Cause(ctx))
	case err != nil:
		return root, err
	case root.IsZero():
		return root, fmt.Errorf("image %s: no root came of it", o.image)
	}
	return root, nil
}

// keep makes a root durable.
func (b *builds) keep(ctx context.Context, o *build, root blockstore.CID) error {
	b.mu.Lock()
	n := builtImage{Root: root.String(), Bytes: o.total, Built: time.Now().UTC().Truncate(time.Second)}
	b.mu.Unlock()
	value, err := json.Marshal(n)
	if err != nil {
		return err
	}
	key := imageNotes + o.digest.String()
	return b.s.do(ctx, len(value), func(ctx context.Context, batch *batch) error {
		// A note is written once.
		if _, err := batch.note(ctx, key); !errors.Is(err, broker.ErrNotFound) {
			return err
		}
		batch.notes[key] = value
		return batch.step(ctx, n.size(o.digest.String()))
	})
}

// size is what the market is told of an image.
func (n *builtImage) size(digest string) broker.ContentSized {
	return broker.ContentSized{Digest: digest, Root: n.Root, Bytes: n.Bytes}
}

// tellBuilt tells the market the sizes of all images that were built before a restart.
func (w *writer) tellBuilt(ctx context.Context) error {
	notes, err := w.s.c.Store.Notes(ctx, imageNotes)
	if err != nil {
		return err
	}
	now := w.clock.now()
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		var n builtImage
		if err := json.Unmarshal(notes[key], &n); err != nil {
			return fmt.Errorf("note %s: %w", key, err)
		}
		if _, err := w.s.step(now, n.size(strings.TrimPrefix(key, imageNotes))); err != nil {
			return fmt.Errorf("size of %s: %w", key, err)
		}
	}
	return nil
}

// short cuts a text for people.
func short(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxBuildError)], "") }
