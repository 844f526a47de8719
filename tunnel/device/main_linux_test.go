package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"rialto/tunnel"
)

// inside marks the process that TestMain starts.
const inside = "RIALTO_DEVICE_TEST_INSIDE"

// TestMain runs the tests again in a network and mount namespace of their own, so that neither their sockets
// nor their control files are the machine's, and the kernel removes what a crash leaves.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getuid() == 0 {
			if err := furnish(); err != nil {
				fmt.Fprintln(os.Stderr, "furnish the test's namespaces:", err)
				os.Exit(1)
			}
		}
		goleak.VerifyTestMain(m)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "start the tests in their namespaces:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return err
	}
	return loopback()
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// needRoot skips where there is no root or no TUN.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		tb.Skip("needs /dev/net/tun")
	}
}

// newNetns makes a network namespace that lives until the test ends, with its loopback up.
func newNetns(tb testing.TB) string {
	tb.Helper()
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		done <- func() (m made) {
			if m.err = unix.Unshare(unix.CLONE_NEWNET); m.err == nil {
				m.err = loopback()
			}
			if m.err == nil {
				m.file, m.err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
			}
			return m
		}()
	}()
	m := <-done
	if m.err != nil {
		tb.Fatal(m.err)
	}
	tb.Cleanup(func() { m.file.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", m.file.Fd())
}

func do(tb testing.TB, netns string, fn func() error) {
	tb.Helper()
	if err := inNetns(netns, fn); err != nil {
		tb.Fatal(err)
	}
}

func listen(tb testing.TB, netns, address string) net.Listener {
	tb.Helper()
	var ln net.Listener
	do(tb, netns, func() (err error) {
		var lc net.ListenConfig
		ln, err = lc.Listen(context.Background(), "tcp", address)
		return err
	})
	tb.Cleanup(func() { ln.Close() })
	return ln
}

// openDevice opens a userspace device that is closed when the test ends.
func openDevice(tb testing.TB, netns, name string, c tunnel.Config) *Device {
	tb.Helper()
	d, err := Open(tb.Context(), Config{Netns: netns, Name: name, Tunnel: c, Userspace: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}
