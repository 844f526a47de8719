package broker

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Startup is what the market saw of a lease's way to ready. The time is the market's own; the bytes are the provider's
// word.
//
// Of each provider the last starts are remembered, those of leases that have ended. From these the market expects of a host
//
//   - its setup, the median time of starts that loaded less than 32 MiB, and
//   - its inbound rate, the 20th percentile of bytes loaded by time, of starts that loaded at least as much. All of the
//     start counts as loading, because what a host says of its parts would let it claim a rate.
//
// One with fewer than three of a kind is taken for the median provider's, or the 20th percentile of providers: one start
// of each counts. Nothing that a host says of itself beforehand counts. A market that saw nothing takes one second and
// 500 Mbit/s.
//
// The size of an image is what the broker counted when it built its root ([ContentSized]). Of others, and of weights, it
// is the lower median of what providers' starts said, and φ, the share of missing bytes that came before ready, the
// upper one; each provider has one voice, its last, and a single one is not believed.
type Startup struct {
	Took   time.Duration // from grant to ready; zero: the market did not see it
	Total  int64         // bytes of image and weights; zero: not known yet
	Local  int64         // of them, on the host when it began
	Loaded int64         // that had come from peers and registry by ready
}

const (
	bigLoad     = 32 << 20 // a start that loaded as much tells of the inbound rate, another of the setup
	fewStarts   = 3        // that a provider needs to be taken for what it showed
	fewVoices   = 2        // providers that must tell of a size
	ownStarts   = 16       // of one provider, that are remembered
	allStarts   = 64       // of the market, one of each provider
	usualSetup  = time.Second
	usualRate   = 62.5e6 // bytes per second: 500 Mbit/s, as MarketConfig.PrepareTimeout assumes
	maxContent  = 1 << 50
	longestWait = maxDuration
)

// StartSeen is a start of a lease that has ended.
type StartSeen struct {
	Ready    int64 // Unix nanoseconds
	Lease    LeaseID
	Provider PeerID `json:",omitzero"` // where it goes without saying
	Startup
}

// starts are the last ones seen, the newest first.
type starts []StartSeen

func newer(a, b StartSeen) int {
	return cmp.Or(cmp.Compare(b.Ready, a.Ready), cmp.Compare(b.Lease, a.Lease))
}

// with adds one, in place of the provider's own if each has one voice, and keeps the newest. Which are left does not
// depend on the order in which they come.
func (s starts) with(x StartSeen, oneEach bool, most int) starts {
	if oneEach {
		if i := slices.IndexFunc(s, func(y StartSeen) bool { return y.Provider == x.Provider }); i >= 0 {
			if newer(x, s[i]) > 0 {
				return s
			}
			s = slices.Delete(slices.Clone(s), i, i+1)
		}
	}
	i, _ := slices.BinarySearchFunc(s, x, newer)
	s = slices.Insert(slices.Clone(s), i, x)
	return s[:min(len(s), most)]
}

// of returns the same of a provider.
func (s starts) of(p PeerID) starts {
	s = slices.Clone(s)
	for i := range s {
		s[i].Provider = p
	}
	return s
}

// pace is what starts say of a host, or of the market.
type pace struct {
	starts starts
	setup  time.Duration // zero: too few starts
	rate   float64       // bytes per second; zero: likewise
}

func (p pace) with(x StartSeen, oneEach bool, most int) pace {
	return paceOf(p.starts.with(x, oneEach, most))
}

func paceOf(seen starts) pace {
	p := pace{starts: seen}
	var setups []time.Duration
	var rates []float64
	for _, s := range p.starts {
		if s.Loaded < bigLoad {
			setups = append(setups, s.Took)
		} else {
			rates = append(rates, float64(s.Loaded)/s.Took.Seconds())
		}
	}
	if len(setups) >= fewStarts {
		slices.Sort(setups)
		p.setup = setups[len(setups)/2]
	}
	if len(rates) >= fewStarts {
		slices.Sort(rates)
		p.rate = rates[len(rates)/5]
	}
	return p
}

// seenStarts is what the market saw of starts.
type seenStarts struct {
	hosts    map[PeerID]pace
	market   pace
	contents map[string]starts // by what was started, see contentKey
	fastest  time.Duration     // the least setup that was expected of one since the start of the broker
}

func newSeenStarts() seenStarts {
	return seenStarts{hosts: map[PeerID]pace{}, contents: map[string]starts{}, fastest: usualSetup}
}

// learn takes the start of a lease that has ended, and returns the keys of what contents it tells of.
func (s *seenStarts) learn(l *Lease, spec *JobSpec) (contents []string) {
	if l.Startup.Took <= 0 || l.Ready.IsZero() {
		return nil
	}
	x := StartSeen{Ready: l.Ready.UnixNano(), Lease: l.ID, Provider: l.Provider, Startup: l.Startup}
	s.hosts[l.Provider] = s.hosts[l.Provider].with(x, false, ownStarts)
	s.market = s.market.with(x, true, allStarts)
	s.fastest = min(s.fastest, cmp.Or(s.hosts[l.Provider].setup, s.fastest), cmp.Or(s.market.setup, s.fastest))
	if l.Startup.Total == 0 {
		return nil
	}
	contents = spec.contentKeys()
	for _, key := range contents {
		s.contents[key] = s.contents[key].with(x, true, ownStarts)
	}
	return contents
}

// restore makes of what each provider showed what the market saw.
func (s *seenStarts) restore() {
	var newest starts
	for _, p := range s.hosts {
		s.fastest = min(s.fastest, cmp.Or(p.setup, s.fastest))
		if len(p.starts) > 0 {
			newest = append(newest, p.starts[0])
		}
	}
	slices.SortFunc(newest, newer)
	s.market = paceOf(newest[:min(len(newest), allStarts)])
	s.fastest = min(s.fastest, cmp.Or(s.market.setup, s.fastest))
}

