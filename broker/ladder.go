package broker

import (
	"cmp"
	"math"
	"slices"

	"rialto/pricing"
)

// ladders are all live offers, the cheapest first, and those of each model. To find a job's best offer, they are climbed
// until no dearer one can be as good: what a job is expected to cost is never less than what it runs for. Of 10,000 offers
// a job looks at some ten.
type ladders struct {
	all     []*Offer
	byModel map[string][]*Offer
}

// rung orders offers by rate; no two are equal.
func rung(a, b *Offer) int { return cmp.Or(cmp.Compare(a.Rate, b.Rate), byName(a, b)) }

// byName orders offers by provider and id.
func byName(a, b *Offer) int {
	return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.ID, b.ID))
}

func insert(list []*Offer, o *Offer, order func(a, b *Offer) int) []*Offer {
	i, _ := slices.BinarySearchFunc(list, o, order)
	return slices.Insert(list, i, o)
}

func remove(list []*Offer, o *Offer, order func(a, b *Offer) int) []*Offer {
	i, ok := slices.BinarySearchFunc(list, o, order)
	if !ok || list[i] != o {
		return list // it was not there
	}
	return slices.Delete(list, i, i+1)
}

func (l *ladders) add(o *Offer) {
	model := o.GPUs[0].Model
	l.all = insert(l.all, o, rung)
	l.byModel[model] = insert(l.byModel[model], o, rung)
}

func (l *ladders) drop(o *Offer) {
	model := o.GPUs[0].Model
	l.all = remove(l.all, o, rung)
	if l.byModel[model] = remove(l.byModel[model], o, rung); len(l.byModel[model]) == 0 {
		delete(l.byModel, model)
	}
}

// of returns the ladder of a model that a request names.
func (l *ladders) of(model string) []*Offer {
	if model == AnyModel {
		return l.all
	}
	return l.byModel[model]
}

// pick returns the offers that a job would be placed on first, in the order in which [Market.search] has them: the
// best, and those that are expected to cost at most one per cent more. More says that there may be others that match.
func (m *Market) pick(q Query, tried []PeerID) (best []candidate, more bool) {
	q.needs = m.needsOf(&q)
	wanted := m.conditions(&q)
	run := cmp.Or(q.Run, usualRun)
	limit := pricing.Money(math.MaxInt64)
	var fit []*Offer
	for _, o := range m.ladders.of(q.GPU.Model) {
		rate, err := o.Rate.MulInt(int64(q.GPU.Count))
		if err != nil {
			continue // not with the bounds on offers and requests
		}
		if boundedCost(rate, run) > limit {
			more = true
			break
		}
		if slices.Contains(tried, o.Provider) || slices.ContainsFunc(wanted, func(p Predicate) bool { return !p.keeps(m.listing(&q, o)) }) {
			continue
		}
		fit = append(fit, o)
		total := m.cost(&q, o, rate).Total
		limit = min(limit, total+total/100)
	}
	slices.SortFunc(fit, byName) // the last tie of [Market.rank]
	best = m.rank(&q, fit)
	if i := slices.IndexFunc(best, func(c candidate) bool { return c.cost.Total > limit }); i >= 0 {
		best, more = best[:i], true
	}
	return best, more
}

// conditions are all that an offer must satisfy to serve a query now. That the host honours its offers is among them
// whether one on the market does not or not.
func (m *Market) conditions(q *Query) []Predicate {
	ps := append(q.predicates(), q.freeNow())
	if !q.Where.Has(fieldTable[fieldFillRate].Name) {
		ps = append(ps, Predicate{field: &fieldTable[fieldFillRate], op: OpAtLeast, values: []value{number(leastFill)}})
	}
	return ps
}
