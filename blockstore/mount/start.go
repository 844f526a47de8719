package mount

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rialto/blockstore/mount/internal/wire"
)

// errGone reports that no server answers.
var errGone = errors.New("mount server is gone")

// handshake bounds how long a server that was just started may take to answer.
const handshake = 30 * time.Second

// serverDir is the directory of the server that speaks our protocol. One that speaks another has its own, serves what
// it serves, and ends with that.
func (m *Mounts) serverDir() string {
	return filepath.Join(m.cfg.Dir, "server-"+strconv.Itoa(wire.Version))
}

// ensure starts a server if none answers.
func (m *Mounts) ensure(ctx context.Context) error {
	m.starting.Lock()
	defer m.starting.Unlock()
	_, err := m.call(ctx, wire.Request{Op: wire.OpList})
	if !errors.Is(err, errGone) {
		return err
	}
	if err := m.start(); err != nil {
		return fmt.Errorf("start mount server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	if _, err := m.call(ctx, wire.Request{Op: wire.OpList}); err != nil {
		said, _ := os.ReadFile(filepath.Join(m.serverDir(), "stderr")) // better than nothing
		return fmt.Errorf("mount server: %w: %s", err, said[:min(len(said), 1000)])
	}
	select {
	case m.started <- struct{}{}:
	default:
	}
	return nil
}

// start starts a server in a session of its own, so that it outlives this process.
func (m *Mounts) start() error {
	dir := m.serverDir()
	devices := filepath.Join(dir, wire.DeviceDir)
	// Of a server that was killed, the mount may be left. What is mounted on its files keeps them.
	if err := detach(devices); err != nil {
		return err
	}
	if err := os.MkdirAll(devices, 0o700); err != nil {
		return err
	}
	socket, err := listen(dir)
	if err != nil {
		return err
	}
	defer socket.Close()
	stderr, err := os.OpenFile(filepath.Join(dir, "stderr"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := &exec.Cmd{
		Path: m.cfg.Exe, Args: append(append([]string{}, m.cfg.Args...), dir, m.cfg.Linger.String()),
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOTRACEBACK=single"},
		Dir: "/", Stderr: stderr, ExtraFiles: []*os.File{socket},
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.cfg.Logger.Info("mount server started", "pid", cmd.Process.Pid)
	go func() { // ends with the server; only so that the kernel can forget it
		if err := cmd.Wait(); err != nil {
			m.cfg.Logger.Warn("mount server ended", "err", err)
		}
	}()
	return nil
}

// endServer has the server end once nothing is open. Whoever waits for a block waits no longer. It returns the server's
// process, or zero if there is none.
func (m *Mounts) endServer(ctx context.Context) (pid int, err error) {
	r, err := m.call(ctx, wire.Request{Op: wire.OpEnd})
	if errors.Is(err, errGone) {
		return 0, detach(filepath.Join(m.serverDir(), wire.DeviceDir))
	}
	return r.PID, err
}

// awaitEnd waits for the end of a process.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only looked at
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// call asks the server. It returns errGone if nobody answers.
func (m *Mounts) call(ctx context.Context, q wire.Request) (wire.Response, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return wire.Response{}, err
	}
	c, r, err := m.dial(ctx, wire.Calls)
	if err != nil {
		return wire.Response{}, err
	}
	defer func() { _ = c.Close() }() // the reply is here or will not come
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err = wire.Write(c, &wire.Call{Body: body}); err != nil {
		return wire.Response{}, fmt.Errorf("%w: %w", errGone, err)
	}
	reply, err := wire.Read(r)
	if ctx.Err() != nil {
		return wire.Response{}, ctx.Err()
	}
	if err != nil {
		return wire.Response{}, fmt.Errorf("%w: %w", errGone, err)
	}
	b, ok := reply.(*wire.Reply)
	if !ok {
		return wire.Response{}, fmt.Errorf("%T in place of a reply", reply)
	}
	var answer wire.Response
	if err := json.Unmarshal(b.Body, &answer); err != nil {
		return wire.Response{}, err
	}
	if answer.Error != "" {
		return wire.Response{}, errors.New(answer.Error)
	}
	return answer, nil
}

// dial connects to the server and greets it.
func (m *Mounts) dial(ctx context.Context, purpose byte) (*net.UnixConn, *bufio.Reader, error) {
	var c *net.UnixConn
	err := atDir(m.serverDir(), func(addr *net.UnixAddr) error {
		var err error
		c, err = net.DialUnix("unix", nil, addr)
		return err
	})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	r := bufio.NewReaderSize(c, 64<<10)
	err = wire.Write(c, &wire.Hello{Version: wire.Version, Purpose: purpose})
	if err == nil {
		var hello wire.Message
		if hello, err = wire.Read(r); err == nil {
			if h, ok := hello.(*wire.Hello); !ok || h.Version != wire.Version {
				err = fmt.Errorf("greeting %+v", hello)
			}
		}
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	return c, r, nil
}

// listen makes the socket that the server inherits: who dials is then never too early.
func listen(dir string) (*os.File, error) {
	if err := os.Remove(filepath.Join(dir, wire.SocketFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var f *os.File
	err := atDir(dir, func(addr *net.UnixAddr) error {
		l, err := net.ListenUnix("unix", addr)
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		f, err = l.File()
		return errors.Join(err, l.Close())
	})
	return f, err
}

// atDir names the socket of dir through a descriptor, because a socket's path may have 107 bytes only.
func atDir(dir string, use func(*net.UnixAddr) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a path descriptor
	return use(&net.UnixAddr{Net: "unix", Name: filepath.Join("/proc/self/fd", strconv.Itoa(fd), wire.SocketFile)})
}
