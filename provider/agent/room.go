package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"rialto/broker"
)

// roomTimeout bounds how long a hold may wait for images to be deleted: its broker waits for 15 s.
const roomTimeout = 8 * time.Second

// shortage says why there is no room on the disk for one more job.
type shortage struct {
	free, keep     uint64 // MiB: on the disk; of them, what stays free whatever comes
	jobs           int
	promised, want uint64 // MiB: what the jobs may still write; what one more may
}

func (s shortage) Error() string {
	if s.want == 0 {
		return "the host is out of disk space"
	}
	return fmt.Sprintf("the host has %d MiB of disk free: its %d other jobs may still write %d MiB, %d MiB stay free, and a job may write %d MiB",
		s.free, s.jobs, s.promised, s.keep, s.want)
}

// lack is how many MiB more it takes.
func (s shortage) lack() uint64 {
	need := s.keep + s.promised + s.want
	return max(need, s.free) - s.free
}

// mayWrite is how much a job may write here, in MiB; zero: as much as there is, and how much it needs nobody said.
func (a *Agent) mayWrite(spec *broker.JobSpec) uint64 {
	if a.DiskPerJobMiB == 0 {
		return spec.DiskMiB
	}
	return min(spec.Disk(), a.DiskPerJobMiB)
}

// checkRoom returns a shortage if the disk has no room for all that jobs may write, with one more. The caller holds a.mu.
func (a *Agent) checkRoom(spec broker.JobSpec) error {
	free, known := a.freeDisk()
	if !known {
		return nil
	}
	s := shortage{free: free, keep: a.MinDiskMiB, want: a.mayWrite(&spec)}
	s.promised, s.jobs = a.promised()
	if s.lack() > 0 {
		return s
	}
	return nil
}

// promised returns how much the jobs that run or are about to may still write. The caller holds a.mu.
func (a *Agent) promised() (mib uint64, jobs int) {
	for lease, w := range a.workloads {
		if !w.record().State.Holding() {
			continue
		}
		jobs++
		left := a.mayWrite(&w.spec)
		if a.DiskLeft != nil {
			left = min(left, a.DiskLeft(lease))
		}
		mib += left
	}
	return mib, jobs
}

// setAside says what images must leave free for the jobs.
func (a *Agent) setAside() {
	if a.SetAside == nil {
		return
	}
	a.mu.Lock()
	mib, _ := a.promised()
	a.mu.Unlock()
	a.SetAside(mib)
}

// makeRoom has images go that nobody uses, in favour of a job.
func (a *Agent) makeRoom(ctx context.Context, lease broker.LeaseID, s shortage) {
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	if err := a.Images.Yield(ctx, int64(s.lack())<<20); err != nil { //nolint:gosec // a disk's size fits
		a.Logger.Warn("no room could be made for a job", slog.String("lease", string(lease)), slog.Any("err", err))
	}
}
