// Package host makes, finds and removes what a sandbox owns on the host outside its own directory: a
// network namespace held by a bind mount, a cgroup in every controller, a loop device, and one supervisor
// process.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netnsSysctls are set in every new namespace: a program that is not root may listen on port 80 and send
// pings, since no other program shares the namespace.
func netnsSysctls() map[string]string {
	return map[string]string{
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
	}
}

// MakeNetns makes a network namespace with its loopback interface up and holds it by a mount on a new file
// at path. That is not in /run/netns: the first "ip netns add" on a machine mounts that directory on itself
// and so hides what was mounted in it before.
func MakeNetns(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		for file, value := range netnsSysctls() {
			if err := os.WriteFile(file, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind namespace to %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// RemoveNetns lets go of the namespace at path. The kernel destroys it with its last process and socket.
func RemoveNetns(path string) error {
	// EINVAL: not mounted, only the file is left.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	// Removing the file also detaches the copies of this mount in other mount namespaces.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// InNetns runs fn on a thread inside the namespace at path. Sockets that fn opens stay in it. fn must do
// its work on the calling goroutine.
func InNetns(path string, fn func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		defer unix.Close(fd) //nolint:errcheck // read-only descriptor
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		return fn()
	})
}

// onThread runs fn on a thread of its own that ends with it: a thread that changed its namespace can
// never again run another goroutine. It is never the main thread, which cannot end and whose namespaces are
// those of /proc/self: one that stayed in a lease's would keep that alive.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, but for the main thread
		if unix.Gettid() == unix.Getpid() {
			result <- onThread(fn) // on another, since this one is held
			runtime.UnlockOSThread()
			return
		}
		result <- fn()
	}()
	return <-result
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}
