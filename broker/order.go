package broker

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"rialto/pricing"
)

// maxOrder bounds an order's fields.
const maxOrder = 8

// Order says what the matches of a search are sorted by before their price. The zero Order is by price alone.
type Order struct{ keys []orderKey }

type orderKey struct {
	field *Field
	down  bool
}

// ParseOrder reads fields parted by commas, each ascending, or descending with - before it or, as in Vast's language,
// behind it: "price,-gpu_ram". The error is a [*FieldError].
func ParseOrder(s string) (Order, error) {
	var o Order
	if s == "" {
		return o, nil
	}
	if len(s) > maxFilterText {
		return Order{}, &FieldError{Field: "sort", Problem: fmt.Sprintf("longer than %d bytes", maxFilterText)}
	}
	for part := range strings.SplitSeq(s, ",") {
		name := strings.TrimSpace(part)
		rest, down := strings.CutPrefix(name, "-")
		if !down {
			if rest, down = strings.CutSuffix(name, "-"); !down {
				rest = strings.TrimSuffix(strings.TrimPrefix(name, "+"), "+")
			}
		}
		f, _, err := knownField(rest)
		if err != nil {
			return Order{}, err
		}
		if slices.ContainsFunc(o.keys, func(k orderKey) bool { return k.field == f }) {
			return Order{}, &FieldError{Field: "sort", Problem: f.Name + " twice"}
		}
		if len(o.keys) == maxOrder {
			return Order{}, &FieldError{Field: "sort", Problem: fmt.Sprintf("more than %d fields", maxOrder)}
		}
		o.keys = append(o.keys, orderKey{f, down})
	}
	return o, nil
}

// String writes the order in canonical form.
func (o Order) String() string {
	all := make([]string, len(o.keys))
	for i, k := range o.keys {
		all[i] = k.field.Name
		if k.down {
			all[i] = "-" + all[i]
		}
	}
	return strings.Join(all, ",")
}

// rank is what a match is sorted by.
type rank struct {
	asked    []asked
	total    pricing.Money // expected cost
	rate     pricing.Rate  // for all GPUs of the job
	image    bool
	weights  int
	provider PeerID
	id       OfferID
}

// asked is what an offer has of a field of the order.
type asked struct {
	value
	known bool
}

func (o Order) rank(c candidate, l listing) rank {
	r := rank{total: c.cost.Total, rate: c.rate, image: c.image, weights: c.weights, provider: c.offer.Provider, id: c.offer.ID}
	for _, k := range o.keys {
		v, known := l.read(k.field.id)
		r.asked = append(r.asked, asked{v, known})
	}
	return r
}

// compare orders by the fields that are asked for, then by expected cost and rate, then by what hosts hold already, then
// by provider and id. What nobody says comes last. No two offers are equal.
func (o Order) compare(a, b *rank) int {
	for i, k := range o.keys {
		x, y := &a.asked[i], &b.asked[i]
		if x.known != y.known {
			return prefer(x.known)
		}
		n := cmp.Or(cmp.Compare(x.n, y.n), strings.Compare(x.s, y.s))
		if k.down {
			n = -n
		}
		if n != 0 {
			return n
		}
	}
	switch {
	case a.total != b.total:
		return cmp.Compare(a.total, b.total)
	case a.rate != b.rate:
		return cmp.Compare(a.rate, b.rate)
	case a.image != b.image:
		return prefer(a.image)
	}
	return cmp.Or(cmp.Compare(b.weights, a.weights), cmp.Compare(a.provider, b.provider), cmp.Compare(a.id, b.id))
}

// sorted puts candidates, best first, into the order.
func (o Order) sorted(m *Market, q *Query, all []candidate) []candidate {
	if len(o.keys) == 0 {
		return all
	}
	type ranked struct {
		candidate
		rank rank
	}
	list := make([]ranked, len(all))
	for i, c := range all {
		list[i] = ranked{c, o.rank(c, m.listing(q, c.offer))}
	}
	slices.SortFunc(list, func(a, b ranked) int { return o.compare(&a.rank, &b.rank) })
	out := make([]candidate, len(list))
	for i := range list {
		out[i] = list[i].candidate
	}
	return out
}

// behind returns what follows a place among candidates in this order.
func (o Order) behind(m *Market, q *Query, all []candidate, place *rank) []candidate {
	i := sort.Search(len(all), func(i int) bool {
		r := o.rank(all[i], m.listing(q, all[i].offer))
		return o.compare(&r, place) > 0
	})
	return all[i:]
}

// prefer is the order of two things of which one, the first if first, has what is wanted.
func prefer(first bool) int {
	if first {
		return -1
	}
	return 1
}

// cursor is a place in an order, behind one offer, that stays where it is when offers come and go.
type cursor struct {
	Order    string   `json:"o,omitempty"`
	Known    []bool   `json:"k,omitempty"`
	Numbers  []int64  `json:"n,omitempty"`
	Texts    []string `json:"s,omitempty"`
	Total    int64    `json:"t"`
	Rate     int64    `json:"r"`
	Image    bool     `json:"i,omitempty"`
	Weights  int      `json:"w,omitempty"`
	Provider PeerID   `json:"p"`
	ID       OfferID  `json:"d"`
}

func (o Order) cursorAt(r *rank) string {
	c := cursor{Order: o.String(), Total: int64(r.total), Rate: int64(r.rate), Image: r.image, Weights: r.weights, Provider: r.provider, ID: r.id}
	for _, a := range r.asked {
		c.Known, c.Numbers, c.Texts = append(c.Known, a.known), append(c.Numbers, a.n), append(c.Texts, a.s)
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "" // not of a struct of numbers and texts
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// placeOf reads a cursor of a search in this order.
func (o Order) placeOf(s string) (*rank, error) {
	bad := func(why string) (*rank, error) {
		return nil, &FieldError{Field: "cursor", Problem: why + ": start again without it"}
	}
	if len(s) > maxFilterText {
		return bad("too long")
	}
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return bad("not one of this market's")
	}
	var c cursor
	if err := json.Unmarshal(text, &c); err != nil {
		return bad("not one of this market's")
	}
	if n := len(o.keys); c.Order != o.String() || len(c.Known) != n || len(c.Numbers) != n || len(c.Texts) != n {
		return bad("of a search that was sorted otherwise")
	}
	r := &rank{total: pricing.Money(c.Total), rate: pricing.Rate(c.Rate), image: c.Image, weights: c.Weights, provider: c.Provider, id: c.ID}
	for i := range c.Known {
		r.asked = append(r.asked, asked{value{n: c.Numbers[i], s: c.Texts[i]}, c.Known[i]})
	}
	return r, nil
}
