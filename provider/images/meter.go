//go:build linux

package images

import (
	"sync"

	"rialto/broker"
)

// meter counts bytes by where they came from and tells of each further mebibyte. It is safe for concurrent use.
type meter struct {
	mu   sync.Mutex
	now  broker.Fetched
	told int64
	tell map[*func(broker.Fetched)]struct{}
}

func newMeter() *meter { return &meter{tell: make(map[*func(broker.Fetched)]struct{})} }

func (m *meter) local(n int64)    { m.add(func(f *broker.Fetched) { f.Local += n }) }
func (m *meter) peers(n int64)    { m.add(func(f *broker.Fetched) { f.Peers += n }) }
func (m *meter) registry(n int64) { m.add(func(f *broker.Fetched) { f.Registry += n }) }
func (m *meter) total(n int64)    { m.add(func(f *broker.Fetched) { f.Total = n }) }

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
	defer m.mu.Unlock()
	return m.now
}

func (m *meter) add(change func(*broker.Fetched)) {
	m.mu.Lock()
	change(&m.now)
	now := m.now
	sum := now.Local + now.Peers + now.Registry
	var tell []func(broker.Fetched)
	if sum-m.told >= 1<<20 {
		m.told = sum
		tell = m.listeners()
	}
	m.mu.Unlock()
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
	m.mu.Lock()
	m.now.Total = m.now.Local + m.now.Peers + m.now.Registry
	now, tell := m.now, m.listeners()
	m.mu.Unlock()
	for _, fn := range tell {
		fn(now)
	}
}
