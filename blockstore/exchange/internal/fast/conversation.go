package fast

import (
	"bufio"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
	"rialto/blockstore/exchange/internal/wire"
)

// conversation is one stream.
type conversation struct {
	server *Server
	stream network.Stream
	peer   peer.ID
	cancel context.CancelCauseFunc
	wake   chan struct{} // something was asked, or finished
	out    chan answer

	mu       sync.Mutex
	asked    []*question
	waiting  map[blockstore.CID]*question // of those, blocks that were wanted; of two for one, the later one
	wants    int
	haves    int
	finished bool
}

// question is a block that is wanted, or a list of blocks that may be here.
type question struct {
	cid       blockstore.CID
	cancelled bool
	have      []blockstore.CID
}

type answer struct {
	wire.Answer
	body []byte
	held bool // body is the gate's
}

var errTooMuch = errors.New("more was asked for than is allowed")

// read takes what the client asks, until it has closed its side.
func (c *conversation) read() error {
	r := bufio.NewReader(c.stream)
	for {
		if err := c.stream.SetReadDeadline(time.Now().Add(c.server.idle)); err != nil {
			return err
		}
		a, err := wire.ReadAsk(r, func() error { return c.stream.SetReadDeadline(time.Now().Add(c.server.frame)) })
		if err != nil {
			if timeout(err) && c.pending() {
				continue // the client waits for us
			}
			return end(err)
		}
		if err := c.take(a); err != nil {
			return err
		}
	}
}

func (c *conversation) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked) > 0
}

func (c *conversation) take(a wire.Ask) error {
	wanted := make([]*question, 0, len(a.CIDs))
	switch a.Type {
	case wire.Want:
		for _, name := range a.CIDs {
			wanted = append(wanted, &question{cid: name})
		}
	case wire.Move: // no two streams are locked at a time
		others := c.server.others(c)
		for _, name := range a.CIDs {
			waits := slices.ContainsFunc(others, func(o *conversation) bool { return o.giveUp(name) })
			wanted = append(wanted, &question{cid: name, cancelled: !waits})
		}
	case wire.Cancel, wire.Have:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch a.Type {
	case wire.Want, wire.Move:
		if c.wants += len(wanted); c.wants > MaxPending {
			return errTooMuch
		}
		c.asked = append(c.asked, wanted...)
		for _, q := range wanted {
			if !q.cancelled {
				c.waiting[q.cid] = q
			}
		}
	case wire.Have:
		if c.haves++; c.haves > MaxHaves {
			return errTooMuch
		}
		c.asked = append(c.asked, &question{have: a.CIDs})
	case wire.Cancel:
		for _, name := range a.CIDs {
			if q := c.waiting[name]; q != nil {
				q.cancelled = true
			}
		}
	}
	c.poke()
	return nil
}

// giveUp takes back a question for a block that another stream answers now, and reports whether there is one. It may
// have been taken back by the client before.
func (c *conversation) giveUp(name blockstore.CID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.waiting[name]
	if q != nil {
		q.cancelled = true
	}
	return q != nil
}

func (c *conversation) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *conversation) finish() {
	c.mu.Lock()
	c.finished = true
	c.mu.Unlock()
	c.poke()
}

// next waits for a question. It stays counted until it is answered.
func (c *conversation) next(ctx context.Context) (question, bool) {
	for {
		c.mu.Lock()
		if len(c.asked) > 0 {
			q := c.asked[0]
			c.asked = c.asked[1:]
			if c.waiting[q.cid] == q {
				delete(c.waiting, q.cid)
			}
			c.mu.Unlock()
			return *q, true
		}
		finished := c.finished
		c.mu.Unlock()
		if finished {
			return question{}, false
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return question{}, false
		}
	}
}

// produce makes answers, one ahead of the one that is being written.
func (c *conversation) produce(ctx context.Context) {
	defer close(c.out)
	for {
		q, ok := c.next(ctx)
		if !ok {
			return
		}
		a, err := c.answer(ctx, q)
		if err != nil {
			c.cancel(err)
			return
		}
		c.out <- a // write takes it, whatever happens
	}
}

func (c *conversation) answer(ctx context.Context, q question) (answer, error) {
	if q.have != nil {
		return c.has(ctx, q.have)
	}
	if q.cancelled {
		return answer{Answer: wire.Answer{Type: wire.Cancelled}}, nil
	}
	absent := answer{Answer: wire.Answer{Type: wire.Absent}}
	n, err := c.server.Store.Size(ctx, q.cid)
	if err != nil {
		return absent, c.absence(ctx, err)
	}
	switch err := c.server.gate.enter(ctx, c.peer, int64(n), patience); {
	case errors.Is(err, errBusy):
		return answer{Answer: wire.Answer{Type: wire.Busy, Value: int(retry.Milliseconds())}}, nil
	case err != nil:
		return answer{}, err
	}
	b, err := c.server.Store.Get(ctx, q.cid)
	if err != nil || b.Size() != n {
		c.server.gate.leave(c.peer, int64(n))
		return absent, c.absence(ctx, err)
	}
	return answer{Answer: wire.Answer{Type: wire.Data, Value: n}, body: b.Data(), held: true}, nil
}

// absence takes a block that cannot be read for one that is not here, unless the stream is over.
func (c *conversation) absence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, blockstore.ErrNotFound) {
		c.server.Logger.WarnContext(ctx, "a block cannot be served", "err", err)
	}
	return nil
}

func (c *conversation) has(ctx context.Context, cids []blockstore.CID) (answer, error) {
	bits := wire.NewBits(len(cids))
	for i, name := range cids {
		here, err := c.server.Store.Has(ctx, name)
		if err != nil {
			return answer{}, err
		}
		if here {
			bits.Set(i)
		}
	}
	return answer{Answer: wire.Answer{Type: wire.Map, Value: len(cids)}, body: bits}, nil
}

// write sends answers. After an error it only gives back what they hold.
func (c *conversation) write(ctx context.Context) {
	w := bufio.NewWriterSize(c.stream, writeBuffer)
	for a := range c.out {
		if ctx.Err() == nil {
			if err := c.send(w, a); err != nil {
				c.cancel(err)
			}
		}
		if a.held {
			c.server.gate.leave(c.peer, int64(len(a.body)))
		}
	}
}

func (c *conversation) send(w *bufio.Writer, a answer) error {
	late := c.server.frame + time.Duration(len(a.body))*time.Second/minRate
	if err := c.stream.SetWriteDeadline(time.Now().Add(late)); err != nil {
		return err
	}
	c.mu.Lock()
	if a.Type == wire.Map {
		c.haves--
	} else {
		c.wants--
	}
	more := len(c.asked) > 0
	c.mu.Unlock()
	if _, err := w.Write(wire.AppendAnswer(nil, a.Answer)); err != nil {
		return err
	}
	if _, err := w.Write(a.body); err != nil {
		return err
	}
	if a.Type == wire.Data {
		c.server.Sent(c.peer, len(a.body))
	}
	if more && len(c.out) > 0 {
		return nil // the next answer is there already and takes the rest along
	}
	return w.Flush()
}
