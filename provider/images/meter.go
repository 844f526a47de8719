//go:build linux

package images

import (
	"maps"
	"slices"
	"sync"

	"rialto/blockstore/exchange"
	"rialto/broker"
)

// meter counts bytes by where they came from and tells of each further mebibyte. It is safe for concurrent use.
type meter struct {
	mu   sync.Mutex
	now  broker.Fetched
	told int64
	tell map[*func(broker.Fetched)]struct{}

	downs map[download]struct{}   // under way
	from  map[broker.PeerID]int64 // who served what of those that ended
}

// download is an exchange.Download.
type download interface{ Fetched() exchange.Fetched }

func newMeter() *meter {
	return &meter{
		tell: make(map[*func(broker.Fetched)]struct{}), downs: make(map[download]struct{}), from: make(map[broker.PeerID]int64),
	}
}

// follow counts who serves a download, until leave.
func (m *meter) follow(d download) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.downs[d] = struct{}{}
}

// leave keeps what a download that ended has counted.
func (m *meter) leave(d download) {
	got := d.Fetched()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, followed := m.downs[d]; followed {
		addPeers(m.from, got)
	}
	delete(m.downs, d)
}

// part ends a download, if there is one, and keeps its count.
func (f *fill) part(d *exchange.Download) error {
	if d == nil {
		return nil
	}
	err := d.Close()
	f.meter.leave(d)
	return err
}

func addPeers(all map[broker.PeerID]int64, got exchange.Fetched) {
	for p, n := range got.Peers {
		all[broker.PeerID(p)] += n
	}
}

func (m *meter) local(n int64)    { m.add(func(f *broker.Fetched) { f.Local += n }) }
func (m *meter) registry(n int64) { m.add(func(f *broker.Fetched) { f.Registry += n }) }
func (m *meter) total(n int64)    { m.add(func(f *broker.Fetched) { f.Total = n }) }

// came notes bytes from peers, only to tell of them: what they are in all is the downloads' own count, for a block that
// somebody waits for and the bulk of an image want comes once.
func (m *meter) came(n int64) { m.add(func(f *broker.Fetched) { f.Peers += n }) }

// restart begins with a new source: what was here may have to come again.
func (m *meter) restart(total int64) {
	m.add(func(f *broker.Fetched) { f.Local, f.Total = 0, total })
}

// listen has fn, which may be nil, told until the function that it returns is called.
func (m *meter) listen(fn func(broker.Fetched)) (quiet func()) {
	if fn == nil {
		return func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell[&fn] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.tell, &fn)
	}
}

func (m *meter) count() broker.Fetched {
	m.mu.Lock()
	now, from, downs := m.now, maps.Clone(m.from), slices.Collect(maps.Keys(m.downs))
	m.mu.Unlock()
	for _, d := range downs {
		addPeers(from, d.Fetched())
	}
	var served int64
	for _, n := range from {
		served += n
	}
	now.Peers = served
	now.From = broker.TopPeers(from)
	return now
}

func (m *meter) add(change func(*broker.Fetched)) {
	m.mu.Lock()
	change(&m.now)
	sum := m.now.Local + m.now.Peers + m.now.Registry
	due := sum-m.told >= 1<<20
	if due {
		m.told = sum
	}
	m.mu.Unlock()
	if due {
		m.flush()
	}
}

// flush tells the present count.
func (m *meter) flush() {
	m.mu.Lock()
	tell := m.listeners()
	m.mu.Unlock()
	if len(tell) == 0 {
		return
	}
	now := m.count()
	for _, fn := range tell {
		fn(now)
	}
}

// listeners returns who is told. The caller holds mu.
func (m *meter) listeners() []func(broker.Fetched) {
	all := make([]func(broker.Fetched), 0, len(m.tell))
	for fn := range m.tell {
		all = append(all, *fn)
	}
	return all
}

// end tells the final count, whose total is the sum.
func (m *meter) end() {
	now := m.count()
	m.total(now.Local + now.Peers + now.Registry)
	m.flush()
}
