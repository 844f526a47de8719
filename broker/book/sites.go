package book

// site is the live slots of one site, in a list through their pages.
type site struct {
	first uint32 // by index; zero: none
	live  uint32
	level uint8 // what the planes say of its slots; at least siteLevel(live)
}

// sites is a table by the caller's numbers.
type sites []site

// link adds a live slot to its site and returns the level that its row is to have. It may raise the level of the
// slots that are there already.
func (x *Index) link(s Slot, r *Record) uint8 {
	if r.Site == 0 {
		return 1
	}
	for int(r.Site) >= len(x.sites) {
		x.sites = append(x.sites, make(sites, 4096)...)
	}
	st := &x.sites[r.Site]
	if l := siteLevel(st.live + 1); l > st.level {
		x.relevel(st, l)
	}
	pg, j := x.pages.at(s.index())
	pg.prev[j], pg.next[j] = 0, st.first
	if st.first != 0 {
		pg2, j2 := x.pages.at(st.first)
		pg2.prev[j2] = s.index()
	}
	st.first = s.index()
	st.live++
	return st.level
}

// unlink takes a slot, which is out of its ladders, from its site. The level falls only when it is two too high: so
// that a slot which comes and goes does not change all its siblings' rows each time.
func (x *Index) unlink(s Slot, r *Record) {
	if r.Site == 0 {
		return
	}
	st := &x.sites[r.Site]
	pg, j := x.pages.at(s.index())
	prev, next := pg.prev[j], pg.next[j]
	if prev == 0 {
		st.first = next
	} else {
		pg2, j2 := x.pages.at(prev)
		pg2.next[j2] = next
	}
	if next != 0 {
		pg2, j2 := x.pages.at(next)
		pg2.prev[j2] = prev
	}
	st.live--
	if l := siteLevel(st.live); l+1 < st.level {
		x.relevel(st, l)
	}
}

// levelOf returns the site level in a live slot's row.
func (x *Index) levelOf(r *Record) uint8 {
	if r.Site == 0 {
		return 1
	}
	return x.sites[r.Site].level
}

// relevel gives a site's slots another level.
func (x *Index) relevel(st *site, l uint8) {
	var diff row
	diff.put(siteRow, uint64(st.level^l))
	st.level = l
	for i := st.first; i != 0; {
		pg, j := x.pages.at(i)
		x.flip(x.pages.slot(i), &pg.records[j], diff)
		i = pg.next[j]
	}
}
