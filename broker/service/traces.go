package service

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

// lateTrace is how long after the end of its lease a trace may come. Agents tell it at the end at the latest, and try
// for a minute.
const lateTrace = 10 * time.Minute

// traceReport takes what a provider tells about what a workload read first.
func (s *Service) traceReport(ctx context.Context, from identity.ID, request []byte) ([]byte, error) {
	report, signer, err := wire.OpenTrace(request)
	if err == nil {
		err = sameParty(signer, from)
	}
	if err == nil {
		err = s.open(ctx)
	}
	if err == nil {
		err = s.remember(ctx, signer, report)
	}
	if err != nil {
		s.c.Logger.Warn("trace refused", "provider", from, "lease", report.Lease, "err", err)
		return nil, err
	}
	return nil, nil
}

// remember keeps the trace of a run that a provider has, or had a moment ago, a lease for.
func (s *Service) remember(ctx context.Context, from broker.PeerID, t broker.TraceReport) error {
	l, j, err := s.hired(ctx, t.Lease)
	if err != nil {
		return err
	}
	switch {
	case l.Provider != from:
		return fmt.Errorf("trace of lease %s, which is not with %s: %w", l.ID, from, broker.ErrForbidden)
	case l.State == broker.LeaseHolding || l.Granted.IsZero():
		return fmt.Errorf("trace of lease %s: its grant has not arrived: %w", l.ID, broker.ErrUnavailable)
	case j.Spec.Root != "" && j.Spec.Root != t.Root:
		return &broker.FieldError{Field: "trace.root", Problem: "not the one that the customer signed"}
	}
	if err := s.c.Store.Room(); err != nil {
		return fmt.Errorf("no room for traces: %w", broker.ErrUnavailable)
	}
	encoded, err := t.Trace.AppendBinary(nil)
	if err != nil {
		return err
	}
	run := &tracedRun{
		Root: t.Root, Digest: j.Spec.Digest, Command: broker.CommandHash(j.Spec.Command), Provider: from,
		Leased: l.Granted.Round(0).UTC(), Trace: encoded,
	}
	value, err := json.Marshal(run)
	if err != nil {
		return err
	}
	return s.do(ctx, len(value), func(_ context.Context, b *batch) error {
		if !l.Ended.IsZero() && b.now.Sub(l.Ended) > lateTrace {
			return fmt.Errorf("trace of lease %s, which ended %v ago: %w", l.ID, b.now.Sub(l.Ended), broker.ErrConflict)
		}
		maps.Copy(b.hints, s.traces.put(run, value))
		return nil
	})
}

// hint returns what a job will probably read first: what its command did, or else other commands of its image.
func (s *Service) hint(ctx context.Context, spec broker.JobSpec) blockstore.Trace {
	root := spec.Root
	if root == "" {
		root = s.tracedRoot(ctx, spec.Digest)
	}
	runs, exact := s.traces.runs(root, broker.CommandHash(spec.Command), true)
	kind := "none"
	switch {
	case exact:
		kind = "command"
	case len(runs) > 0:
		kind = "image"
	}
	s.metrics.hints.WithLabelValues(kind).Inc()
	return merge(runs)
}

// tracedRoot returns the root that an image most likely has: the one that the broker built, or what runs of it told.
func (s *Service) tracedRoot(ctx context.Context, digest string) string {
	if d, err := blockstore.ParseDigest(digest); err == nil {
		if built, err := s.builds.kept(ctx, d); err == nil {
			return built.Root
		}
	}
	return s.traces.root(digest)
}

// merge makes one trace of encoded ones. What cannot be read is no run.
func merge(encoded [][]byte) blockstore.Trace {
	var runs []blockstore.Trace
	for _, p := range encoded {
		if t, err := blockstore.DecodeTrace(p); err == nil {
			runs = append(runs, t)
		}
	}
	if len(runs) == 0 {
		return nil
	}
	return blockstore.MergeTraces(runs...)
}

// Traces lists the commands of the image with a digest of which runs are remembered.
func (s *Service) Traces(ctx context.Context, digest string) ([]broker.TracedCommand, error) {
	root, err := s.traced(ctx, digest)
	if err != nil {
		return nil, err
	}
	return s.traces.commands(root), nil
}

// Trace returns what the runs of one command of an image read first, merged; [broker.ErrNotFound] if none is remembered.
func (s *Service) Trace(ctx context.Context, digest, command string) (blockstore.Trace, error) {
	root, err := s.traced(ctx, digest)
	if err != nil {
		return nil, err
	}
	runs, exact := s.traces.runs(root, command, false)
	if !exact {
		return nil, fmt.Errorf("runs of command %.80q of image %s: %w", command, digest, broker.ErrNotFound)
	}
	return merge(runs), nil
}

func (s *Service) traced(ctx context.Context, digest string) (root string, err error) {
	if err := s.Ready(); err != nil {
		return "", err
	}
	if _, err := parseDigest(digest); err != nil {
		return "", err
	}
	return s.tracedRoot(ctx, digest), nil
}
