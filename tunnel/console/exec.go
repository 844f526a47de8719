package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"rialto/tunnel/internal/splice"
)

// Protocols to which a connection is upgraded.
const (
	execProtocol = "rialto-exec/1"
	dialProtocol = "rialto-dial/1"
)

// linger is how long the server reads on after the last frame: closing with unread bytes would reset the
// connection and might take that frame with it.
const linger = 5 * time.Second

// upgrade answers 101 and takes the connection over.
func upgrade(w http.ResponseWriter, r *http.Request, protocol string) (net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		err := fmt.Errorf("want header Upgrade: %s", protocol)
		refuse(w, http.StatusUpgradeRequired, err)
		return nil, err
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return nil, err
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	err = conn.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = io.WriteString(conn, answer)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	early, err := rw.Peek(rw.Reader.Buffered())
	if err != nil {
		conn.Close()
		return nil, err
	}
	// Not through rw: there the end of the stream, which may be a half-close, would end the request's context.
	return &bufferedConn{Conn: conn, r: io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)}, nil
}

// bufferedConn is a connection of which the HTTP layer may have read more than its own part.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends the writing side, if the connection can.
func (c *bufferedConn) CloseWrite() error { return splice.CloseWrite(c.Conn) }

// runExec runs one process with its streams on conn and sends the last frame. A client that goes away ends the
// process.
func runExec(ctx context.Context, conn net.Conn, req execRequest, run func(context.Context, Exec) (int, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) }) // ends the reader
	defer stop()

	out := &frameWriter{write: func(p []byte) error {
		err := conn.SetWriteDeadline(time.Now().Add(stuck))
		if err == nil {
			_, err = conn.Write(p)
		}
		if err != nil {
			cancel() // the reader may not notice: it waits while the process does not read its input
		}
		return err
	}}
	stdin, feed := io.Pipe()
	resize := make(chan Size, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		err := readClient(conn, feed, resize)
		feed.CloseWithError(err)
		cancel() // the client has gone, or spoke nonsense
	})

	e := Exec{
		Args: req.Args, Env: req.Env, Workdir: req.Workdir,
		TTY: req.TTY, Size: Size{Rows: req.Rows, Cols: req.Cols},
		Stdout: streamWriter{out, kindStdout}, Stderr: streamWriter{out, kindStderr}, Resize: resize,
	}
	if req.Stdin {
		e.Stdin = stdin
	}
	beating := out.beat(ctx)
	code, err := run(ctx, e)
	beating()
	stdin.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		err = errors.Join(err, out.fail(ctx, err))
	} else {
		err = out.send(exitFrame(Exit{Code: code}))
	}
	if splice.CloseWrite(conn) != nil || conn.SetReadDeadline(time.Now().Add(linger)) != nil {
		conn.Close()
	}
	reader.Wait()
	return err
}

// readClient takes the client's frames until it has gone. Input that nobody reads is thrown away.
func readClient(r io.Reader, stdin *io.PipeWriter, resize chan Size) error {
	buf := make([]byte, MaxPayload)
	for {
		k, p, err := readFrame(r, buf)
		if err != nil {
			return err
		}
		switch k {
		case kindStdin:
			if len(p) == 0 {
				err = stdin.Close()
			} else if _, err = stdin.Write(p); errors.Is(err, io.ErrClosedPipe) {
				err = nil
			}
		case kindResize:
			var size Size
			if size, err = parseResize(p); err == nil {
				latest(resize, size)
			}
		default:
			err = fmt.Errorf("%w: type %d from a client", errFrame, k)
		}
		if err != nil {
			return err
		}
	}
}

// latest puts v into a channel of one place, in place of an older value. It is the only sender.
func latest(ch chan Size, v Size) {
	select {
	case <-ch:
	default:
	}
	select {
	case ch <- v:
	default:
	}
}

// streamWriter sends what is written as frames of one stream.
type streamWriter struct {
	out  *frameWriter
	kind kind
}

// Write implements io.Writer.
func (w streamWriter) Write(p []byte) (int, error) {
	if err := w.out.data(w.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
