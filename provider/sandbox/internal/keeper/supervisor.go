// Package keeper is the process that stands beside each sandbox and outlives the agent: it starts the
// container, keeps its output and its exit, and ends it at the deadline even when agent and broker are dead.
//
// It is the first process of a PID namespace. runc and the container live in namespaces below, so the
// kernel kills them when the supervisor ends, however it ends. It does its mounts in a mount namespace of
// its own, made when the program starts: nothing of it is in the host's. It ends when the exit is on disk.
package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
)

const (
	socketFD = 3 // inherited
	diskFD   = 4 // inherited with DiskInherited
	// unstarted is how long a sandbox may wait for its program before it is given up.
	unstarted = 6 * time.Hour
	maxExecs  = 64
)

type state int

const (
	prepared state = iota
	starting
	running
	ended
)

type supervisor struct {
	dir   string
	disk  *os.File // a mount that is in no namespace yet; nil: what the workload writes is not limited
	alarm *alarm
	log   *LogWriter
	space *space

	mu     sync.Mutex
	state  state
	init   *os.Process // while running
	reason string      // why it was ended, the first that was given
	asked  bool        // killed in place of a SIGTERM that it would not have survived as another process
	start  Start
	execs  int // running now
	serial int // of the last exec

	exit provider.Exit // set before done is closed
	done chan struct{}
}

// Environment is what a supervisor is started with: nothing of the agent's.
func Environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOTRACEBACK=single"}
}

// OpenErrors opens the file for a supervisor's standard error.
func OpenErrors(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, errFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// Main is the supervisor of the sandbox in args[0]. It returns the process's exit code.
func Main(args []string) int {
	var disk *os.File
	switch {
	case len(args) == 1:
	case len(args) == 2 && args[1] == DiskInherited:
		unix.CloseOnExec(diskFD) // no child may have the files without the container around them
		disk = os.NewFile(diskFD, DiskDir)
	default:
		fmt.Fprintln(os.Stderr, "usage: sandbox-supervisor DIR ["+DiskInherited+"] (started by the agent)")
		return 2
	}
	// It lives for days and does little: a small heap is worth more than its speed.
	debug.SetGCPercent(20)
	if err := supervise(args[0], disk); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func supervise(dir string, disk *os.File) error {
	// A service manager that stops the agent may signal us too: outlive it. Not ignored but caught, because
	// an ignored signal would stay ignored in the container.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	f := os.NewFile(socketFD, SocketFile)
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("inherited socket: %w", err)
	}
	defer l.Close()
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("inherited socket is not a unix socket")
	}
	a, err := newAlarm()
	if err != nil {
		return err
	}
	s := &supervisor{dir: dir, disk: disk, alarm: a, space: newSpace(), done: make(chan struct{})}
	if err := a.set(unstarted); err != nil {
		return err
	}
	go s.watchdog() // ends with the process
	var replies sync.WaitGroup
	go func() { // ends when the listener is closed
		for {
			c, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			replies.Go(func() { s.serve(c) })
		}
	}()
	<-s.done
	if err := listener.Close(); err != nil {
		return err
	}
	replies.Wait() // each ends with done
	return nil
}

func (s *supervisor) watchdog() {
	if err := s.alarm.wait(); err != nil {
		fmt.Fprintln(os.Stderr, "alarm:", err)
	}
	s.kill("deadline")
}

// kill ends the workload without asking it.
func (s *supervisor) kill(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" && s.state != ended {
		s.reason = reason
	}
	switch s.state {
	case prepared:
		s.finish(provider.Exit{Code: 128 + int(syscall.SIGKILL), Reason: s.reason})
	case running:
		s.signal(syscall.SIGKILL)
	case starting: // run kills it when it is there
	case ended:
	}
}

func (s *supervisor) signal(sig os.Signal) {
	if err := s.init.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintln(os.Stderr, "signal workload:", err)
	}
}

// stop asks the workload to end, and ends it after grace; without grace it does not ask. One that would not
// hear it is ended at once: Python and sh, for example, which as a container's first process would go on.
func (s *supervisor) stop(grace time.Duration, reason string) {
	s.mu.Lock()
	if s.reason == "" && s.state != ended {
		s.reason = reason
	}
	if s.state != running {
		grace = 0
	}
	p := s.init
	s.mu.Unlock()
	if grace > 0 {
		grace = s.ask(p, grace)
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-s.done:
		return
	case <-t.C:
	}
	s.kill(reason)
	<-s.done
}

// ask sends SIGTERM and returns how long to wait for the end: not at all when nothing can come of it.
func (s *supervisor) ask(p *os.Process, grace time.Duration) time.Duration {
	r := s.reaction(p.Pid, syscall.SIGTERM)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != running:
	case r == heard:
		s.signal(syscall.SIGTERM)
		return grace
	case r == lost:
		s.asked = true
	}
	return 0
}

// run starts the program and returns when its process exists. After an error the supervisor ends.
func (s *supervisor) run(ctx context.Context, q Start) error {
	s.mu.Lock()
	if s.state != prepared {
		s.mu.Unlock()
		return errors.New("was started before")
	}
	s.state, s.start = starting, q
	s.mu.Unlock()
	s.log = NewLogWriter(filepath.Join(s.dir, LogDir), q.LogLimit)
	var p *os.Process
	var output *sync.WaitGroup
	err := s.alarm.set(q.Deadline)
	if err == nil {
		p, output, err = s.launch(ctx, q)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, startedFile), nil, 0o600)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.finish(provider.Exit{Code: 127, Reason: "not started: " + err.Error()})
		return err
	}
	s.state, s.init = running, p
	if s.reason != "" { // ended while starting
		s.signal(syscall.SIGKILL)
	}
	go s.await(p, output)
	return nil
}

// await waits for the end of the workload and of its output.
func (s *supervisor) await(p *os.Process, output *sync.WaitGroup) {
	st, err := p.Wait()
	exit := provider.Exit{Code: 128 + int(syscall.SIGKILL)}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wait for workload:", err)
	} else if ws, ok := st.Sys().(syscall.WaitStatus); ok {
		exit.Code = ws.ExitStatus()
		if ws.Signaled() {
			exit.Code = 128 + int(ws.Signal())
		}
	}
	output.Wait() // ends: with the first process of the container the kernel ended all others
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked && exit.Code == 128+int(syscall.SIGKILL) {
		exit.Code = 128 + int(syscall.SIGTERM)
	}
	exit.Reason = s.reason
	if exit.Reason == "" && exit.Code != 0 {
		if n, err := host.OOMKills(s.start.CgroupPath); err == nil && n > 0 {
			exit.Reason = "out of memory"
		}
	}
	s.finish(exit)
}

// finish makes the end durable before anyone is told. s.mu is held.
func (s *supervisor) finish(exit provider.Exit) {
	if s.log != nil {
		if err := s.log.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "log:", err)
		}
	}
	b, err := json.Marshal(exit)
	if err == nil {
		err = writeDurable(s.dir, exitFile, b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "record exit:", err)
	}
	s.state, s.exit = ended, exit
	close(s.done)
}
