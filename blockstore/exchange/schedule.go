package exchange

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"rialto/blockstore"
)

// horizon is how far from the order a block may be taken, so that the peers of a swarm fetch different ones.
const horizon = 256

// starving is how long nothing may come until who has everything is asked for anything, whatever others promise.
const starving = 500 * time.Millisecond

// schedule asks for as much as may be asked for. Nothing that it calls blocks. The caller holds mu.
func (d *Download) schedule() {
	if d.cause() != nil {
		return
	}
	now := time.Now()
	for _, it := range slices.Clone(d.urgent) {
		if s := d.best(it, now, true); s != nil {
			d.ask(s, s.lanes[0], it, now)
		}
	}
	swarm, spread := d.swarm()
	for again := true; again; {
		again = false
		for _, s := range d.sources {
			if !s.free(now) || d.unsunk >= maxUnsunk || d.out >= windowBytes {
				continue
			}
			if it := d.pick(s, swarm, spread, now); it != nil {
				d.ask(s, s.emptiest(), it, now)
				again = true
			}
		}
	}
	if d.swap != nil {
		d.swap.flush()
	}
}

// free reports whether a source may be asked for one more bulk block.
func (s *source) free(now time.Time) bool {
	if s.swap != nil {
		return s.swap.room()
	}
	return s.ready && s.out < s.meter.window && s.wants < laneWants && !now.Before(s.busy)
}

// emptiest returns the lane for bulk on which least is asked for.
func (s *source) emptiest() *lane {
	if len(s.lanes) == 1 {
		return s.lanes[0]
	}
	return slices.MinFunc(s.lanes[1:], func(a, b *lane) int { return int(a.out - b.out) })
}

// swarm reports whether peers fetch what we fetch, so that it matters who fetches what: then the rarest block is
// taken first, of equally rare ones the one that is nearest to this host: see rank. So it is, too, before all have said
// what they have (spread).
func (d *Download) swarm() (swarm, spread bool) {
	spread = d.joining > 0 && len(d.known) > 1
	for _, s := range d.sources {
		swarm = swarm || s.partial
		spread = spread || s.swap == nil && !s.answered && len(d.known) > 1
	}
	return swarm, spread
}

// pick returns what to ask a source for next.
func (d *Download) pick(s *source, swarm, spread bool, now time.Time) *item {
	var best *item
	seen, nearest := 0, 0
	for _, it := range d.queue {
		if s.lacks.has(it.index) || s.partial && !s.has.has(it.index) || it.at(s) {
			continue
		}
		if !swarm && !spread {
			return it
		}
		if seen++; seen > horizon {
			break
		}
		if swarm && !s.partial && (d.spare(s, it, now) || d.others(it, now)) || best != nil && it.holders > best.holders {
			continue
		}
		if rank := d.rank(it.cid); best == nil || it.holders < best.holders || rank < nearest {
			best, nearest = it, rank
		}
	}
	return best
}

// rank returns how many of the peers are nearer to a block than this host is. All hosts of a swarm see it in the same
// way, so that each begins with blocks that nobody else begins with.
func (d *Download) rank(c blockstore.CID) int {
	ours, rank := distance(d.x.key, c), 0
	for _, k := range d.keys {
		if distance(k, c) < ours {
			rank++
		}
	}
	return rank
}

// others reports whether a peer in the swarm is about to fetch an item from who has everything, because it is nearer and
// has fetched something lately. Who has sent us nothing is believed that only at first.
func (d *Download) others(it *item, now time.Time) bool {
	const lately = 2 * time.Second
	if now.Sub(d.came) > starving {
		return false
	}
	ours := distance(d.x.key, it.cid)
	for _, s := range d.sources {
		if s.partial && now.Sub(s.grew) < lately && (s.brought || now.Sub(d.began) < lately) && distance(d.known[s.id], it.cid) < ours {
			return true
		}
	}
	return false
}

// key is a peer's place among blocks.
func key(p peer.ID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p))
	return h.Sum64()
}

