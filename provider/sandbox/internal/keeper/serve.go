package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// requestPatience is how long a connection may take to say what it wants.
const requestPatience = 10 * time.Second

// serve answers one request.
func (s *supervisor) serve(c *net.UnixConn) {
	defer func() { _ = c.Close() }() // the reply was written, or nobody waits for it
	q, files, err := receive(c)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "request:", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends when either side closes the connection
		var b [1]byte
		_, _ = c.Read(b[:]) // the client sends no more: this is its end
		cancel()
	}()
	reply := s.answer(ctx, q, files)
	b, err := json.Marshal(reply)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reply:", err)
		return
	}
	if _, err := c.Write(b); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "reply:", err)
	}
}

func (s *supervisor) answer(ctx context.Context, q Request, files []*os.File) Reply {
	var err error
	switch q.Op {
	case OpStart:
		if q.Start == nil {
			return Reply{Error: "start without its arguments"}
		}
		// Not ctx: a start outlives an agent that dies while it waits for it.
		err = s.run(context.WithoutCancel(ctx), *q.Start)
	case OpExtend:
		err = s.alarm.set(q.Duration)
	case OpStop:
		s.stop(q.Duration, q.Reason)
		return Reply{Exit: &s.exit}
	case OpWait:
		select {
		case <-s.done:
			return Reply{Exit: &s.exit}
		case <-ctx.Done():
			err = ctx.Err()
		}
	case OpExec:
		if q.Exec == nil {
			return Reply{Error: "exec without its arguments"}
		}
		var code int
		if code, err = s.exec(ctx, *q.Exec, files); err == nil {
			return Reply{Code: code}
		}
	default:
		err = fmt.Errorf("unknown operation %q", q.Op)
	}
	if err != nil {
		return Reply{Error: err.Error()}
	}
	return Reply{}
}

func receive(c *net.UnixConn) (Request, []*os.File, error) {
	if err := c.SetReadDeadline(time.Now().Add(requestPatience)); err != nil {
		return Request{}, nil, err
	}
	buf := make([]byte, maxMessage)
	rights := make([]byte, unix.CmsgSpace(3*4))
	n, nr, flags, _, err := c.ReadMsgUnix(buf, rights)
	if err != nil {
		return Request{}, nil, err
	}
	files, err := descriptors(rights[:nr])
	if err != nil {
		return Request{}, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return Request{}, files, errors.New("too long")
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return Request{}, files, err
	}
	var q Request
	return q, files, json.Unmarshal(buf[:n], &q)
}

func descriptors(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of message, which carries no descriptor
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stdio"))
		}
	}
	return files, nil
}
