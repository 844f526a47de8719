package agent

import (
	"context"
	"log/slog"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

const (
	// traceAfter is when a program has begun: importing a large framework takes some seconds.
	traceAfter = 10 * time.Second
	// traceTimeout bounds how long a trace may keep an ended workload's GPUs.
	traceTimeout = 2 * time.Second
	// traceTries and tracePause are for a broker that is started anew meanwhile. Then the trace is forgotten.
	traceTries = 3
	tracePause = 30 * time.Second
)

// trace tells the broker which blocks of its image the workload read first, for runs like it. It asks for them some time
// after the start, or when ended is closed, and closes asked when it needs the image no more.
func (s *site) trace(ctx context.Context, ended <-chan struct{}) (asked <-chan struct{}) {
	done := make(chan struct{})
	if s.image.Trace == nil {
		close(done)
		return done
	}
	s.tasks.Go(func() { // ends with the last try, or with ctx
		trace := s.firstReads(ctx, ended)
		close(done)
		if len(trace) > 0 {
			s.sendTrace(ctx, broker.TraceReport{Lease: s.lease, Root: s.image.Root, Trace: trace})
		}
	})
	return done
}

// firstReads waits until it is time, and returns what the workload has read; nil if nobody knows.
func (s *site) firstReads(ctx context.Context, ended <-chan struct{}) blockstore.Trace {
	timer := time.NewTimer(traceAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	trace, err := s.image.Trace(ctx)
	if err != nil {
		s.log.Debug("no trace of the image", slog.Any("err", err))
		return nil
	}
	return trace[:min(len(trace), blockstore.MaxTrace)]
}

// sendTrace tries a few times. Nothing depends on it.
func (s *site) sendTrace(ctx context.Context, t broker.TraceReport) {
	envelope, err := wire.SealTrace(s.agent.Key, t)
	if err != nil {
		s.log.Warn("trace is not sent", slog.Any("err", err))
		return
	}
	to := identity.ID(s.record().Broker)
	for try := range traceTries {
		if try > 0 {
			select {
			case <-time.After(tracePause):
			case <-ctx.Done():
				return
			}
		}
		attempt, cancel := context.WithTimeout(ctx, reportTimeout)
		_, err := s.agent.Network.Request(attempt, to, wire.ProtocolTrace, envelope)
		cancel()
		if err == nil {
			return
		}
		s.log.Debug("trace was not taken", slog.Any("err", err))
	}
}
