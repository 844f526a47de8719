package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"rialto/tunnel/internal/splice"
)

// maxConns bounds the connections of one console; one more is closed at once.
const maxConns = 256

// Serve answers the requests of the customer on ln until ctx ends, closes ln and every connection, waits for
// the Backend's calls to return, and returns nil then. Connections from any other address are closed unread.
func Serve(ctx context.Context, ln net.Listener, customer netip.Addr, b Backend, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{backend: b, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/logs", s.logs)
	mux.HandleFunc("POST /v1/exec", s.exec)
	mux.HandleFunc("POST /v1/dial", s.dial)
	mux.HandleFunc("POST /v1/key", s.key)
	h := &http.Server{
		Handler:           s.count(mux),
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: patience,
		IdleTimeout:       patience,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { h.Close() }) //nolint:errcheck,gosec // closes what it can
	defer stop()
	err := h.Serve(&guard{Listener: ln, customer: customer.Unmap(), log: log, slots: make(chan struct{}, maxConns)})
	ended := ctx.Err() != nil
	cancel()
	s.finish()
	if ended && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type server struct {
	backend Backend
	log     *slog.Logger
	calls   sync.WaitGroup

	mu    sync.Mutex // orders the last calls.Add before calls.Wait
	ended bool
}

// count lets Serve wait for handlers; http.Server.Close does not.
func (s *server) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			return
		}
		s.calls.Add(1)
		s.mu.Unlock()
		defer s.calls.Done()
		h.ServeHTTP(w, r)
	})
}

func (s *server) finish() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.calls.Wait()
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.backend.Status(r.Context())
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(st); err != nil {
		s.log.Debug("console answer", "err", err)
	}
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExec))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	req, err := parseExec(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	conn, err := upgrade(w, r, execProtocol)
	if err != nil {
		s.log.Debug("console exec", "err", err)
		return
	}
	defer conn.Close()
	if err := runExec(r.Context(), conn, req, s.backend.Exec); err != nil {
		s.log.Debug("console exec", "err", err)
	}
}

func (s *server) dial(w http.ResponseWriter, r *http.Request) {
	port, err := parsePort(r.URL.Query().Get("port"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	far, err := s.backend.Dial(r.Context(), port)
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer far.Close()
	conn, err := upgrade(w, r, dialProtocol)
	if err != nil {
		s.log.Debug("console dial", "err", err)
		return
	}
	defer conn.Close()
	splice.Join(r.Context(), conn, far)
}

func (s *server) key(w http.ResponseWriter, r *http.Request) {
	root := r.URL.Query().Get("root")
	if root == "" || len(root) > maxRoot {
		refuse(w, http.StatusBadRequest, fmt.Errorf("root %q is not the name of a block", clip(root[:min(len(root), maxRoot)])))
		return
	}
	var key Secret
	body := http.MaxBytesReader(w, r.Body, int64(len(key)))
	if _, err := io.ReadFull(body, key[:]); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("a key has %d bytes", len(key)))
		return
	}
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, fmt.Errorf("a key has %d bytes", len(key)))
		return
	}
	switch err := s.backend.Key(r.Context(), root, key); {
	case errors.Is(err, ErrNotPrivate):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
	default:
		w.WriteHeader(http.StatusOK)
	}
}

// refuse answers with one line of text.
func refuse(w http.ResponseWriter, code int, err error) {
	http.Error(w, clip(err.Error()), code)
}

// guard is a listener that accepts one address only and a bounded number of connections.
type guard struct {
	net.Listener
	customer netip.Addr
	log      *slog.Logger
	slots    chan struct{}
}

// Accept implements net.Listener.
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || from.Addr().Unmap() != g.customer {
			g.log.Warn("console refused a connection", "from", c.RemoteAddr().String())
			c.Close()
			continue
		}
		select {
		case g.slots <- struct{}{}:
			return &slotConn{Conn: c, free: sync.OnceFunc(func() { <-g.slots })}, nil
		default:
			g.log.Warn("console has too many connections", "limit", maxConns)
			c.Close()
		}
	}
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// CloseWrite ends the writing side, if the connection can.
func (c *slotConn) CloseWrite() error { return splice.CloseWrite(c.Conn) }
