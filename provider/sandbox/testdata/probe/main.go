// Probe is the program of the tests' containers. Its first argument says what to do.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(verb string, args []string) error {
	switch verb {
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "about":
		wd, _ := os.Getwd()
		groups, _ := os.Getgroups()
		host, _ := os.Hostname()
		fmt.Printf("uid=%d gid=%d groups=%v cwd=%s host=%s FOO=%s PATH=%s HOME=%s\n", os.Getuid(), os.Getgid(), groups, wd, host,
			os.Getenv("FOO"), os.Getenv("PATH"), os.Getenv("HOME"))
	case "print": // print 1 text 2 text …
		for i := 0; i+1 < len(args); i += 2 {
			w := os.Stdout
			if args[i] == "2" {
				w = os.Stderr
			}
			fmt.Fprint(w, args[i+1])
		}
	case "fillspam":
		if n, err := fill(args[0]); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
		return run("spam", args[1:])
	case "spam":
		n, _ := strconv.Atoi(args[0])
		line := strings.Repeat("x", 1023) + "\n"
		for range n {
			if _, err := io.WriteString(os.Stdout, line); err != nil {
				return err
			}
		}
		fmt.Println("end of spam")
	case "wait":
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	case "hang": // until a signal; a container's first process ignores it otherwise
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("waiting")
		if len(args) > 0 && args[0] == "deaf" {
			time.Sleep(time.Hour)
		}
		<-c
		os.Exit(143)
	case "stolid": // has no handler for SIGTERM, unlike every Go program
		action := map[string]uintptr{"default": 0, "ignore": 1}[args[0]]
		sa := [4]uintptr{action}
		if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGTERM), uintptr(unsafe.Pointer(&sa)), 0, 8, 0, 0); e != 0 {
			return e
		}
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "tty":
		var ws [4]uint16
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&ws))); e != 0 {
			return e
		}
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		fmt.Printf("rows=%d cols=%d\n", ws[0], ws[1])
		for ws[0] != 50 {
			<-c
			_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&ws)))
		}
		fmt.Printf("rows=%d cols=%d\n", ws[0], ws[1])
	case "serve":
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		fmt.Println("serving")
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	case "write":
		return os.WriteFile(args[0], []byte(args[1]), 0o644)
	case "read":
		b, err := os.ReadFile(args[0])
		fmt.Print(string(b))
		return err
	case "await": // await FILE: print it once it is there
		fmt.Println("waiting")
		for {
			b, err := os.ReadFile(args[0])
			if err == nil {
				fmt.Print(string(b))
				return nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "ls":
		entries, err := os.ReadDir(args[0])
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		return err
	case "fds":
		entries, err := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			to, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil {
				fmt.Println(e.Name(), to)
			}
		}
		return err
	case "dial":
		c, err := net.DialTimeout("tcp", args[0], time.Second)
		if err == nil {
			c.Close()
			fmt.Println("reached")
		}
		return err
	case "eat":
		mib, _ := strconv.Atoi(args[0])
		var hold [][]byte
		for range mib {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			hold = append(hold, b)
		}
		runtime.KeepAlive(hold)
		fmt.Println("ate", len(hold))
	case "fork":
		n, _ := strconv.Atoi(args[0])
		started := 0
		for range n {
			if err := exec.Command("/proc/self/exe", "wait").Start(); err != nil {
				fmt.Println("refused after", started, err)
				return nil
			}
			started++
		}
		fmt.Println("started", started)
	case "fill": // three times, with all of it deleted in between; fails as the last time did
		for range 2 {
			n, err := fill(args[0])
			fmt.Printf("%d bytes: %v\n", n, errors.Is(err, syscall.ENOSPC))
			if err := os.Remove(args[0]); err != nil {
				return err
			}
		}
		_, err := fill(args[0])
		fmt.Println(err)
		if errors.Is(err, syscall.ENOSPC) {
			os.Exit(int(syscall.ENOSPC))
		}
	case "files": // files DIR COUNT [sync]: the time for as many new ones of 4 KiB, after as many were deleted
		n, _ := strconv.Atoi(args[1])
		for range 2 {
			begin := time.Now()
			if err := files(args[0], n, len(args) > 2); err != nil {
				return err
			}
			fmt.Println(time.Since(begin).Nanoseconds())
			if err := os.RemoveAll(args[0]); err != nil {
				return err
			}
		}
	case "sequential": // sequential FILE MIB: the time to write as much
		n, _ := strconv.Atoi(args[1])
		begin := time.Now()
		f, err := os.Create(args[0])
		if err != nil {
			return err
		}
		for range n {
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
		fmt.Println(time.Since(begin).Nanoseconds())
		return f.Close()
	case "attempts":
		attempts()
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}

// fill writes to a new file until it cannot.
func fill(path string) (n int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for block := make([]byte, 1<<20); err == nil; {
		var m int
		m, err = f.Write(block)
		n += int64(m)
	}
	return n, err
}

func files(dir string, n int, sync bool) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return err
		}
		if sync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// attempts tries what a container must not do, and prints how each ended.
