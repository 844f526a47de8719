package api

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
)

func (s *Server) routeGangs() {
	huma.Register(s.api, huma.Operation{
		OperationID: "gang", Method: http.MethodGet, Path: "/v1/jobs/{id}/nodes",
		Summary: "All nodes of the gang that a job belongs to", Security: tokenOnly(),
	}, func(ctx context.Context, in *jobInput) (*answer[Gang], error) {
		g, err := s.gang(ctx, broker.JobID(in.ID))
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Gang]{g}, nil
	})
}

func (s *Server) gang(ctx context.Context, id broker.JobID) (Gang, error) {
	j, err := s.c.Market.Job(ctx, caller(ctx), id)
	if err != nil {
		return Gang{}, err
	}
	if j.Member.Gang == "" {
		return Gang{}, fmt.Errorf("gang of job %s: %w: one host runs it", id, broker.ErrNotFound)
	}
	out := Gang{ID: string(j.Member.Gang), Started: stamp(j.Member.Started)}
	var nodes []broker.Job
	var open, ended broker.JobState
	for rank := range j.Spec.Nodes {
		j, err := s.c.Market.Job(ctx, caller(ctx), broker.MemberID(j.Member.Gang, rank))
		if err != nil {
			return Gang{}, err
		}
		switch {
		case j.State.Terminal():
			ended = max(ended, j.State)
		case open == 0 || j.State < open:
			open = j.State
		}
		nodes = append(nodes, j)
	}
	out.Nodes = s.jobs(ctx, nodes)
	for _, node := range out.Nodes {
		out.HeldNanoUSD += node.HeldNanoUSD
		out.CostNanoUSD += node.CostNanoUSD
		out.IngressBytes = together(out.IngressBytes, node.IngressBytes)
		out.EgressBytes = together(out.EgressBytes, node.EgressBytes)
		out.DiskCostNanoUSD += node.DiskCostNanoUSD
		out.TrafficCostNanoUSD += node.TrafficCostNanoUSD
	}
	out.State = cmp.Or(open, ended).String()
	return out, nil
}

// together adds up counts of hosts, which may say what they like.
func together(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Gang returns all nodes of the gang that a job belongs to; [broker.ErrNotFound] if it belongs to none.
func (c *Client) Gang(ctx context.Context, id broker.JobID) (Gang, error) {
	return get[Gang](ctx, c, jobPath(id)+"/nodes")
}
