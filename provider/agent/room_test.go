package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"rialto/broker"
)

// disk is the disk of a host in MiB.
type disk struct {
	free, aside uint64
	written     map[broker.LeaseID]uint64
}

func (w *world) limitDisk(free, perJob uint64) *disk {
	d := &disk{free: free, written: map[broker.LeaseID]uint64{}}
	w.config.DiskFree = func() (uint64, error) { return d.free, nil }
	w.config.DiskPerJobMiB, w.config.MinDiskMiB = perJob, 100
	w.config.DiskLeft = func(l broker.LeaseID) uint64 { return perJob - d.written[l] }
	w.config.SetAside = func(mib uint64) { d.aside = mib }
	return d
}

// TestJobsHaveRoomForAllThatTheyMayWrite, beside what others may still write; a refusal says how much is missing.
func TestJobsHaveRoomForAllThatTheyMayWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.limitDisk(2100, 1000)
		w.start()
		first := w.running("one")
		if d.aside != 1000 {
			t.Errorf("%d MiB set aside for one job", d.aside)
		}
		d.free--
		want := "2099 MiB of disk free: its 1 other jobs may still write 1000 MiB, 100 MiB stay free, and a job may write 1000 MiB"
		if a := w.ask(w.holdOf("two", w.spec())); a.Grant != nil || !strings.Contains(a.Refusal, want) {
			t.Errorf("answer %+v, want %q", a, want)
		}
		if len(w.images.yielded) != 1 || w.images.yielded[0] != 1<<20 {
			t.Errorf("images were asked to yield %v", w.images.yielded)
		}
		// What a job has written is neither free nor still to come.
		d.free, d.written[first] = 1600, 500
		if a := w.ask(w.holdOf("three", w.spec())); a.Grant == nil {
			t.Error(a.Refusal)
		}
		if d.aside != 1500 {
			t.Errorf("%d MiB set aside for two jobs", d.aside)
		}
		w.mustStop()
	})
}

// TestImagesMakeRoomForAJob that nobody uses.
func TestImagesMakeRoomForAJob(t *testing.T) {
	for name, c := range map[string]struct {
		yields uint64
		err    error
		want   bool
	}{"enough": {500, nil, true}, "too little": {499, nil, false}, "nothing": {0, errors.New("all in use"), false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := w.limitDisk(600, 1000)
				w.images.yield = func(int64) error { d.free += c.yields; return c.err }
				w.start()
				if a := w.ask(w.holdOf("one", w.spec())); (a.Grant != nil) != c.want {
					t.Errorf("answer %+v", a)
				}
				w.mustStop()
			})
		})
	}
}

// TestUnlimitedJobsNeedTheLeast that stays free.
func TestUnlimitedJobsNeedTheLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.limitDisk(100, 0)
		w.start()
		if a := w.ask(w.holdOf("one", w.spec())); a.Grant == nil {
			t.Error(a.Refusal)
		}
		d.free = 99
		if a := w.ask(w.holdOf("two", w.spec())); a.Refusal != "the host is out of disk space" {
			t.Errorf("answer %+v", a)
		}
		w.mustStop()
	})
}
