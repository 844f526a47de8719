package vast

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"rialto/broker"
)

// ownHost returns the host of the owner who calls, if that is what an id names.
func (s *Server) ownHost(c *call, id int64) (broker.PeerID, broker.OfferSet, broker.OwnerAsk, error) {
	provider := broker.PeerID(c.account.ID)
	if id != hostID(provider) {
		return "", broker.OfferSet{}, broker.OwnerAsk{}, &refusal{Status: http.StatusNotFound, Code: "no_such_machine", Msg: fmt.Sprintf("machine %d is not the one of this key, which is %d", id, hostID(provider))}
	}
	set, ask, err := s.c.Hosts.Host(c.Context(), provider)
	return provider, set, ask, err
}

// machines answers GET /machines: the one of the key.
func (s *Server) machines(c *call) (any, error) {
	rows, err := s.machineRows(c.Context(), broker.PeerID(c.account.ID))
	if err != nil {
		return nil, err
	}
	return row{{"success", true}, {"machines", rows}}, nil
}

// machine answers GET /machines/{id}: a list of one.
func (s *Server) machine(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	provider, _, _, err := s.ownHost(c, id)
	if err != nil {
		return nil, err
	}
	return s.machineRows(c.Context(), provider)
}

// machineRows are a host's models, each as a machine: Vast's have GPUs of one model.
func (s *Server) machineRows(ctx context.Context, provider broker.PeerID) ([]row, error) {
	set, ask, err := s.c.Hosts.Host(ctx, provider)
	if err != nil {
		return nil, err
	}
	rows := []row{}
	for i := range set.Offers {
		o := &set.Offers[i]
		rows = append(rows, append(row{
			{"id", hostID(provider)},
			{"machine_id", hostID(provider)},
			{"hostname", o.Host},
			{"num_gpus", int64(len(o.GPUs))},
			{"gpu_name", vastModel(o.GPUs[0].Model)},
			{"disk_space", space(o.DiskMiB)},
			{"driver_version", known(o.GPUs[0].Driver)},
			{"reliability2", nil},
			{"verification", verification(isVerified(o))},
			{"public_ipaddr", nil},
			{"geolocation", place(o.Region)},
			{"num_reports", nil},
			{"listed", !ask.Unlisted},
			{"min_bid_price", leastBid(o)},
			{"credit_discount_max", nil},
			{"gpu_occupancy", occupancy(o)},
		}, listing(&ask, o)...))
	}
	return rows, nil
}

// occupancy is a letter for each GPU, as Vast's: D for one that is rented, x for one that is not.
func occupancy(o *broker.Offer) string {
	var out strings.Builder
	for i := range o.GPUs {
		letter := "D "
		if slices.Contains(o.Free, o.GPUs[i].UUID) {
			letter = "x "
		}
		out.WriteString(letter)
	}
	return out.String()
}

// listMachine answers PUT /machines/create_asks/. A price above the agent's holds at this broker; one below it is refused,
// because the agent would grant nothing for it. What is not said stays as it is.
func (s *Server) listMachine(c *call) (any, error) {
	r := read(c.body)
	id := r.count("machine", 1<<53-1)
	said := map[string]int64{}
	for _, p := range prices() {
		if nanos, ok := p.read(r); ok {
			said[p.key] = nanos
		}
	}
	if n := r.count("min_chunk", 64); n > 1 {
		r.fail("min_chunk", "offers of this market can be rented in parts: want 1")
	}
	for _, key := range []string{"vol_size", "vol_price"} {
		r.absent(key, "there are no volumes on this market")
	}
	r.absent("price_min_bid", "the least bid is the agent's own: start it with rialto-provider run --min-bid")
	r.absent("credit_discount_max", "there are no reserved instances on this market")
	for _, key := range []string{"end_date", "duration"} {
		r.absent(key, "an offer lasts as long as its host is connected: unlist the machine to end it")
	}
	if err := r.done(); err != nil {
		return nil, err
	}
	provider, set, ask, err := s.ownHost(c, id)
	if err != nil {
		return nil, err
	}
	ask.Unlisted = false
	for _, p := range prices() {
		if nanos, ok := said[p.key]; ok {
			if err := p.raise(&ask, nanos, set.Offers); err != nil {
				return nil, err
			}
		}
	}
	if err := s.c.Hosts.SetAsk(c.Context(), provider, ask); err != nil {
		return nil, err
	}
	gpus := row{}
	for i := range set.Offers {
		o := ask.On(set.Offers[i])
		gpus = append(gpus, cell{vastModel(o.GPUs[0].Model), dollars(int64(o.Rate))})
	}
	return row{{"success", true}, {"machine", id}, {"price_gpu", gpus}, {"extended", int64(0)}}, nil
}

// leastBid is what an owner takes for one GPU at least; null: no bids.
func leastBid(o *broker.Offer) any {
	if o.MinBid == 0 {
		return nil
	}
	return dollars(int64(o.MinBid))
}

// unlistMachine answers DELETE /machines/{id}/asks/. Leases go on.
func (s *Server) unlistMachine(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	if err := read(c.body).done(); err != nil {
		return nil, err
	}
	provider := broker.PeerID(c.account.ID)
	_, _, ask, err := s.ownHost(c, id)
	if err != nil {
		return nil, err
	}
	ask.Unlisted = true
	if err := s.c.Hosts.SetAsk(c.Context(), provider, ask); err != nil {
		return nil, err
	}
	return row{{"success", true}, {"machine", id}}, nil
}
