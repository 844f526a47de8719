package console

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, err := parseFrom(q.Get("from"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	follow := q.Get("follow") == "1"
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := flush(w, nil); err != nil { // the header goes out before there is any output
		s.log.Debug("console logs", "err", err)
		return
	}
	out := &frameWriter{write: func(p []byte) error { return flush(w, p) }}
	stop := out.beat(r.Context())
	defer stop()
	if err := s.stream(r.Context(), out, follow, from); err != nil {
		s.log.Debug("console logs", "err", err)
	}
}

// stream sends the output from byte from on, and the last frame.
func (s *server) stream(ctx context.Context, out *frameWriter, follow bool, from int64) error {
	skip := from
	err := s.backend.Logs(ctx, follow, func(stream byte, p []byte) error {
		if skip >= int64(len(p)) {
			skip -= int64(len(p))
			return nil
		}
		p = p[skip:]
		skip = 0
		return out.data(kind(stream), p)
	})
	if err != nil {
		return errors.Join(err, out.fail(ctx, err))
	}
	if !follow {
		st, err := s.backend.Status(ctx)
		if err != nil {
			return errors.Join(err, out.fail(ctx, err))
		}
		if !st.Ended {
			return out.send(appendFrame(nil, kindPause, nil))
		}
	}
	exit, err := s.backend.Wait(ctx)
	if err != nil {
		return errors.Join(err, out.fail(ctx, err))
	}
	return out.send(exitFrame(exit))
}

// flush writes p as one chunk of the answer, now.
func flush(w http.ResponseWriter, p []byte) error {
	c := http.NewResponseController(w)
	if err := c.SetWriteDeadline(time.Now().Add(stuck)); err != nil {
		return err
	}
	if _, err := w.Write(p); err != nil {
		return err
	}
	return c.Flush()
}

// frameWriter writes whole frames from several goroutines.
type frameWriter struct {
	mu    sync.Mutex // held while one frame is written
	write func([]byte) error
	buf   []byte
	err   error
}

// data sends p in frames of one stream.
func (f *frameWriter) data(k kind, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), MaxPayload)
		f.mu.Lock()
		f.buf = appendFrame(f.buf[:0], k, p[:n])
		err := f.put(f.buf)
		f.mu.Unlock()
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (f *frameWriter) send(frame []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.put(frame)
}

// put writes under the lock; after the first error nothing more, since a frame may be half written.
func (f *frameWriter) put(p []byte) error {
	if f.err == nil {
		f.err = f.write(p)
	}
	return f.err
}

// fail sends why there is no exit code, unless the server itself is ending: then the client comes back.
func (f *frameWriter) fail(ctx context.Context, why error) error {
	if ctx.Err() == nil {
		return f.send(appendFrame(nil, kindError, []byte(clip(why.Error()))))
	}
	return nil
}

// beat sends heartbeats until it is stopped, which waits for the last one.
func (f *frameWriter) beat(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if f.send(appendFrame(nil, kindBeat, nil)) != nil {
					return
				}
			}
		}
	})
	return func() {
		cancel()
		wait.Wait()
	}
}
