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
		OperationID: "build-image", Method: http.MethodPost, Path: "/v1/images", DefaultStatus: http.StatusAccepted, Security: tokenOnly(),
		Summary:      "Ask the broker to import an image and to vouch for its root; 202 means that it is about to, 200 that nothing more will come",
		MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body ImageRequest }) (*built, error) {
		b, err := s.c.Market.BuildImage(ctx, in.Body.Image, in.Body.Digest)
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