func (s *seenStarts) equal(o *seenStarts) bool {
	same := func(a, b starts) bool { return slices.Equal(a, b) }
	return maps.EqualFunc(s.hosts, o.hosts, func(a, b pace) bool { return same(a.starts, b.starts) }) &&
		same(s.market.starts, o.market.starts) && maps.EqualFunc(s.contents, o.contents, same)
}

// size returns how many bytes some contents have, if two providers told.
func (s *seenStarts) size(key string) (int64, bool) {
	voices := s.contents[key]
	if len(voices) < fewVoices {
		return 0, false
	}
	sizes := make([]int64, len(voices))
	for i, v := range voices {
		sizes[i] = v.Total
	}
	slices.Sort(sizes)
	return sizes[(len(sizes)-1)/2], true
}

// share returns φ of some contents, if two providers told that missed something of it; else 1.
func (s *seenStarts) share(key string) float64 {
	var shares []float64
	for _, v := range s.contents[key] {
		if missing := v.Total - v.Local; missing > 0 {
			shares = append(shares, min(1, float64(v.Loaded)/float64(missing)))
		}
	}
	if len(shares) < fewVoices {
		return 1
	}
	slices.Sort(shares)
	return shares[len(shares)/2]
}

// contentKey names an image, by digest or root, and weights that are started together.
func contentKey(image string, weights []string) string {
	return image + "\x00" + strings.Join(slices.Compact(slices.Sorted(slices.Values(weights))), "\x00")
}

// contentKeys are the names of what a job starts: by the image's digest and, if it is signed, by its root.
func (s *JobSpec) contentKeys() []string {
	q := Query{}
	for _, w := range s.Weights {
		q.Weights = append(q.Weights, w.Root)
	}
	keys := []string{contentKey(s.Digest, q.Weights)}
	if s.Root != "" {
		keys = append(keys, contentKey(s.Root, q.Weights))
	}
	return keys
}

// sized takes the broker's own count of an image's bytes.
func (m *Market) sized(ev ContentSized) {
	for _, name := range []string{ev.Digest, ev.Root} {
		if name != "" && ev.Bytes > 0 {
			m.sizes[name] = min(ev.Bytes, maxContent)
		}
	}
}

// sawReady returns what a first report of ready says about a lease's start.
func (t *turn) sawReady(l *Lease) Startup {
	bounded := func(n int64) int64 { return min(n, maxContent) }
	s := Startup{Took: max(t.now.Sub(l.Granted), time.Millisecond), Total: bounded(l.Fetched.Total)}
	s.Local = min(bounded(l.Fetched.Local), s.Total)
	s.Loaded = bounded(l.Fetched.Peers) + bounded(l.Fetched.Registry)
	return s
}

// needs is what a query's job needs on a host before it can start.
type needs struct {
	items []need  // the image, if there is one, and weights
	whole int64   // bytes of all items together; zero: not known
	share float64 // φ
}

// need is an image or weights.
type need struct {
	weights string // CID of the root; empty: it is the image
	bytes   int64  // zero: not known
}

// needsOf looks up once what all offers of a search are asked about.
func (m *Market) needsOf(q *Query) *needs {
	if q.needs != nil {
		return q.needs
	}
	image := cmp.Or(q.Image, q.Root)
	n := &needs{share: 1}
	sizeOf := func(image string, weights []string) int64 {
		bytes, _ := m.starts.size(contentKey(image, weights))
		if len(weights) > 0 {
			return bytes
		}
		return cmp.Or(m.sizes[image], m.sizes[q.Root], bytes)
	}
	weights := slices.Compact(slices.Sorted(slices.Values(q.Weights)))
	if image != "" {
		n.items = append(n.items, need{bytes: sizeOf(image, nil)})
	}
	for _, w := range weights {
		n.items = append(n.items, need{weights: w})
	}
	if image != "" {
		n.whole, n.share = sizeOf(image, weights), m.starts.share(contentKey(image, weights))
	}
	return n
}

// misses returns how many bytes of the items a host has, and how many not; false if that is not known.
func (n *needs) misses(q *Query, o *Offer) (miss, held int64, known bool) {
	var unsized, unsizedHeld int
	var sized int64
	for _, x := range n.items {
		here := x.weights == "" && q.imageOn(o) || x.weights != "" && slices.Contains(o.Weights, x.weights)
		switch {
		case x.bytes == 0 && here:
			unsized++
			unsizedHeld++
		case x.bytes == 0:
			unsized++
		case here:
			held += x.bytes
		default:
			miss += x.bytes
		}
		sized += x.bytes
	}
	rest := max(0, n.whole-sized) // of those whose own size is not known
	switch {
	case len(n.items) == 0:
		return 0, 0, false
	case unsized == 0:
		return miss, held, true
	case unsizedHeld == unsized: // all of it is here, however large it is
		return miss, held + rest, true
	case n.whole == 0:
		return 0, 0, false
	case unsizedHeld == 0:
		return miss + rest, held, true
	}
	return 0, 0, false
}

// start estimates how long a host needs from grant to ready, and what it has to fetch.
func (m *Market) start(q *Query, o *Offer) Cost {
	p := m.starts.hosts[o.Provider]
	c := Cost{Ready: cmp.Or(p.setup, m.starts.market.setup, usualSetup)}
	n := m.needsOf(q)
	if c.MissBytes, c.HeldBytes, c.Sized = n.misses(q, o); c.MissBytes > 0 {
		seconds := n.share * float64(c.MissBytes) / cmp.Or(p.rate, m.starts.market.rate, usualRate)
		c.Ready += milliseconds(seconds/3600, longestWait)
	}
	return c
}
