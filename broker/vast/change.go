package vast

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"rialto/broker"
)

// change answers PUT /instances/{id}/: stop it, or give it another label.
func (s *Server) change(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	r := read(c.body)
	state, label, labelled := r.text("state", 64), r.text("label", maxLabel), c.body.has("label")
	if err := r.done(); err != nil {
		return nil, err
	}
	if state == "" && !labelled {
		return nil, invalid("state", "missing: want state or label")
	}
	i, err := s.living(c, id)
	if err != nil {
		return nil, err
	}
	if labelled {
		i.tag.Label = label
		if err := s.c.Market.SetTag(c.Context(), i.job.Account, i.job.ID, i.tag.encode()); err != nil {
			return nil, err
		}
	}
	if state != "" {
		if err := s.turn(c.Context(), i, state); err != nil {
			return nil, err
		}
	}
	return row{{"success", true}}, nil
}

// bid answers PUT /instances/bid_price/{id}/: what an interruptible instance bids for all its GPUs.
func (s *Server) bid(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	r := read(c.body)
	r.text("client_id", 128) // the account is the key's
	price, given := r.rational("price")
	if err := r.done(); err != nil {
		return nil, err
	}
	if !given {
		return nil, invalid("price", "missing: nobody knows which bid would win here, say what you bid")
	}
	i, err := s.living(c, id)
	if err != nil {
		return nil, err
	}
	each, err := bidOf(price, i.job.Spec.GPU.Count)
	if err != nil {
		return nil, err
	}
	if _, err := s.c.Custodian.Bid(c.Context(), i.job, each); err != nil {
		return nil, err
	}
	return row{{"success", true}}, nil
}

// living returns an instance that was not destroyed.
func (s *Server) living(c *call, id int64) (instance, error) {
	i, err := s.byID(c.Context(), c.account.ID, id)
	if err == nil && i.tag.Destroyed {
		err = &refusal{Status: http.StatusNotFound, Code: "no_such_instance", Msg: fmt.Sprintf("instance %d was destroyed", id)}
	}
	return i, err
}

// turn switches an instance off, or says why it cannot be switched on.
func (s *Server) turn(ctx context.Context, i instance, state string) error {
	over := i.job.State.Terminal() || i.job.Stopping != 0
	switch state {
	case "stopped":
		if over {
			return nil
		}
		i.tag.Stopped = true
		if err := s.c.Market.SetTag(ctx, i.job.Account, i.job.ID, i.tag.encode()); err != nil {
			return err
		}
		return s.end(ctx, i.job, "stopped by its owner")
	case "running":
		if !over {
			return nil
		}
		return &refusal{
			Status: http.StatusConflict, Code: "cannot_start",
			Msg: "the instance has ended, and this market keeps nothing of a container that has: destroy it and create another",
		}
	}
	return &broker.FieldError{Field: "state", Problem: clipped(state) + ": want stopped or running", Nearest: broker.Nearest(state, []string{"stopped", "running"})}
}

// end cancels a job; one that has ended meanwhile is fine.
func (s *Server) end(ctx context.Context, j broker.Job, reason string) error {
	_, err := s.c.Market.Cancel(ctx, j.Account, j.ID, reason)
	if errors.Is(err, broker.ErrJobTerminal) || errors.Is(err, broker.ErrConflict) {
		return nil
	}
	return err
}

// changeMany answers PUT /instances/ with ids.
func (s *Server) changeMany(c *call) (any, error) {
	r := read(c.body)
	state, ids := r.text("state", 64), r.numbers("ids")
	if err := r.done(); err != nil {
		return nil, err
	}
	return s.many(ids, "ids", func(id int64) error {
		i, err := s.living(c, id)
		if err != nil {
			return err
		}
		return s.turn(c.Context(), i, state)
	})
}

// destroy answers DELETE /instances/{id}/. A second time it succeeds too, because the first answer may have been lost.
func (s *Server) destroy(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	if err := read(c.body).done(); err != nil {
		return nil, err
	}
	if err := s.destroyOne(c, id); err != nil {
		return nil, err
	}
	return row{{"success", true}}, nil
}

// destroyMany answers DELETE /instances/ with instance_ids.
func (s *Server) destroyMany(c *call) (any, error) {
	r := read(c.body)
	ids := r.numbers("instance_ids")
	if err := r.done(); err != nil {
		return nil, err
	}
	return s.many(ids, "instance_ids", func(id int64) error { return s.destroyOne(c, id) })
}

func (s *Server) destroyOne(c *call, id int64) error {
	i, err := s.byID(c.Context(), c.account.ID, id)
	if err != nil || i.tag.Destroyed && i.job.State.Terminal() {
		return err
	}
	if !i.job.State.Terminal() {
		if err := s.end(c.Context(), i.job, "destroyed by its owner"); err != nil {
			return err
		}
	}
	i.tag.Destroyed = true
	return s.c.Market.SetTag(c.Context(), i.job.Account, i.job.ID, i.tag.encode())
}

// many does one thing with several instances, and tells what failed beside what did not.
func (*Server) many(ids []int64, field string, do func(id int64) error) (any, error) {
	if len(ids) == 0 || len(ids) > 64 {
		return nil, invalid(field, fmt.Sprintf("%d instances: want 1 to 64", len(ids)))
	}
	var failed []row
	for _, id := range ids {
		if err := do(id); err != nil {
			f := refusalOf(err)
			failed = append(failed, row{{"id", id}, {"error", f.Code}, {"msg", f.Msg}})
		}
	}
	if len(failed) == 0 {
		return row{{"success", true}}, nil
	}
	return row{{"success", false}, {"msg", fmt.Sprintf("%d of %d failed", len(failed), len(ids))}, {"failed", failed}}, nil
}
