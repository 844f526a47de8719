package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"rialto/blockstore/mount/internal/wire"
)

// patient is how long a connection may take to say what it wants.
const patient = 10 * time.Second

const maxFile = 2 << 30

// serve answers one connection.
func (s *server) serve(c *net.UnixConn) {
	defer func() { _ = c.Close() }() // everything was said
	r := bufio.NewReader(c)
	err := s.greet(c, r)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		s.log.Warn("connection", "err", err)
	}
}

func (s *server) greet(c *net.UnixConn, r *bufio.Reader) error {
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return err
	}
	m, err := wire.Read(r)
	if err != nil {
		return err
	}
	hello, ok := m.(*wire.Hello)
	if !ok {
		return fmt.Errorf("%T in place of a greeting", m)
	}
	if err := wire.Write(c, &wire.Hello{Version: wire.Version}); err != nil {
		return err
	}
	if hello.Version != wire.Version {
		return fmt.Errorf("agent speaks version %d", hello.Version)
	}
	if hello.Purpose == wire.Feed {
		if err := c.SetDeadline(time.Time{}); err != nil {
			return err
		}
		return s.store.attach(c).run(r)
	}
	if m, err = wire.Read(r); err != nil {
		return err
	}
	call, ok := m.(*wire.Call)
	if !ok {
		return fmt.Errorf("%T in place of a call", m)
	}
	var q wire.Request
	var answer wire.Response
	if err = json.Unmarshal(call.Body, &q); err == nil {
		answer, err = s.answer(q)
	}
	if err != nil {
		answer = wire.Response{Error: err.Error()}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return wire.Write(c, &wire.Reply{Body: body})
}

func (s *server) answer(q wire.Request) (wire.Response, error) {
	switch q.Op {
	case wire.OpAdd:
		return wire.Response{}, s.add(q)
	case wire.OpMount:
		return wire.Response{}, s.mount(q)
	case wire.OpRemove:
		s.mu.Lock()
		defer s.mu.Unlock()
		if e := s.roots[q.Root]; e != nil {
			e.wanted = false
			if q.Forget {
				e.tree.gone.Store(true)
			}
			s.tidy(e)
		}
		return wire.Response{}, nil
	case wire.OpList:
		return wire.Response{Served: s.list()}, nil
	case wire.OpTrace:
		_, t := s.byRoot(q.Root)
		if t == nil {
			return wire.Response{}, fmt.Errorf("tree %s is not served", q.Root)
		}
		return wire.Response{Trace: t.touches()}, nil
	case wire.OpFailures:
		return wire.Response{Failures: s.store.latest()}, nil
	case wire.OpEnd:
		s.store.close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ending = true
		return wire.Response{PID: os.Getpid()}, nil
	}
	return wire.Response{}, fmt.Errorf("unknown operation %q", q.Op)
}

// add serves a tree. One that is served already stays as it is: equal names are equal trees.
func (s *server) add(q wire.Request) error {
	if q.Root.IsZero() || q.Deadline <= 0 {
		return fmt.Errorf("impossible root or deadline %s", q.Deadline)
	}
	s.store.open()
	s.mu.Lock()
	if e := s.roots[q.Root]; e != nil {
		if !e.wanted { // only somebody's open file kept it, and nobody said what became of its blocks
			s.store.forget(e.tree.blocks)
			e.tree.gone.Store(false)
			e.wanted = true
		}
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	table, err := readTable(q.Table, q.Secret)
	if err != nil {
		return fmt.Errorf("%s: %w", q.Table, err)
	}
	t := newTree(q.Root, table, s.store, q.Deadline)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.roots[q.Root]; e != nil { // another call was faster
		e.wanted = true
		s.store.drop(t.blocks)
		return nil
	}
	s.ending = false
	number, ok := s.known[q.Root]
	if !ok {
		number = uint64(len(s.known)) + 1
		s.known[q.Root] = number
	}
	e := &entry{tree: t, number: number, wanted: true}
	s.roots[q.Root], s.numbers[e.number] = e, e
	return nil
}

// mount mounts a tree's own file system. It is served until somebody unmounts it.
func (s *server) mount(q wire.Request) error {
	number, data := s.byRoot(q.Root)
	if data == nil {
		return fmt.Errorf("tree %s is not served", q.Root)
	}
	b, err := readFile(q.Tree)
	if err != nil {
		return err
	}
	names := q.Names
	if names.IsZero() {
		names = q.Root
	}
	t, err := wire.ReadTree(context.Background(), b, names)
	if err != nil {
		return fmt.Errorf("%s: %w", q.Tree, err)
	}
	o := mountOptions()
	o.Options = []string{"default_permissions"}
	o.AllowOther = os.Geteuid() == 0 // others need their administrator's consent
	o.DirectMountFlags = unix.MS_RDONLY | unix.MS_NODEV
	o.EnableSymlinkCaching = true
	o.ExtraCapabilities = noOpenDir
	f, err := fuse.NewServer(newTreeFS(t, data), q.At, o)
	if err != nil {
		return fmt.Errorf("mount %s: %w", q.At, err)
	}
	s.opened(number)
	s.trees.Go(func() { // ends with the mount
		f.Serve()
		s.released(number)
	})
	readAhead(q.At) // a request to ourselves
	return nil
}

func readTable(path string, seal wire.Secret) (*wire.Table, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return wire.DecodeTable(b, seal)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, fmt.Errorf("%d bytes", st.Size())
	}
	b := make([]byte, st.Size())
	_, err = io.ReadFull(f, b)
	return b, err
}
