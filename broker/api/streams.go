package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rialto/blockstore"
	"rialto/broker"
)

const (
	// beat is how often a quiet event stream says that it lives, so that both ends notice a dead path.
	beat = 15 * time.Second
	// streamWrite bounds one write to a reader that does not read.
	streamWrite = 10 * time.Second
	// maxStreams bounds the open event streams of an account: one for each job that may be open.
	maxStreams = 1000
)

func (s *Server) routeEvents() {
	huma.Register(s.api, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: "/v1/jobs/{id}/events", Security: tokenOnly(),
		Summary: "The job's history and what happens next, as server-sent events",
		Responses: map[string]*huma.Response{"200": {
			Description: "events named job, then one named end",
			Content:     map[string]*huma.MediaType{"text/event-stream": {}},
		}},
	}, func(ctx context.Context, in *struct {
		ID    string `path:"id" maxLength:"64" doc:"job id"`
		After uint64 `header:"Last-Event-ID" doc:"resume after this number"`
	},
	) (*huma.StreamResponse, error) {
		account, id := caller(ctx), broker.JobID(in.ID)
		if _, err := s.c.Market.Job(ctx, account, id); err != nil {
			return nil, s.fail(ctx, err)
		}
		if !s.streams.take(account, 1) {
			p := problem(http.StatusTooManyRequests, "rialto:too-many-requests", fmt.Sprintf("the account has %d event streams open", maxStreams))
			return nil, huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"5"}})
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer s.streams.take(account, -1)
			_, w := humago.Unwrap(hc)
			if err := s.stream(ctx, w, account, id, in.After); err != nil {
				s.c.Logger.Debug("event stream ended early", "job", id, "err", err)
			}
		}}, nil
	})
}

// stream writes a job's events until the job has ended.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, account broker.AccountID, id broker.JobID, after uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type item struct {
		e   broker.JobEvent
		err error
	}
	items := make(chan item)
	wg.Go(func() { // ends with the job, an error or ctx
		defer close(items)
		for e, err := range s.c.Market.Events(ctx, account, id, after) {
			select {
			case items <- item{e, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	write := newSSE(w).write
	alive := time.NewTicker(beat)
	defer alive.Stop()
	if err := write(": events of %s\n\n", id); err != nil {
		return err
	}
	for {
		select {
		case it, more := <-items:
			if !more {
				return write("event: end\ndata: {}\n\n")
			}
			if it.err != nil {
				return it.err // without "end": the reader resumes
			}
			data, err := json.Marshal(eventOf(it.e))
			if err != nil {
				return err
			}
			if err := write("id: %d\nevent: job\ndata: %s\n\n", it.e.Seq, data); err != nil {
				return err
			}
		case <-alive.C:
			if err := write(":\n\n"); err != nil {
				return err
			}
		}
	}
}

func parseCID(text string) (blockstore.CID, error) {
	c, err := blockstore.ParseCID(text)
	if err != nil {
		return c, &broker.FieldError{Field: "cid", Problem: err.Error()}
	}
	return c, nil
}

func (s *Server) routeBlocks() {
	huma.Register(s.api, huma.Operation{
		OperationID: "has-block", Method: http.MethodHead, Path: "/v1/blocks/{cid}", DefaultStatus: http.StatusOK,
		Summary: "Whether the broker holds a block", Security: tokenOnly(),
	}, func(ctx context.Context, in *struct {
		CID string `path:"cid" maxLength:"128" doc:"CIDv1 of raw data with sha2-256"`
	},
	) (*struct{}, error) {
		c, err := parseCID(in.CID)
		if err == nil {
			err = s.hasBlock(ctx, c)
		}
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &struct{}{}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "put-block", Method: http.MethodPut, Path: "/v1/blocks/{cid}", DefaultStatus: http.StatusNoContent,
		Summary: "Upload a block of weights or of an image", Security: tokenOnly(),
		MaxBodyBytes: blockstore.MaxBlock + 1, BodyReadTimeout: time.Minute,
	}, func(ctx context.Context, in *struct {
		CID     string `path:"cid" maxLength:"128" doc:"CIDv1 of raw data with sha2-256"`
		RawBody []byte `contentType:"application/octet-stream"`
	},
	) (*struct{}, error) {
		c, err := parseCID(in.CID)
		if err == nil {
			err = s.putBlock(ctx, caller(ctx), c, in.RawBody)
		}
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &struct{}{}, nil
	})
}

func (s *Server) hasBlock(ctx context.Context, c blockstore.CID) error {
	if s.c.Blocks == nil {
		return errNoUploads
	}
	has, err := s.c.Blocks.Has(ctx, c)
	if err == nil && !has {
		err = fmt.Errorf("block %s: %w", c, broker.ErrNotFound)
	}
	return err
}

// errNoUploads: the broker keeps no blocks.
var errNoUploads = fmt.Errorf("this broker takes no uploads: %w", broker.ErrUnavailable)

func (s *Server) putBlock(ctx context.Context, account broker.AccountID, c blockstore.CID, body []byte) error {
	b, err := blockstore.Verify(c, append([]byte(nil), body...)) // the framework reuses its buffer
	if err != nil {
		return &broker.FieldError{Field: "body", Problem: err.Error()}
	}
	if has := s.hasBlock(ctx, c); !errors.Is(has, broker.ErrNotFound) {
		return has
	}
	if !s.quota.take(account, int64(b.Size())) {
		return problem(http.StatusInsufficientStorage, "rialto:quota", fmt.Sprintf("the account has uploaded its %d MiB", s.c.BlockQuota>>20))
	}
	if err := s.c.Blocks.Put(ctx, b); err != nil {
		s.quota.take(account, -int64(b.Size()))
		if errors.Is(err, blockstore.ErrNoSpace) {
			return problem(http.StatusInsufficientStorage, "rialto:no-space", "the broker's disk is full")
		}
		return err
	}
	return nil
}
