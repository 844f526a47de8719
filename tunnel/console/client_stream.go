package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	retryFirst    = 50 * time.Millisecond
	retryMax      = time.Second
	defaultGiveUp = 2 * time.Minute
)

// Logs feeds the workload's output to sink from the beginning, each byte once, and with follow until the
// workload has ended or ctx has. It connects again where it was when the connection breaks. Ended says whether
// exit is the workload's exit code.
func (c *Client) Logs(ctx context.Context, follow bool, sink Sink) (exit int, ended bool, err error) {
	giveUp := c.GiveUp
	if giveUp == 0 {
		giveUp = defaultGiveUp
	}
	var from int64
	delay, since := retryFirst, time.Now()
	for {
		e, err := c.logsOnce(ctx, follow, &from, sink, func() { delay, since = retryFirst, time.Now() })
		switch sunk := (*sinkError)(nil); {
		case err == nil:
			return e.Code, true, nil
		case errors.Is(err, errPause):
			return 0, false, nil
		case ctx.Err() != nil:
			return 0, false, ctx.Err()
		case errors.As(err, &sunk):
			return 0, false, sunk.err
		case final(err) || !follow || time.Since(since) > giveUp:
			return 0, false, err
		}
		if c.Retrying != nil {
			c.Retrying(err)
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(delay):
		}
		delay = min(2*delay, retryMax)
	}
}

// errPause is the end of the output so far.
var errPause = errors.New("no end yet")

// sinkError tells the caller's own error from the connection's.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }

// logsOnce reads one connection's frames and moves from along. It calls alive for each.
func (c *Client) logsOnce(ctx context.Context, follow bool, from *int64, sink Sink, alive func()) (Exit, error) {
	path := "/v1/logs?from=" + strconv.FormatInt(*from, 10)
	if follow {
		path += "&follow=1"
	}
	a, err := c.ask(ctx, "logs", http.MethodGet, path, nil, "")
	if err != nil {
		return Exit{}, err
	}
	defer a.close()
	return readServer(a.conn.SetReadDeadline, a.body, "logs", func(stream byte, p []byte) error {
		if err := sink(stream, p); err != nil {
			return &sinkError{err}
		}
		*from += int64(len(p))
		return nil
	}, alive)
}

// readServer takes the server's frames up to the last one.
func readServer(deadline func(time.Time) error, r io.Reader, op string, sink Sink, alive func()) (Exit, error) {
	buf := make([]byte, MaxPayload)
	for {
		if err := deadline(time.Now().Add(silence)); err != nil {
			return Exit{}, fmt.Errorf("%s: %w", op, err)
		}
		k, p, err := readFrame(r, buf)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Exit{}, fmt.Errorf("%s: %w", op, err)
		}
		alive()
		switch k {
		case kindStdout, kindStderr:
			if err := sink(byte(k), p); err != nil {
				return Exit{}, err
			}
		case kindBeat:
		case kindPause:
			return Exit{}, errPause
		case kindExit:
			return parseExit(p)
		case kindError:
			return Exit{}, &RemoteError{Op: op, Message: printable(p)}
		default:
			return Exit{}, fmt.Errorf("%s: %w: type %d from a server", op, errFrame, k)
		}
	}
}

// Exec runs another process in the job and returns its exit code. It returns as soon as the process has ended;
// a Read of Stdin that still waits then is left to its owner.
func (c *Client) Exec(ctx context.Context, e Exec) (int, error) {
	body, err := json.Marshal(execRequest{
		Args: e.Args, Env: e.Env, Workdir: e.Workdir,
		TTY: e.TTY, Rows: e.Size.Rows, Cols: e.Size.Cols, Stdin: e.Stdin != nil,
	})
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	if len(body) > maxExec {
		return 0, fmt.Errorf("exec: request of more than %d bytes", maxExec)
	}
	a, err := c.ask(ctx, "exec", http.MethodPost, "/v1/exec", body, execProtocol)
	if err != nil {
		return 0, err
	}
	defer a.close()
	if err := a.conn.SetWriteDeadline(time.Time{}); err != nil { // a process may be slow to read its input
		return 0, fmt.Errorf("exec: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := &frameWriter{write: func(p []byte) error {
		_, err := a.conn.Write(p)
		return err
	}}
	if e.Stdin != nil {
		go sendStdin(in, e.Stdin)
	}
	if e.Resize != nil {
		go sendResize(ctx, in, e.Resize)
	}
	exit, err := readServer(a.conn.SetReadDeadline, a.conn, "exec", e.sink, func() {})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return exit.Code, err
}

// sink writes output to where the caller wants it.
func (e Exec) sink(stream byte, p []byte) error {
	w := e.Stdout
	if stream == Stderr {
		w = e.Stderr
	}
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// sendStdin sends the input and its end. When the connection has failed, the reader of frames says so.
func sendStdin(in *frameWriter, r io.Reader) {
	buf := make([]byte, MaxPayload/2)
	for {
		n, err := r.Read(buf)
		if in.data(kindStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = in.send(appendFrame(nil, kindStdin, nil))
			return
		}
	}
}

func sendResize(ctx context.Context, in *frameWriter, resize <-chan Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-resize:
			if !ok || in.send(resizeFrame(size)) != nil {
				return
			}
		}
	}
}
