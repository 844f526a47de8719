package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
)

func (s *Server) routeImages() {
	huma.Register(s.api, huma.Operation{
		OperationID: "image", Method: http.MethodGet, Path: "/v1/images/{digest}", Security: tokenOnly(),
		Summary: "The root that the broker vouches for, of the image with a digest",
	}, func(ctx context.Context, in *struct {
		Digest string `path:"digest" maxLength:"128" doc:"of the OCI manifest or index, sha256:…"`
	},
	) (*answer[Image], error) {
		b, err := s.c.Market.Image(ctx, in.Digest)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Image]{imageOf(b)}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "traces", Method: http.MethodGet, Path: "/v1/images/{digest}/traces", Security: tokenOnly(),
		Summary: "The commands of an image of which it is remembered what their runs read first",
	}, func(ctx context.Context, in *struct {
		Digest string `path:"digest" maxLength:"128" doc:"of the OCI manifest or index, sha256:…"`
	},
	) (*answer[Traces], error) {
		list, err := s.c.Market.Traces(ctx, in.Digest)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out := Traces{Commands: []TracedCommand{}}
		for _, c := range list {
			out.Commands = append(out.Commands, TracedCommand{Command: c.Command, Runs: c.Runs, Blocks: c.Blocks, UpdatedAt: c.Updated})
		}
		return &answer[Traces]{out}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "trace", Method: http.MethodGet, Path: "/v1/images/{digest}/traces/{command}", Security: tokenOnly(),
		Summary: "What the runs of one command read first, merged, as the next run is told",
	}, func(ctx context.Context, in *struct {
		Digest  string `path:"digest" maxLength:"128" doc:"of the OCI manifest or index, sha256:…"`
		Command string `path:"command" maxLength:"128" doc:"hash of the command"`
	},
	) (*answer[Trace], error) {
		blocks, err := s.c.Market.Trace(ctx, in.Digest, in.Command)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &answer[Trace]{Trace{Command: in.Command, Blocks: blocks}}, nil
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "build-image", Method: http.MethodPost, Path: "/v1/images", DefaultStatus: http.StatusAccepted, Security: tokenOnly(),
		Summary:      "Ask the broker to import an image and to vouch for its root; 202 means that it is about to, 200 that nothing more will come",
		MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body ImageRequest }) (*built, error) {
		b, err := s.c.Market.BuildImage(ctx, caller(ctx), in.Body.Image, in.Body.Digest)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out := &built{Status: http.StatusOK, Location: "/v1/images/" + b.Digest, Body: imageOf(b)}
		if b.State == broker.BuildRunning {
			out.Status = http.StatusAccepted
		}
		return out, nil
	})
}
