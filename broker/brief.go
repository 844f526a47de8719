package broker

// brief answers a search with its first matches alone, found through the index; false: it has none, or an order of its
// own, and is explained after all. The error is a [*FieldError].
func (m *Market) brief(q *Query) (Search, bool, error) {
	if !q.Brief || q.Limit < 1 || q.Limit > maxBest || len(q.Order.keys) > 0 {
		return Search{}, false, nil
	}
	var behind *rank
	if q.After != "" {
		var err error
		if behind, err = q.Order.placeOf(q.After); err != nil {
			return Search{}, false, err
		}
	}
	f := m.finder(q, nil, true)
	t := top{finder: &f, n: q.Limit + 1, behind: behind}
	f.walk(&t)
	if len(t.all) == 0 && behind == nil {
		return Search{}, false, nil
	}
	s := Search{Brief: true, AsOf: m.clock, Offers: len(m.offers)}
	for _, p := range append(f.wanted, q.freeNow()) {
		s.Applied = append(s.Applied, p.String())
	}
	if len(t.all) > q.Limit {
		t.all = t.all[:q.Limit]
		last := q.Order.rank(t.all[q.Limit-1], m.listing(q, t.all[q.Limit-1].offer))
		s.Next = q.Order.cursorAt(&last)
	}
	s.Matches = m.matches(q, t.all)
	s.Matched = len(s.Matches)
	return s, true, nil
}