func attempts() {
	zero := []byte{0}
	p := uintptr(unsafe.Pointer(&zero[0]))
	path := func(s string) uintptr { b, _ := syscall.BytePtrFromString(s); return uintptr(unsafe.Pointer(b)) }
	_ = os.Mkdir("/mnt", 0o755)
	for _, a := range []struct {
		name string
		do   func() error
	}{
		{"mount tmpfs", func() error { return syscall.Mount("tmpfs", "/mnt", "tmpfs", 0, "") }},
		{"mount proc", func() error { return syscall.Mount("proc", "/mnt", "proc", 0, "") }},
		{"mount bind", func() error { return syscall.Mount("/etc", "/mnt", "", syscall.MS_BIND, "") }},
		{"remount root", func() error { return syscall.Mount("", "/proc/sys", "", syscall.MS_REMOUNT|syscall.MS_BIND, "") }},
		{"umount", func() error { return syscall.Unmount("/proc/sys", syscall.MNT_DETACH) }},
		{"pivot_root", func() error { return syscall.PivotRoot("/", "/mnt") }},
		{"fsopen", func() error { return call(430, path("tmpfs"), 0, 0) }},
		{"open_tree", func() error { return call(428, 0, path("/"), 1) }},
		{"mknod char", func() error { return syscall.Mknod("/disk", syscall.S_IFCHR|0o666, 1<<8|5) }},
		{"mknod block", func() error { return syscall.Mknod("/disk", syscall.S_IFBLK|0o666, 254<<8) }},
		{"unshare user", func() error { return call(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER, 0, 0) }},
		{"unshare mount", func() error { return call(syscall.SYS_UNSHARE, syscall.CLONE_NEWNS, 0, 0) }},
		{"clone user", func() error {
			cmd := exec.Command("/proc/self/exe", "exit", "0")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
			return cmd.Run()
		}},
		{"clone3", func() error { return call(435, 0, 0, 0) }},
		{"setns", func() error { return call(308, 0, 0, 0) }},
		{"ptrace", func() error { return call(syscall.SYS_PTRACE, 0, 0, 0) }},
		{"bpf", func() error { return call(321, 0, p, 0) }},
		{"perf_event_open", func() error { return call(298, p, 0, 0) }},
		{"userfaultfd", func() error { return call(323, 0, 0, 0) }},
		{"io_uring_setup", func() error { return call(425, 1, p, 0) }},
		{"keyctl", func() error { return call(250, 0, ^uintptr(2), 0) }},
		{"add_key", func() error { return call(248, path("user"), path("k"), p) }},
		{"init_module", func() error { return call(175, p, 1, path("")) }},
		{"finit_module", func() error { return call(313, 0, path(""), 0) }},
		{"delete_module", func() error { return call(176, path("ext4"), 0, 0) }},
		{"kexec_load", func() error { return call(246, 0, 0, 0) }},
		{"open_by_handle_at", func() error { return call(304, 0, p, 0) }},
		{"fanotify_init", func() error { return call(300, 0, 0, 0) }},
		{"quotactl", func() error { return call(179, 0, 0, 0) }},
		{"swapon", func() error { return call(167, path("/mnt"), 0, 0) }},
		{"reboot", func() error { return call(169, 0, 0, 0) }},
		{"sethostname", func() error { return syscall.Sethostname([]byte("x")) }},
		{"settimeofday", func() error { return call(164, p, 0, 0) }},
		{"iopl", func() error { return call(172, 3, 0, 0) }},
		{"syslog", func() error { return call(103, 10, 0, 0) }},
		{"acct", func() error { return call(163, 0, 0, 0) }},
		{"raw socket", func() error { return sock(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP) }},
		{"packet socket", func() error { return sock(syscall.AF_PACKET, syscall.SOCK_RAW, 0) }},
		{"alg socket", func() error { return sock(38, syscall.SOCK_SEQPACKET, 0) }},
		{"vsock", func() error { return sock(40, syscall.SOCK_STREAM, 0) }},
		{"write sysrq", func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0) }},
		{"write sysctl", func() error { return os.WriteFile("/proc/sys/kernel/core_pattern", []byte("|/x"), 0) }},
		{"write uevent_helper", func() error { return os.WriteFile("/sys/kernel/uevent_helper", []byte("/x"), 0) }},
		{"write cgroup", func() error { return os.Mkdir("/sys/fs/cgroup/memory/mine", 0o755) }},
		{"read kcore", func() error { return nonEmpty("/proc/kcore") }},
		{"open kmsg", func() error { return nonEmpty("/dev/kmsg") }},
		{"open image's device", func() error { return nonEmpty("/disknode") }},
		{"raise nofile", func() error {
			return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1 << 21, Max: 1 << 21})
		}},
		{"add address", func() error {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
			if err != nil {
				return nil
			}
			var ifr [40]byte
			copy(ifr[:], "lo")
			return call3(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifr[0])))
		}},
		// What must work, or the list above proves nothing.
		{"positive: no new privileges", func() error {
			if on, _, e := syscall.Syscall6(syscall.SYS_PRCTL, 39, 0, 0, 0, 0, 0); on != 1 {
				return fmt.Errorf("prctl says %d %d", on, e)
			}
			return nil
		}},
		{"positive: socket", func() error { return sock(syscall.AF_INET6, syscall.SOCK_STREAM, 0) }},
		{"positive: fifo", func() error { return syscall.Mkfifo("/fifo", 0o600) }},
		{"positive: chown", func() error {
			if err := os.WriteFile("/owned", nil, 0o600); err != nil {
				return err
			}
			return os.Chown("/owned", 7, 7)
		}},
		{"positive: child", func() error { return exec.Command("/proc/self/exe", "exit", "0").Run() }},
		{"positive: dev null", func() error { return os.WriteFile("/dev/null", []byte("x"), 0) }},
		{"positive: shm", func() error { return os.WriteFile("/dev/shm/x", []byte("x"), 0o600) }},
		{"positive: low port", func() error {
			l, err := net.Listen("tcp", "127.0.0.1:80")
			if err == nil {
				l.Close()
			}
			return err
		}},
	} {
		if err := a.do(); err != nil {
			fmt.Printf("%s: denied: %v\n", a.name, err)
		} else {
			fmt.Printf("%s: allowed\n", a.name)
		}
	}
}

func call(n, a, b, c uintptr) error { return call3(n, a, b, c) }

func call3(n, a, b, c uintptr) error {
	if _, _, e := syscall.Syscall6(n, a, b, c, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

func sock(family, kind, proto int) error {
	fd, err := syscall.Socket(family, kind, proto)
	if err == nil {
		syscall.Close(fd)
	}
	return err
}

func nonEmpty(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.Read(make([]byte, 16))
	if n > 0 {
		return nil
	}
	return fmt.Errorf("nothing to read: %v", err)
}
