package broker

import (
	"iter"
	"slices"
)

// shop is what a connected provider sells.
type shop struct {
	boot   string
	seq    uint64
	offers []*Offer
	listed []*Listed // the same
}

// kept returns the shop's own offer if it is equal, so that what did not change stays where it is.
func (s *shop) kept(o *Offer) *Offer {
	if s != nil {
		for _, x := range s.offers {
			if x.equal(o) {
				return x
			}
		}
	}
	return o
}

func (o *Offer) equal(p *Offer) bool {
	return o.ID == p.ID && o.Provider == p.Provider && o.Host == p.Host && o.Region == p.Region &&
		o.Rate == p.Rate && o.Tariff == p.Tariff && o.MinBid == p.MinBid && o.ReservedRate == p.ReservedRate && o.ReservedMin == p.ReservedMin &&
		o.CPUs == p.CPUs && o.MemoryMiB == p.MemoryMiB && o.DiskMiB == p.DiskMiB && o.Agent == p.Agent &&
		slices.Equal(o.GPUs, p.GPUs) && slices.Equal(o.Free, p.Free) && slices.Equal(o.Images, p.Images) &&
		slices.Equal(o.Weights, p.Weights) && slices.Equal(o.Addrs, p.Addrs)
}

// stock makes a shop what a provider sells; nil: nothing. It touches only the offers that changed.
func (m *Market) stock(p PeerID, s *shop) {
	old := m.shops[p]
	if old == nil {
		old = new(shop)
	}
	if s == nil {
		s = new(shop)
		delete(m.shops, p)
	} else {
		m.shops[p] = s
	}
	s.listed = make([]*Listed, len(s.offers))
	for i, o := range old.offers {
		if at := slices.Index(s.offers, o); at >= 0 {
			s.listed[at] = old.listed[i]
			continue
		}
		m.unlist(old.listed[i], slices.ContainsFunc(s.offers, func(x *Offer) bool { return x.ID == o.ID }))
	}
	for i, o := range s.offers {
		if s.listed[i] == nil {
			s.listed[i] = m.list(o)
		}
	}
}

// list puts an offer on the market.
func (m *Market) list(o *Offer) *Listed {
	for i := range o.GPUs {
		m.sellers[o.GPUs[i].UUID] = o.Provider
	}
	m.models[o.GPUs[0].Model]++
	if i, replaces := slices.BinarySearchFunc(m.offers, o, compareOffers); replaces {
		m.offers[i] = o
	} else {
		m.offers = slices.Insert(m.offers, i, o)
	}
	for root := range o.roots() {
		m.holds(root, o)
	}
	l := &Listed{Offer: o, Rate: o.Rate, Free: m.available(o), name: nameOf(o)}
	m.index.Put(l)
	if o.ReservedRate > 0 {
		l.reserved = &Listed{Offer: o, Rate: o.ReservedRate, Free: l.Free, name: l.name}
		m.reserved.Put(l.reserved)
	}
	return l
}

// unlist takes an offer off the market, or only what tells it from the one that replaces it.
func (m *Market) unlist(l *Listed, replaced bool) {
	o := l.Offer
	for i := range o.GPUs {
		delete(m.sellers, o.GPUs[i].UUID)
	}
	if model := o.GPUs[0].Model; m.models[model] > 1 {
		m.models[model]--
	} else {
		delete(m.models, model)
	}
	if i, ok := slices.BinarySearchFunc(m.offers, o, compareOffers); ok && !replaced {
		m.offers = slices.Delete(m.offers, i, i+1)
	}
	for root := range o.roots() {
		all := m.holders[root]
		if i, there := slices.BinarySearchFunc(all, o, compareOffers); there {
			if all = slices.Delete(all, i, i+1); len(all) > 0 {
				m.holders[root] = all
			} else {
				delete(m.holders, root)
			}
		}
	}
	m.index.Drop(l)
	if l.reserved != nil {
		m.reserved.Drop(l.reserved)
	}
}

// holds takes note that an offer's host holds an image or weights.
func (m *Market) holds(root string, o *Offer) {
	all := m.holders[root]
	if i, there := slices.BinarySearchFunc(all, o, compareOffers); !there { // else it says so twice
		m.holders[root] = slices.Insert(all, i, o)
	}
}

// roots are those of what a host holds; some may come twice.
func (o *Offer) roots() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range o.Images {
			if !yield(o.Images[i].Root) {
				return
			}
		}
		for _, w := range o.Weights {
			if !yield(w) {
				return
			}
		}
	}
}

// relist tells the index which of a provider's GPUs can be asked for now.
func (m *Market) relist(p PeerID) {
	s := m.shops[p]
	if s == nil {
		return
	}
	for _, l := range s.listed {
		if free := m.available(l.Offer); free != l.Free {
			l.Free = free
			m.index.Put(l)
			if l.reserved != nil {
				l.reserved.Free = free
				m.reserved.Put(l.reserved)
			}
		}
	}
}

// auditShops asserts that what is known of offers beside themselves follows from them.
func (m *Market) auditShops() error {
	n := 0
	for p, s := range m.shops {
		n += len(s.offers)
		for i, o := range s.offers {
			at, ok := slices.BinarySearchFunc(m.offers, o, compareOffers)
			switch l := s.listed[i]; {
			case l.Offer != o || l.Free != m.available(o) || l.reserved != nil && l.reserved.Free != l.Free:
				return &InvariantError{Rule: "offers: what the index knows of those of " + string(p) + " is old"}
			case !ok || m.offers[at] != o || m.models[o.GPUs[0].Model] == 0:
				return &InvariantError{Rule: "offers: those of " + string(p) + " are not listed"}
			}
			for root := range o.roots() {
				if !slices.Contains(m.holders[root], o) {
					return &InvariantError{Rule: "offers: " + string(p) + " is not among those that hold " + root}
				}
			}
			for _, g := range o.GPUs {
				if m.sellers[g.UUID] != p {
					return &InvariantError{Rule: "offers: GPU " + g.UUID + " has another seller"}
				}
			}
		}
	}
	for root, all := range m.holders {
		for _, o := range all {
			if s := m.shops[o.Provider]; s == nil || !slices.Contains(s.offers, o) {
				return &InvariantError{Rule: "offers: one that is gone is among those that hold " + root}
			}
		}
	}
	if n != len(m.offers) {
		return &InvariantError{Rule: "offers: more are listed than offered"}
	}
	return nil
}
