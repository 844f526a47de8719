package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"rialto/broker"
	"rialto/provider"
)

// wait returns how the started workload ended. When alive ends first, it stops the workload; one that is displaced hears of
// it at once, and has until the end of its notice.
func (w *workload) wait(ctx, alive context.Context, s *site) outcome {
	exits := make(chan outcome, 1)
	s.tasks.Go(func() {
		exit, err := s.box.Wait(alive)
		if err != nil {
			err = fmt.Errorf("the sandbox was lost: %w", err)
			exits <- broken(hostError{err})
			return
		}
		exits <- outcome{phase: broker.PhaseExited, code: exit.Code, message: w.explain(exit)}
	})
	notice := w.notice
	for alive.Err() == nil {
		select {
		case d := <-notice:
			notice = nil
			w.log.Info("another job displaces the workload", slog.Duration("notice", d))
			s.tasks.Go(func() { w.displace(alive, s.box, d) })
		case out := <-exits:
			if notice == nil && out.phase == broker.PhaseExited {
				out.message = displaced
			}
			if alive.Err() == nil {
				return out
			}
		case <-alive.Done():
		}
	}
	if w.handed(ctx) {
		return outcome{}
	}
	reason := w.endReason()
	if reason == "" {
		reason = "the provider's agent is stopping"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.agent.Grace+teardown)
	defer cancel()
	if err := s.box.Stop(ctx, w.agent.Grace, reason); err != nil {
		return broken(fmt.Errorf("%s; it did not stop: %w", reason, err))
	}
	exit, err := s.box.Wait(ctx)
	if err != nil {
		return broken(fmt.Errorf("%s; the sandbox was lost: %w", reason, err))
	}
	return outcome{phase: broker.PhaseExited, code: exit.Code, message: reason}
}

// explain says for people why a workload was ended; empty when it ended by itself.
func (w *workload) explain(exit provider.Exit) string {
	if exit.Reason != "deadline" {
		return exit.Reason
	}
	if limit := w.record().MaxDuration; limit > 0 && w.used() >= limit-time.Second {
		return "the job's maximum duration is over"
	}
	return "the lease lapsed: its broker did not renew it"
}

// displaced tells the broker why a workload ended that it wanted to end, also if that was by itself.
const displaced = "another job displaced it"

// displace asks a workload to end, and ends it after its notice.
func (w *workload) displace(alive context.Context, box provider.Sandbox, notice time.Duration) {
	err := box.Stop(alive, notice, displaced)
	if err != nil && alive.Err() == nil { // its broker releases the lease
		w.log.Warn("a displaced workload did not stop", slog.Any("err", err))
	}
}
