package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"rialto/provider"
	"rialto/provider/sandbox/internal/keeper"
)

// drainPatience is how long output may still come once a process has ended: a child that it left behind
// may hold its standard output for ever.
const drainPatience = time.Second

var errEnded = errors.New("the workload has ended")

// Exec implements [provider.Sandbox]. The process ends with ctx. A Read of r.Stdin that hangs outlives
// Exec until it returns, as with os/exec.
func (b *box) Exec(ctx context.Context, r provider.ExecRequest) (int, error) {
	code, err := b.exec(ctx, r)
	return code, b.err("exec in", err)
}

func (b *box) exec(ctx context.Context, r provider.ExecRequest) (int, error) {
	p, err := b.process(r)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := openStreams(ctx, r)
	if err != nil {
		return 0, err
	}
	defer s.close()
	reply, err := keeper.Call(ctx, b.dir(), keeper.Request{Op: keeper.OpExec, Exec: &keeper.Exec{Process: p, TTY: r.TTY}}, s.remote...)
	s.drain()
	if errors.Is(err, keeper.ErrGone) {
		err = errEnded
	}
	return reply.Code, err
}

// streams join a process's standard streams to a request's.
type streams struct {
	remote []*os.File // for the process
	local  []*os.File // ours
	output sync.WaitGroup
}

func openStreams(ctx context.Context, r provider.ExecRequest) (*streams, error) {
	if r.TTY {
		return openTerminal(ctx, r)
	}
	s := &streams{}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.remote, s.local = append(s.remote, in), append(s.local, stdin)
	s.feed(stdin, r.Stdin, func() { stdin.Close() })
	for _, w := range []io.Writer{r.Stdout, r.Stderr} {
		out, remote, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, err
		}
		s.remote, s.local = append(s.remote, remote), append(s.local, out)
		s.collect(w, out)
	}
	return s, nil
}

func openTerminal(ctx context.Context, r provider.ExecRequest) (*streams, error) {
	local, remote, err := pty.Open()
	if err != nil {
		return nil, err
	}
	terminal, err := reopen(local)
	if err != nil {
		remote.Close()
		return nil, err
	}
	s := &streams{remote: []*os.File{remote}, local: []*os.File{terminal}}
	if r.Rows > 0 && r.Cols > 0 {
		if err := resize(terminal, provider.Size{Rows: r.Rows, Cols: r.Cols}); err != nil {
			s.close()
			return nil, err
		}
	}
	go func() { // ends with ctx, which ends with the exec
		for {
			select {
			case <-ctx.Done():
				return
			case z, ok := <-r.Resize:
				if !ok || resize(terminal, z) != nil {
					return
				}
			}
		}
	}()
	const endOfInput = 4 // what a person types: a terminal has no other way to end its input
	s.feed(terminal, r.Stdin, func() { _, _ = terminal.Write([]byte{endOfInput}) })
	s.collect(r.Stdout, terminal)
	return s, nil
}

// resize tells the kernel the size of a terminal. It does not use File.Fd, after which reads would hold a
// thread and know no deadline.
func resize(terminal *os.File, z provider.Size) error {
	c, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = c.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: z.Rows, Col: z.Cols})
	})
	return errors.Join(err, set)
}

// reopen returns f as a file whose reads and writes do not hold a thread, and closes f.
func reopen(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (s *streams) feed(to io.Writer, from io.Reader, end func()) {
	if from == nil {
		end()
		return
	}
	go func() { // ends when the process stops reading or the reader ends
		_, _ = io.Copy(to, from) // the process may end first: not an error
		end()
	}()
}

func (s *streams) collect(to io.Writer, from *os.File) {
	if to == nil {
		to = io.Discard
	}
	s.output.Go(func() { // ends at the end of output or at drain's deadline
		if _, err := io.Copy(to, from); err != nil {
			// A terminal ends with EIO. A writer that fails must not hold the process: read on for nobody.
			_, _ = io.Copy(io.Discard, from)
		}
	})
}

// drain waits for the output after the process has ended.
func (s *streams) drain() {
	for _, f := range s.remote {
		f.Close()
	}
	for _, f := range s.local {
		_ = f.SetReadDeadline(time.Now().Add(drainPatience)) // fails on what is closed, and nobody reads that
	}
	s.output.Wait()
}

func (s *streams) close() {
	for _, f := range append(s.remote, s.local...) {
		f.Close()
	}
}
