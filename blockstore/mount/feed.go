package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rialto/blockstore"
	"rialto/blockstore/mount/internal/wire"
)

const (
	// maxAnswers is how many blocks are fetched or verified at a time for readers that wait. More wait for their turn.
	maxAnswers = 256
	again      = 200 * time.Millisecond // before the next try to reach a server
)

// Run answers the server's questions for blocks until ctx ends, and then returns nil.
func (m *Mounts) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := m.session(ctx)
		var retry <-chan time.Time
		if !errors.Is(err, errGone) { // else there is none until one is started
			m.cfg.Logger.Info("connection to the mount server ended", "err", err)
			retry = time.After(again)
		}
		select {
		case <-retry:
		case <-m.started:
		case <-ctx.Done():
		}
	}
	return nil
}

func (m *Mounts) session(ctx context.Context) error {
	c, r, err := m.dial(ctx, wire.Feed)
	if err != nil {
		return err
	}
	return m.serve(ctx, c, r)
}

// feed is the connection on which blocks are announced.
type feed struct {
	forward *forward

	mu    sync.Mutex
	c     *net.UnixConn
	files map[string]uint32
}

func (f *feed) have(c blockstore.CID, p Place) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var batch []wire.Message
	id, ok := f.files[p.Path]
	if !ok {
		id = uint32(len(f.files))
		f.files[p.Path] = id
		batch = append(batch, &wire.File{ID: id, Path: p.Path})
	}
	return wire.Write(f.c, append(batch, &wire.Have{CID: c, File: id, Offset: p.Offset})...)
}

func (f *feed) fail(root, c blockstore.CID, reason error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.Write(f.c, &wire.Fail{Root: root, CID: c, Reason: reason.Error()})
}

// serve returns when the connection ends.
func (m *Mounts) serve(ctx context.Context, c *net.UnixConn, r *bufio.Reader) error {
	f := &feed{forward: newForward(), c: c, files: make(map[string]uint32)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	var ahead errgroup.Group
	ahead.Go(func() error { return m.announce(ctx, f) })
	answers, actx := errgroup.WithContext(ctx)
	answers.SetLimit(maxAnswers)
	var err error
	for err == nil {
		var msg wire.Message
		if msg, err = wire.Read(r); err != nil {
			break
		}
		want, ok := msg.(*wire.Want)
		if !ok {
			err = fmt.Errorf("unexpected %T from the mount server", msg)
			break
		}
		m.lookAhead(ctx, f, want)
		answers.Go(func() error { return m.answer(actx, f, want) })
	}
	cancel()
	f.forward.running.Wait()
	return errors.Join(err, answers.Wait(), ahead.Wait())
}

func (m *Mounts) answer(ctx context.Context, f *feed, want *wire.Want) error {
	patient, cancel := context.WithTimeout(ctx, time.Duration(want.Millis)*time.Millisecond)
	defer cancel()
	src, err := m.source(patient, want.Root)
	if err != nil {
		return nil // another tree that has the block may know better
	}
	now, end := f.forward.answer(want.Ref.CID)
	defer end()
	if now != nil {
		<-now.done // which ends with ctx at the latest
		if now.announced {
			return nil
		}
	}
	p, err := src.Block(patient, want.Ref)
	if err == nil && !p.Verified {
		err = verify(p, want.Ref)
	}
	if ctx.Err() != nil {
		return nil // the next agent answers
	}
	if err != nil {
		m.cfg.Logger.Warn("block for a mount cannot be had", "cid", want.Ref.CID, "err", err)
		return f.fail(want.Root, want.Ref.CID, err)
	}
	return f.have(want.Ref.CID, p)
}

// announce tells the server of blocks that are here and known to be right, before it asks.
func (m *Mounts) announce(ctx context.Context, f *feed) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-m.ahead:
			for _, ref := range h.refs {
				p, err := h.src.Locate(ctx, ref)
				if err != nil || !p.Verified {
					continue // asked for when it is read
				}
				if err := f.have(ref.CID, p); err != nil {
					return nil //nolint:nilerr // the connection ended, which its reader reports
				}
			}
		}
	}
}
