package vast_test

import (
	"testing"

	"rialto/pricing"
)

// TestBids rents interruptibly as Vast's clients do: what a search for bids shows, is what a bid rents.
func TestBids(t *testing.T) {
	w := newWorld(t)
	p := w.provider("berlin", "DE", 4, gpu("RTX 4090", 24_564), "0.40/h")
	p.offer.MinBid = pricing.Rate(150 * pricing.USD / 1000)
	p.post()
	w.provider("paris", "FR", 2, gpu("RTX 4090", 24_564), "0.30/h") // on demand only

	offers := list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":"2"},"type":"bid"}`)["offers"])
	if len(offers) != 1 || offers[0]["hostname"] != "berlin" || offers[0]["is_bid"] != true || offers[0]["min_bid"] != 0.3 || offers[0]["dph_total"] != 0.3 {
		t.Fatalf("a search for bids: %v", offers)
	}
	for _, o := range list(w.ok("POST", "/api/v0/bundles/", `{"num_gpus":{"eq":"2"}}`)["offers"]) {
		want := map[any]float64{"berlin": 0.3, "paris": 0.6}[o["hostname"]]
		if o["is_bid"] != false || o["min_bid"] != want {
			t.Errorf("on demand: %v", o)
		}
	}
	path := "/api/v0/asks/" + id(offers[0]["id"]) + "/"
	w.refused(w.token, "PUT", path, create(`"price":0.29`), 400, "price", "least bid")
	w.refused(w.token, "PUT", path, create(`"price":0`), 400, "price")
	w.refused(w.token, "PUT", w.ask(1), create(`"price":0.35`), 400, "price", "on-demand only")

	started := w.ok("PUT", path, create(`"price":0.5`))
	if started["type"] != "interruptible" || started["is_bid"] != true || started["dph_total"] != 0.5 {
		t.Errorf("created: %v", started)
	}
	i := w.show(started["new_contract"])
	j, l := w.job(i)
	if each := pricing.Rate(250 * pricing.USD / 1000); j.Spec.Bid != each || l.Bid != each || l.Rate != p.offer.MinBid || j.Spec.MaxRate != 0 {
		t.Errorf("got a job that bids %v, at most %v, and a lease of %v at %v", j.Spec.Bid, j.Spec.MaxRate, l.Bid, l.Rate)
	}
	if i["is_bid"] != true || i["dph_total"] != 0.3 {
		t.Errorf("shown as %v", i)
	}

	// A higher bid protects it; it pays what was agreed.
	path = "/api/v0/instances/bid_price/" + id(started["new_contract"]) + "/"
	w.ok("PUT", path, `{"client_id":"me","price":0.7}`)
	if j, l := w.job(i); j.Spec.Bid != pricing.Rate(350*pricing.USD/1000) || l.Bid != j.Spec.Bid || l.Rate != p.offer.MinBid {
		t.Errorf("the job bids %v, its lease %v at %v", j.Spec.Bid, l.Bid, l.Rate)
	}
	w.refused(w.token, "PUT", path, `{"client_id":"me","price":0.6}`, 409, "", "can only be raised")
	w.refused(w.token, "PUT", path, `{"client_id":"me","price":null}`, 400, "price", "say what you bid")
	w.refused(w.token, "PUT", path, `{"client_id":"me","price":0}`, 400, "price", "more than none")
	w.refused(w.token, "PUT", path, `{"client_id":"me","price":0.8,"colour":"red"}`, 400, "colour")
	w.refused(w.token, "PUT", "/api/v0/instances/bid_price/1/", `{"client_id":"me","price":0.8}`, 404, "", "no instance 1")
	demand := w.ok("PUT", w.ask(1), create(""))
	w.refused(w.token, "PUT", "/api/v0/instances/bid_price/"+id(demand["new_contract"])+"/", `{"client_id":"me","price":0.8}`, 409, "", "on-demand")
}
