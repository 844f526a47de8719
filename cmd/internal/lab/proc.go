package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long a program may take to tear its things down after SIGTERM.
const stopGrace = 20 * time.Second

// Proc is a daemon that the lab started.
type Proc struct {
	Name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Start runs a daemon on the host. Its output goes to a file in the lab's working directory.
func (h *Host) Start(name, program string, args ...string) (*Proc, error) {
	log := h.lab.Path(name + ".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // a restart goes on in the same file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := h.Command(context.Background(), program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	// Its own process group, so that Ctrl-C at the terminal reaches the lab alone, which then stops the
	// daemons in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Proc{Name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	h.lab.mu.Lock()
	h.lab.procs = append(h.lab.procs, p)
	h.lab.mu.Unlock()
	return p, nil
}

// Stop asks the daemon to end and waits; after a grace period it is killed, which is an error.
func (p *Proc) Stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopGrace):
		p.Kill()
		return fmt.Errorf("stop %s: still running %v after SIGTERM, killed", p.Name, stopGrace)
	}
}

// Kill ends the daemon without warning, as a crash would, and waits for its end.
func (p *Proc) Kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.done
}

// PeakRSS returns the most bytes of memory that the daemon has had resident.
func (p *Proc) PeakRSS() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)) // nsenter became the daemon
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no VmHWM in its status", p.Name)
}

// ended describes how a daemon ended by itself.
func (p *Proc) ended() error {
	return fmt.Errorf("%s ended (%s):\n%s", p.Name, p.cmd.ProcessState, p.Tail())
}

// Tail returns the end of what the daemon printed.
func (p *Proc) Tail() string { return tail(p.log) }

// Tail returns the end of what the named daemon printed last.
func (l *Lab) Tail(name string) string { return tail(l.Path(name + ".log")) }

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const keep = 4000
	if len(b) > keep {
		b = b[len(b)-keep:]
	}
	return string(b)
}

// await polls until ok or the daemon ends; it is how the lab learns that a daemon serves.
func (p *Proc) await(ctx context.Context, what string, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("waiting for %s: %w", what, p.ended())
		case <-ctx.Done():
			return fmt.Errorf("%s: %s did not come: %w\n%s", p.Name, what, err, p.Tail())
		case <-tick.C:
		}
	}
}

// snapshot is the set of things that a lab could leave behind.
type snapshot map[string]bool

func takeSnapshot(cfg Config) (snapshot, error) {
	s := make(snapshot)
	if err := s.processes(cfg); err != nil {
		return nil, err
	}
	if err := s.lines("/proc/self/mountinfo", func(fields []string) string {
		if len(fields) < 5 {
			return ""
		}
		return "mount " + fields[4]
	}); err != nil {
		return nil, err
	}
	names, err := filepath.Glob("/run/netns/*")
	if err != nil {
		return nil, err
	}
	sockets, err := filepath.Glob("/run/wireguard/*")
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		s["netns "+n] = true
	}
	for _, n := range sockets {
		s["socket "+n] = true
	}
	for _, n := range links {
		s["link "+filepath.Base(n)] = true
	}
	return s, s.cgroups()
}

// processes adds what runs one of our programs, from any directory of this lab.
func (s snapshot) processes(cfg Config) error {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if err != nil {
			continue // a kernel thread, or gone
		}
		under := func(dir string) bool { return dir != "" && strings.HasPrefix(target, dir+string(filepath.Separator)) }
		if under(cfg.Bin) || under(cfg.Work) || strings.HasSuffix(target, "/docker-registry") {
			pid := filepath.Base(filepath.Dir(exe))
			if state, err := os.ReadFile(filepath.Join("/proc", pid, "stat")); err == nil && strings.Contains(string(state), ") Z ") {
				continue
			}
			s["process "+pid+" "+target] = true
		}
	}
	return nil
}

func (s snapshot) lines(path string, key func([]string) string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if k := key(strings.Fields(line)); k != "" {
			s[k] = true
		}
	}
	return nil
}

// cgroups adds every control group of ours in every hierarchy.
func (s snapshot) cgroups() error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a group that vanished while we looked is not left over
		}
		if d.IsDir() && strings.Contains(path, "rialto") {
			s["cgroup "+path] = true
		}
		return nil
	})
}
