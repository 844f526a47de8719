package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"rialto/tunnel"
)

// Client asks the console of one job. Methods are safe for concurrent use.
type Client struct {
	// Retrying, if not nil, hears why Logs connects again, before it does.
	Retrying func(err error)
	// GiveUp is how long Logs tries to connect before it returns the error; zero means two minutes, which is
	// more than a restart of the agent takes.
	GiveUp time.Duration

	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	addr string
}

// NewClient returns a client that dials the job's address through a tunnel.
func NewClient(dial func(ctx context.Context, network, addr string) (net.Conn, error), job netip.Addr) *Client {
	return &Client{dial: dial, addr: netip.AddrPortFrom(job, tunnel.ConsolePort).String()}
}

// Status reports the present state of the workload.
func (c *Client) Status(ctx context.Context) (Status, error) {
	a, err := c.ask(ctx, "status", http.MethodGet, "/v1/status", nil, "")
	if err != nil {
		return Status{}, err
	}
	defer a.close()
	data, err := io.ReadAll(io.LimitReader(a.body, maxHeader))
	if err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	var s Status
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return s, nil
}

// Dial connects to a TCP port of the workload, on its loopback addresses. The connection can end its writing
// side alone: it has CloseWrite.
func (c *Client) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	a, err := c.ask(ctx, "dial", http.MethodPost, "/v1/dial?port="+strconv.Itoa(int(port)), nil, dialProtocol)
	if err != nil {
		return nil, err
	}
	if !a.release() {
		a.close()
		return nil, ctx.Err()
	}
	return a.conn, nil
}

// Key hands the host the key of what has a root.
func (c *Client) Key(ctx context.Context, root string, key Secret) error {
	a, err := c.ask(ctx, "key", http.MethodPost, "/v1/key?root="+url.QueryEscape(root), key[:], "")
	if err != nil {
		return err
	}
	a.close()
	return nil
}

// answer is a response whose body or upgraded connection is still to be used.
type answer struct {
	body io.ReadCloser
	conn *bufferedConn
	stop func() bool // ends the context's hold on the connection
}

func (a *answer) close() {
	a.stop()
	a.conn.Close()
}

// release takes the connection out of the context's hands; false if the context has ended before.
func (a *answer) release() bool { return a.stop() && a.conn.SetDeadline(time.Time{}) == nil }

// ask sends one request on a connection of its own, which ctx closes, and reads the header of the answer.
func (c *Client) ask(ctx context.Context, op, method, path string, body []byte, protocol string) (*answer, error) {
	u := &url.URL{Scheme: "http", Host: c.addr}
	u, err := u.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if protocol == "" {
		req.Close = true
	} else {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", protocol)
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.dial(short, "tcp", c.addr)
	if err != nil {
		return nil, fmt.Errorf("%s: reach the job's console: %w", op, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	a, err := exchange(conn, req, op, protocol)
	if err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	a.stop = stop
	return a, nil
}

func exchange(conn net.Conn, req *http.Request, op, protocol string) (*answer, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("%s: send: %w", op, err)
	}
	header := &io.LimitedReader{R: conn, N: maxHeader}
	r := bufio.NewReader(header)
	res, err := http.ReadResponse(r, req) //nolint:bodyclose // the answer carries it; closing the connection ends it
	if err != nil {
		return nil, fmt.Errorf("%s: answer: %w", op, err)
	}
	header.N = math.MaxInt64
	want := http.StatusOK
	if protocol != "" {
		want = http.StatusSwitchingProtocols
	}
	if res.StatusCode != want {
		text, err := io.ReadAll(io.LimitReader(res.Body, maxText))
		if err != nil {
			return nil, fmt.Errorf("%s: answer %d: %w", op, res.StatusCode, err)
		}
		return nil, &RemoteError{Op: op, Code: res.StatusCode, Message: printable(text)}
	}
	return &answer{body: res.Body, conn: &bufferedConn{Conn: conn, r: r}}, nil
}

// printable makes a stranger's text safe for a terminal.
func printable(text []byte) string {
	clean := bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, bytes.ToValidUTF8(text, []byte("?")))
	return string(bytes.TrimSpace(clean))
}

// final reports whether asking again would get the same.
func final(err error) bool {
	_, remote := errors.AsType[*RemoteError](err)
	return remote || errors.Is(err, errFrame)
}
