package vast

import (
	"context"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"

	"rialto/broker"
	"rialto/pricing"
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
		rows = append(rows, row{
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
			{"listed_gpu_cost", listed(ask, o.Rate)},
			{"agent_gpu_cost", dollars(int64(o.Rate))}, // ours: the agent's own, below which nothing is listed
			{"min_bid_price", leastBid(o)},
			{"credit_discount_max", nil},
			{"listed_inet_up_cost", int64(0)},
			{"listed_inet_down_cost", int64(0)},
			{"gpu_occupancy", occupancy(o)},
		})
	}
	return rows, nil
}

// listed is the price of one GPU for an hour; nil if it is not listed.
func listed(ask broker.OwnerAsk, agent pricing.Rate) any {
	if ask.Unlisted {
		return nil
	}
	return dollars(int64(max(ask.Rate, agent)))
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
// because the agent would grant nothing for it.
func (s *Server) listMachine(c *call) (any, error) {
	r := read(c.body)
	id := r.count("machine", 1<<53-1)
	price, priced := r.rational("price_gpu")
	if n := r.count("min_chunk", 64); n > 1 {
		r.fail("min_chunk", "offers of this market can be rented in parts: want 1")
	}
	for _, key := range []string{"price_disk", "price_inetu", "price_inetd", "vol_size", "vol_price"} {
		r.absent(key, "this market charges for GPUs alone")
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
	if priced {
		if ask.Rate, err = nanodollars(price); err != nil {
			return nil, err
		}
		for _, o := range set.Offers {
			if ask.Rate < o.Rate {
				return nil, invalid("price_gpu", fmt.Sprintf("%v is below the agent's own price, %v, which it holds to: start the agent with --price to lower it", ask.Rate, o.Rate))
			}
		}
	}
	if err := s.c.Hosts.SetAsk(c.Context(), provider, ask); err != nil {
		return nil, err
	}
	prices := row{}
	for _, o := range set.Offers {
		prices = append(prices, cell{vastModel(o.GPUs[0].Model), listed(ask, o.Rate)})
	}
	return row{{"success", true}, {"machine", id}, {"price_gpu", prices}, {"extended", int64(0)}}, nil
}

// nanodollars reads dollars exactly.
func nanodollars(price *big.Rat) (pricing.Rate, error) {
	n := new(big.Rat).Mul(price, big.NewRat(int64(pricing.USD), 1))
	if !n.IsInt() || !n.Num().IsInt64() {
		return 0, invalid("price_gpu", price.FloatString(12)+": want dollars with at most nine decimals")
	}
	return pricing.Rate(n.Num().Int64()), nil
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