// distance is a number that looks random (the finalizer of SplitMix64).
func distance(key uint64, c blockstore.CID) uint64 {
	z := key ^ binary.LittleEndian.Uint64(c[:])
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// spare reports whether a peer that has everything should not be asked for an item, because peers that fetch it too
// have it by now and are not much slower: so its upload goes into what only it has.
func (d *Download) spare(s *source, it *item, now time.Time) bool {
	const muchSlower = 8
	if s.partial || it.holders < 2 || now.Sub(d.came) > starving {
		return false
	}
	var rate float64
	for _, other := range d.sources {
		if other.partial && other.has.has(it.index) && !other.overdue && !it.at(other) && !now.Before(other.busy) {
			if other.meter.rate == 0 {
				return true // it is as good as any until it is known
			}
			rate += other.meter.rate
		}
	}
	return rate > 0 && muchSlower*rate >= s.meter.rate
}

// reroute takes an item that a peer in the swarm has by now back from one that has everything.
func (d *Download) reroute(it *item) {
	now := time.Now()
	for _, f := range it.flights {
		s := f.source
		if f.cancelled || s.swap != nil || s.partial || !d.spare(s, it, now) || f.lane.stream.Begun(it.cid) {
			continue
		}
		f.cancelled = true
		f.lane.stream.Cancel(it.cid)
		d.requeue(it)
	}
}

// best returns the source that would bring an item soonest; urgent: even if it is not free for bulk.
func (d *Download) best(it *item, now time.Time, urgent bool) *source {
	var best *source
	var least time.Duration
	for _, s := range d.sources {
		if s.lacks.has(it.index) || it.at(s) || now.Before(s.busy) || !urgent && !s.free(now) {
			continue
		}
		if _, ok := s.lanes[0].flights[it.cid]; ok || !urgent && d.spare(s, it, now) {
			continue // taken back, but not out of the way yet
		}
		wait := s.meter.wait(s.out, it.cost)
		if !s.has.has(it.index) {
			wait *= 2 // it may not have it
		}
		if !s.ready || s.overdue {
			wait += time.Second // it says nothing
		}
		if best == nil || wait < least {
			best, least = s, wait
		}
	}
	return best
}

// ask asks a source for an item.
func (d *Download) ask(s *source, l *lane, it *item, now time.Time) {
	back := it.asked(s) // taken back, but not out of the way yet
	d.unqueue(it)
	if back != nil && (back.lane == l || l != s.lanes[0] || back.lane.stream.Begun(it.cid)) {
		back.cancelled = false
		return
	}
	if !it.counted {
		it.counted = true
		d.out += it.cost
		d.unsunk++
	}
	if back != nil {
		d.move(back, now)
		return
	}
	d.fly(s, l, it, now)
	if s.swap != nil {
		s.swap.want(it)
	} else {
		l.stream.Want(it.cid)
	}
}

// fly puts a flight on the books.
func (d *Download) fly(s *source, l *lane, it *item, now time.Time) *flight {
	if s.out == 0 {
		s.meter.asked(now)
	}
	f := &flight{item: it, source: s, lane: l, at: now, again: len(it.flights) > 0}
	it.flights = append(it.flights, f)
	l.flights[it.cid] = f
	s.wants++
	f.weigh(it.cost)
	return f
}

// land takes a flight off the books.
func (d *Download) land(f *flight) {
	delete(f.lane.flights, f.item.cid)
	f.weigh(0)
	f.source.wants--
	f.item.flights = slices.DeleteFunc(f.item.flights, func(o *flight) bool { return o == f })
}

// requeue has an item asked for again if it has to be.
func (d *Download) requeue(it *item) {
	if !it.waits() || it.queued {
		return
	}
	it.queued = true
	if len(it.getters) > 0 {
		d.urgent = append(d.urgent, it)
	} else {
		d.queue = slices.Insert(d.queue, 0, it)
	}
}

func (d *Download) unqueue(it *item) {
	if !it.queued {
		return
	}
	it.queued = false
	for _, q := range []*[]*item{&d.urgent, &d.queue} {
		if i := slices.Index(*q, it); i >= 0 {
			*q = slices.Delete(*q, i, i+1)
			return
		}
	}
}

// uncount gives back an item's room in the window.
func (d *Download) uncount(it *item) {
	if it.counted {
		it.counted = false
		d.out -= it.cost
		d.unsunk--
	}
}

// cancelFlights takes all questions for an item back.
func (d *Download) cancelFlights(it *item, data []byte) {
	for _, f := range it.flights {
		if f.cancelled {
			continue
		}
		f.cancelled = true
		if f.source.swap == nil {
			f.lane.stream.Cancel(it.cid)
		} else if data != nil {
			f.source.swap.cancel(it, data)
		}
	}
}

// hasten moves an item ahead of all bulk: what is asked for already is not asked for again, but moved to the front there.
// If it is on its way, then nothing happens: it comes once.
func (d *Download) hasten(it *item, now time.Time) {
	for _, f := range slices.Clone(it.flights) {
		if !f.cancelled {
			d.move(f, now)
		}
	}
	d.unqueue(it)
	d.requeue(it)
}

// move moves a question to the stream for what is urgent. Whichever of both streams brings the block, the other says that
// it was cancelled.
func (d *Download) move(f *flight, now time.Time) {
	s, it := f.source, f.item
	if s.swap != nil || f.lane == s.lanes[0] || f.lane.stream.Begun(it.cid) {
		return
	}
	if _, ok := s.lanes[0].flights[it.cid]; ok { // it was moved before, and no answer to that came yet
		return
	}
	f.cancelled = true
	f.weigh(0)
	d.fly(s, s.lanes[0], it, now).from = f
	s.lanes[0].stream.Move(it.cid)
}

// stay notes that what was to be moved comes where it was asked for first: it was sent before it could be moved.
func (d *Download) stay(moved *flight) {
	for _, f := range moved.item.flights {
		if f == moved.from {
			f.cancelled = false
			f.weigh(f.item.cost)
			f.at = moved.at // it is as urgent as that was
		}
	}
}

// hedge asks somebody else, too, for what takes longer than it should, and at the very end for what an idle peer would
// bring sooner.
func (d *Download) hedge(now time.Time) {
	flying, again := 0, 0
	var late, lost []*item // lost is what must come from elsewhere, or it does not come
	var behind []*flight   // urgent, but asked for in bulk: a question for it may have overtaken the first one
	end := d.pulling == 0 && len(d.queue) == 0 && d.unsunk <= max(2, d.total/50)
	for _, s := range d.sources {
		s.overdue = false
		patience, hurry := s.meter.patience(), s.meter.hurry()
		if s.partial {
			patience *= 2 // it has its own hands full
		}
		for _, l := range s.lanes {
			for _, f := range l.flights {
				flying++
				it := f.item
				age, limit := now.Sub(f.at), patience
				if len(it.getters) > 0 {
					limit = hurry
				}
				if f.again && !f.cancelled && age < limit {
					again++
				}
				s.overdue = s.overdue || age > limit
				if f.cancelled || it.done || it.inHand > 0 || f != it.last() {
					continue
				}
				if age > 4*limit || age > limit && len(it.getters) > 0 {
					lost = append(lost, it)
					behind = append(behind, f)
				} else if age > limit || end && age > limit/4 && d.sooner(it, f, age, now) {
					late = append(late, it)
				}
			}
		}
	}
	for _, f := range behind {
		if len(f.item.getters) > 0 {
			d.move(f, now)
		}
	}
	byAge := func(a, b *item) int { return a.since.Compare(b.since) }
	slices.SortFunc(lost, byAge)
	slices.SortFunc(late, byAge)
	for i, it := range slices.Concat(lost, late) {
		if i >= len(lost) && again >= max(4, flying/20) {
			break
		}
		urgent := len(it.getters) > 0
		if s := d.best(it, now, urgent || i < len(lost)); s != nil {
			l := s.emptiest()
			if urgent {
				l = s.lanes[0]
			}
			d.ask(s, l, it, now)
			again++
		}
	}
	if d.swap != nil {
		d.swap.flush()
	}
}

// sooner reports whether an idle peer would have brought the item in the time that another took already.
func (d *Download) sooner(it *item, f *flight, age time.Duration, now time.Time) bool {
	s := d.best(it, now, false)
	return s != nil && s != f.source && s.out == 0 && s.meter.rate > 0 && s.meter.wait(0, it.cost) < age
}
