package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
)

type (
	// Accusation is the last word of one provider against a peer.
	Accusation struct {
		Accuser   string    `json:"accuser"`
		Lease     string    `json:"lease,omitempty" doc:"that it got the block for"`
		Want      string    `json:"want,omitempty" doc:"CID of the block that it asked for"`
		Got       string    `json:"got" doc:"digest of what came"`
		SizeBytes int64     `json:"size_bytes" doc:"of what came"`
		At        time.Time `json:"at"`
		Times     int       `json:"times"`
		Counts    bool      `json:"counts" doc:"the lease's hold named the peer as a source"`
	}
	// Accused is a peer that providers say sent them wrong blocks.
	Accused struct {
		Peer            string       `json:"peer"`
		Accusers        int          `json:"accusers" doc:"that count now"`
		DistrustedUntil *time.Time   `json:"distrusted_until,omitempty" doc:"not named as a source of blocks until then"`
		Accusations     []Accusation `json:"accusations" doc:"the newest first"`
	}
	// AccusedPeers lists them, those that most accuse first.
	AccusedPeers struct {
		Accused []Accused `json:"accused"`
	}
)

func (s *Server) routeHosts() {
	huma.Register(s.api, huma.Operation{
		OperationID: "accused", Method: http.MethodGet, Path: "/v1/admin/accused", Security: adminOnly(),
		Summary: "The peers that providers say sent them wrong blocks",
	}, func(ctx context.Context, _ *struct{}) (*answer[AccusedPeers], error) {
		list, err := s.c.Market.Accused(ctx)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out := AccusedPeers{Accused: []Accused{}}
		for _, a := range list {
			out.Accused = append(out.Accused, accusedOf(a))
		}
		return &answer[AccusedPeers]{out}, nil
	})
}

func accusedOf(a broker.Accused) Accused {
	out := Accused{Peer: string(a.Peer), Accusers: a.Accusers, DistrustedUntil: stamp(a.Until), Accusations: []Accusation{}}
	for _, x := range a.Accusations {
		out.Accusations = append(out.Accusations, Accusation{
			Accuser: string(x.Accuser), Lease: string(x.Lease), Want: x.Want, Got: x.Got, SizeBytes: x.Size, At: x.At, Times: x.Times, Counts: x.Counts,
		})
	}
	return out
}
