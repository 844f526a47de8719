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

const (
	// noticeFile is what a workload finds in [provider.NoticeDir] once it is displaced: the seconds that it has left, and
	// when they are over, in RFC 3339 by the host's clock.
	noticeFile = "preempt"
	// noticeWish is the variable of a job's environment that says how it wants to hear.
	noticeWish = "RIALTO_PREEMPT"
	// lastWords is how long before its end a workload gets SIGTERM that wants to hear by the file alone.
	lastWords = 10 * time.Second
)

// displace tells a workload that it has to end, and ends it after its notice. It finds a file that says so, and gets SIGTERM
// at once, which most programs end by; one whose job says RIALTO_PREEMPT=file looks for the file and goes on until shortly
// before.
func (w *workload) displace(alive context.Context, box provider.Sandbox, notice time.Duration) {
	end := time.Now().Add(notice)
	text := fmt.Sprintf("%d %s\n", int64(notice/time.Second), end.UTC().Format(time.RFC3339))
	if err := box.Notify(alive, noticeFile, []byte(text)); err != nil && alive.Err() == nil {
		w.log.Warn("a displaced workload has no file that says so", slog.Any("err", err))
	}
	if w.spec.Env[noticeWish] == "file" {
		select {
		case <-time.After(notice - lastWords):
		case <-alive.Done():
			return
		}
	}
	err := box.Stop(alive, max(time.Millisecond, time.Until(end)), displaced)
	if err != nil && alive.Err() == nil { // its broker releases the lease
		w.log.Warn("a displaced workload did not stop", slog.Any("err", err))
	}
}
