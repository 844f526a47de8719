//go:build linux

package campaign

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore/mount"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case hostVerb:
			os.Exit(hostMain(os.Args[2:], os.Stdin, os.Stdout))
		case serverVerb:
			os.Exit(mount.ServerMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// process is a host that was started.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	log    string // file
	events chan event
}

// startHost starts a host on a directory.
func startHost(dir string, quota int64) (*process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &process{
		cmd: exec.Command(os.Args[0], hostVerb, dir, strconv.FormatInt(quota, 10)),
		log: filepath.Join(dir, "log"), events: make(chan event, 1000),
	}
	stderr, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	p.cmd.Stderr = stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		defer close(p.events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil { // the last line may be torn
				p.events <- e
			}
		}
	}()
	return p, nil
}

// order tells the host to do something.
func (p *process) order(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = p.in.Write(append(line, '\n'))
	return err
}

var errSilent = errors.New("host says nothing")

// next returns the next event.
func (p *process) next(limit <-chan time.Time) (event, error) {
	select {
	case e, ok := <-p.events:
		if !ok {
			return event{}, fmt.Errorf("host ended: %s", p.said())
		}
		return e, nil
	case <-limit:
		return event{}, errSilent
	}
}

// said returns the end of the host's log.
func (p *process) said() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(b[max(0, len(b)-3000):])
}

// kill ends the host as a power cut of its process would, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it ended
	for range p.events {     // until the pipe is empty
	}
	_ = p.cmd.Wait() // killed
	_ = p.in.Close()
}

// end has the host end as it should.
func (p *process) end() error {
	err := p.order(order{Op: opEnd})
	hang := time.AfterFunc(2*time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer hang.Stop()
	for range p.events { // until the pipe is empty
	}
	if err = errors.Join(err, p.cmd.Wait()); err != nil {
		return fmt.Errorf("%w: %s", err, p.said())
	}
	return nil
}

// serverPID returns the process of the mount server of a host's directory, or zero.
func serverPID(dir string) int {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		if args, err := os.ReadFile(c); err == nil && strings.Contains(string(args), serverVerb+"\x00"+dir) {
			if pid, err := strconv.Atoi(strings.Split(c, "/")[2]); err == nil {
				return pid
			}
		}
	}
	return 0
}

// awaitEnd waits for the end of a process.
func awaitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000); err == nil || n > 0 {
			return
		}
	}
}

// left lists mounts, loop devices and processes of a directory.
func left(dir string) []string {
	var all []string
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(info)) {
		if strings.Contains(line, dir+"/") {
			all = append(all, "mounted: "+line)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if file, err := os.ReadFile(l); err == nil && strings.Contains(string(file), dir+"/") {
			all = append(all, "attached: "+l+" "+string(file))
		}
	}
	if pid := serverPID(dir); pid != 0 {
		all = append(all, "running: "+strconv.Itoa(pid))
	}
	return all
}

// cleanUp takes away what a host left that could not end as it should.
func cleanUp(tb testing.TB, dir string) {
	tb.Helper()
	if pid := serverPID(dir); pid != 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		awaitEnd(pid)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Error(err)
	}
	for line := range strings.Lines(string(info)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") {
			_ = unix.Unmount(at, unix.MNT_DETACH) // it may have gone with another
		}
	}
}
