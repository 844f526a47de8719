package keeper

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm is a timer that goes on while the machine is suspended: a lease's time does too.
type alarm struct {
	f  *os.File
	fd int // of f; File.Fd would make reads block a thread
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{f: os.NewFile(uintptr(fd), "alarm"), fd: fd}, nil
}

// set moves the alarm to d from now. An alarm that went off stays off.
func (a *alarm) set(d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d.Nanoseconds(), 1))} // zero would disarm it
	return os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(a.fd, 0, &spec, nil))
}

// wait returns when the alarm goes off.
func (a *alarm) wait() error {
	var b [8]byte
	_, err := a.f.Read(b[:])
	return err
}
