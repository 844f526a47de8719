package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
	"rialto/tunnel/console"
)

// salt returns what makes this customer's private blocks his own. It is made when it is first needed and never leaves
// this machine.
func (h home) salt() (blockstore.Salt, error) {
	path := h.path("salt")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = h.write([]byte(blockstore.NewSalt().Base64()+"\n"), os.Link, "salt")
		if err == nil || errors.Is(err, fs.ErrExist) { // another command was faster
			text, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return blockstore.Salt{}, err
	}
	s, err := blockstore.ParseSalt(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return blockstore.Salt{}, cli.Hint(fmt.Errorf("read %s: %w", path, err),
			"restore the file from a backup, or remove it: keys of what was added before stay, but equal files are uploaded again")
	}
	return s, nil
}

// keyFile is where the key of a private root is kept.
func (h home) keyFile(root blockstore.CID) string { return h.path("keys", root.String()+".key") }

func (h home) saveBlockKey(root blockstore.CID, k blockstore.Key) error {
	return h.write([]byte(k.Base64()+"\n"), os.Rename, "keys", filepath.Base(h.keyFile(root)))
}

// blockKey returns the key of a private root.
func (h home) blockKey(root string) (blockstore.Key, error) {
	cid, err := blockstore.ParseCID(root)
	if err != nil {
		return blockstore.Key{}, err
	}
	path := h.keyFile(cid)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return blockstore.Key{}, cli.Hint(fmt.Errorf("the key of private root %s is not on this machine", root),
			"copy %s from the machine that added it, or add it here again", path)
	}
	if err != nil {
		return blockstore.Key{}, err
	}
	k, err := blockstore.ParseKey(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return blockstore.Key{}, cli.Hint(fmt.Errorf("read %s: %w", path, err), "the file is damaged: add the image or the weights again")
	}
	return k, nil
}

// rootKey is a key and what it opens.
type rootKey struct {
	root string
	key  blockstore.Key
}

// keysFor returns the keys that a job needs.
func (h home) keysFor(spec *broker.JobSpec) ([]rootKey, error) {
	var all []rootKey
	for _, root := range spec.PrivateRoots() {
		k, err := h.blockKey(root)
		if err != nil {
			return nil, err
		}
		all = append(all, rootKey{root, k})
	}
	return all, nil
}

// unlock brings the host of the session the keys of the job's private image and weights, and brings them again when it
// may have lost them, until the session is closed. They go through the lease's tunnel, whose other end is the key that the
// provider signed into its grant. The returned channel is closed when the host has them all, or will not take them: then
// failed has been told why.
func (s *session) unlock(ctx context.Context, h home, r record, failed func(error)) (<-chan struct{}, error) {
	done := make(chan struct{})
	spec, _, err := wire.OpenJobSpec(r.Envelope)
	if err != nil {
		return nil, fmt.Errorf("submission %s: %w", r.IdempotencyKey, err)
	}
	keys, err := h.keysFor(&spec)
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		close(done)
		return done, nil
	case spec.Provider != "" && string(spec.Provider) != s.lease.Provider:
		return nil, fmt.Errorf("the broker leased to provider %s, and the job is for %s alone: it gets no key", s.lease.Provider, spec.Provider)
	}
	ctx = s.start(ctx)
	s.group.Go(func() error { // ends with the session
		err := s.bring(ctx, keys)
		if err != nil && ctx.Err() == nil {
			failed(s.explain(err))
		}
		close(done)
		for err == nil {
			select {
			case <-s.lost:
				err = s.bring(ctx, keys)
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		return nil // who needs to know was told; the job's end says the rest
	})
	return done, nil
}

// bring hands over keys, and tries until it is told that they are not wanted.
func (s *session) bring(ctx context.Context, keys []rootKey) error {
	for _, k := range keys {
		for attempt := 0; ; attempt++ {
			err := s.console.Key(ctx, k.root, console.Secret(k.key))
			if err == nil {
				break
			}
			if _, refused := errors.AsType[*console.RemoteError](err); refused || !backoff(ctx, attempt) {
				return err
			}
		}
	}
	return nil
}

// mayHaveLost says that the host's agent may be a new one.
func (s *session) mayHaveLost() {
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// handOver stays with a job that is to be left alone until its host has the keys of what is private.
func (f *follower) handOver(ctx context.Context) error {
	f.view.talk("job %s: staying until its host has the keys", f.record.Job)
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer func() {
		if f.session != nil {
			f.session.close()
		}
	}()
	events := f.stream(live)
	for {
		var unlocked <-chan struct{}
		if f.session != nil {
			unlocked = f.session.unlocked
		}
		select {
		case <-ctx.Done():
			return f.cancel(ctx, live)
		case <-unlocked:
			return f.refused
		case e, ok := <-events:
			switch {
			case !ok:
				return f.endedEarly(live)
			case e.err != nil:
				return explain(e.err)
			}
			if err := f.event(live, e.Event); err != nil {
				return err
			}
		}
	}
}

// endedEarly is the end of a job that did not wait to be left alone.
func (f *follower) endedEarly(ctx context.Context) error {
	job, err := f.market.Job(ctx, f.id())
	if err != nil {
		return explain(err)
	}
	if job.State == broker.JobDone.String() {
		return nil
	}
	return ending(job)
}
