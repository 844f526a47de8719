//go:build linux

package campaign

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// phase is what a host is at.
type phase string

const (
	starting  phase = "start"
	adopting  phase = "adopt" // what containers go on to use is asked for again
	importing phase = "import"
	fetching  phase = "fetch" // the list of files
	filling   phase = "fill"
	sealing   phase = "seal"
	evicting  phase = "evict"
	resting   phase = "rest"
)

// aims are the phases that kills aim at. The others are met by chance.
var aims = []phase{starting, adopting, importing, fetching, filling, sealing, evicting}

const (
	quota   = 26 << 20 // what is always in use, and two or three others
	patient = 45 * time.Second
)

// campaign is a host that is killed time after time, with what is known of it.
type campaign struct {
	tb     testing.TB
	world  *world
	dir    string
	random *rand.Rand

	always  *thing // in use the whole time, and sealed soon
	steady  *reader
	running *thing // in use beside it, or nil
	reader  *reader
	watch   watch

	host    *process
	phase   phase
	before  phase // the one that evicting interrupts
	entered time.Time
	typical map[phase]time.Duration // how long a phase takes
	next    string                  // tree that is worked at
	held    []string                // roots that the host said are whole
	evicted bool                    // some of them may be gone
	was     string                  // how the last host ended

	auditing bool

	result result
}

// result is what the campaign found.
type result struct {
	Kills      int            `json:"kills"`
	Phases     map[phase]int  `json:"kills_by_phase"`
	Wrong      int            `json:"wrong_bytes"` // reads with any
	Compared   int            `json:"trees_compared"`
	Reads      int            `json:"reads_across_kills"`
	ReadErrors int            `json:"read_errors"`
	SealReads  int            `json:"sealed_reads"`
	SealErrors int            `json:"sealed_errors"`
	Failed     int            `json:"wants_failed"`
	Orphans    int64          `json:"orphan_bytes_max"`
	Resumes    int            `json:"resumes"`
	Resume     map[string]int `json:"resume_ms"`
	Seconds    int            `json:"seconds"`
	Problems   map[string]int `json:"problems"`
}

func newCampaign(tb testing.TB, seed uint64) *campaign {
	tb.Helper()
	w := newWorld(tb)
	c := &campaign{
		tb: tb, world: w, dir: filepath.Join(tb.TempDir(), "host"), random: rand.New(rand.NewPCG(seed, 1)),
		typical: map[phase]time.Duration{
			starting: 200 * time.Millisecond, adopting: 50 * time.Millisecond, importing: 300 * time.Millisecond, fetching: 50 * time.Millisecond,
			filling: 300 * time.Millisecond, sealing: 50 * time.Millisecond, evicting: 20 * time.Millisecond,
		},
		result: result{Phases: make(map[phase]int), Problems: make(map[string]int)},
	}
	base := some(1, "base", 2<<20, 40)
	c.always = w.addImage(tb, "always", base, some(2, "always", 2<<20, 60))
	for i, name := range []string{"a", "b", "c"} {
		w.addImage(tb, name, base, some(uint64(3+i), name, (5+i)<<20, 120))
	}
	w.addWeights(tb, "weights", some(9, "model", 8<<20, 5))
	tb.Cleanup(func() { cleanUp(tb, c.dir) })
	return c
}

// problem notes what should not be, and says it the first times.
func (c *campaign) problem(kind string, err error) {
	c.result.Problems[kind]++
	if c.result.Problems[kind] <= 3 {
		c.tb.Errorf("kill %d, %s: %s: %v\n%s", c.result.Kills, c.phase, kind, err, c.host.said())
	}
}

func (c *campaign) enter(p phase) {
	now := time.Now()
	if took := now.Sub(c.entered); c.typical[c.phase] > 0 && c.phase != p {
		c.typical[c.phase] = (7*c.typical[c.phase] + took) / 8
	}
	c.phase, c.entered = p, now
}

// moment is a random one of a phase.
func (c *campaign) moment(p phase) time.Duration {
	return time.Duration(c.random.Int64N(int64(c.typical[p]) + 1))
}

// round is a host's life, from its start to its end in or after a phase.
func (c *campaign) round(aim phase) {
	var err error
	if c.host, err = startHost(c.dir, quota); err != nil {
		c.tb.Fatal(err)
	}
	c.watch.revive()
	c.phase, c.entered, c.next = starting, time.Now(), ""
	if aim == starting {
		c.follow(time.After(c.moment(starting)), nil)
	} else if c.ready(aim) {
		c.work(aim)
	}
	c.watch.kill()
	c.host.kill()
	c.result.Kills++
	c.result.Phases[c.phase]++
	c.was = fmt.Sprintf("the last host was killed at %s, %v in, aimed at %s", c.phase, time.Since(c.entered), aim)
}

// follow takes what the host tells until the time is over or an event is the last.
func (c *campaign) follow(limit <-chan time.Time, last func(event) bool) (ok bool) {
	for {
		e, err := c.host.next(limit)
		if err != nil {
			if !errors.Is(err, errSilent) {
				c.problem("host ended", err)
			}
			return false
		}
		c.heard(e)
		if last != nil && last(e) {
			return true
		}
	}
}

// heard learns from what the host tells.
func (c *campaign) heard(e event) {
	if e.Tree != "" && e.Tree != c.next {
		return
	}
	switch e.Event {
	case evReady:
		c.watch.ready()
		c.enter(adopting)
		c.held, c.evicted = e.Held, false
		c.result.Orphans = max(c.result.Orphans, e.Orphans)
		if e.Err != "" {
			c.problem("count", errors.New(e.Err))
		}
		if e.Bytes > quota {
			c.problem("quota", fmt.Errorf("%d bytes owned", e.Bytes))
		}
		if e.Orphans > 0 {
			c.problem("orphans", fmt.Errorf("%d bytes in blocks that no record names, of %v; %s", e.Orphans, c.world.owners(e.Strays), c.was))
		}
	case evMount:
		if c.phase == importing {
			c.enter(fetching)
		}
	case evShown:
		c.shown(e)
	case evFailed:
		if c.auditing && c.evicted {
			return // it was whole, and was deleted to make room for another
		}
		c.result.Failed++
		c.problem("want failed", fmt.Errorf("%s: %s", e.Name, e.Err))
	case evSeal:
		c.enter(sealing)
	case evSealed:
		if c.phase == sealing {
			c.enter(resting)
		}
	case evEvict:
		c.evicted = true
		if c.next != "" && c.phase != evicting {
			c.before = c.phase
			c.enter(evicting)
		}
	case evChanged:
		if c.phase == evicting {
			c.enter(c.before)
		}
	case evSettled:
		if e.Err != "" {
			c.problem("settle", errors.New(e.Err))
		}
	case evScrubbed:
		if e.Damaged > 0 || e.Err != "" {
			c.problem("scrub", fmt.Errorf("%d damaged, %s", e.Damaged, e.Err))
		}
	}
}

// shown has somebody read what is shown now.
func (c *campaign) shown(e event) {
	if e.Name == c.always.name {
		if c.steady == nil || c.steady.dir != e.Dir {
			c.end(&c.steady) // at first it is not sealed yet
			c.steady = read(c.tb, new(watch), c.always.files, e.Dir, 1, c.random.Uint64())
		}
		return
	}
	switch c.phase {
	case importing, fetching:
		c.enter(filling)
	case evicting:
		c.before = filling
	case starting, adopting, filling, sealing, resting:
	}
	if c.running != nil && c.running.name == e.Name && c.reader == nil {
		c.reader = read(c.tb, &c.watch, c.running.files, e.Dir, 4, c.random.Uint64())
	}
}

// end ends a reader, and takes in what it saw.
func (c *campaign) end(r **reader) {
	if *r == nil {
		return
	}
	sealed := strings.Contains((*r).dir, "/sealed-")
	reads, failed, wrong, last := (*r).stop()
	*r = nil
	c.result.Reads += reads
	c.result.ReadErrors += failed
	if sealed {
		c.result.SealReads += reads
		c.result.SealErrors += failed
	}
	if failed > 0 {
		c.problem("read failed", fmt.Errorf("%d of %d: %w", failed, reads, last))
	}
	for _, err := range wrong {
		c.result.Wrong++
		c.problem("wrong bytes", err)
	}
}

// ready has the host take over what containers use, as an agent does, and compares it.
func (c *campaign) ready(aim phase) bool {
	limit := time.After(patient)
	if !c.follow(limit, func(e event) bool { return e.Event == evReady }) {
		c.problem("not ready", errSilent)
		return false
	}
	users := []*thing{c.always}
	if c.running != nil {
		users = append(users, c.running)
	}
	for _, t := range users {
		c.ask(t, true)
	}
	if aim == adopting {
		c.follow(time.After(c.moment(adopting)), nil)
		return false
	}
	dirs := make(map[*thing]string)
	for len(dirs) < len(users) {
		if !c.follow(limit, func(e event) bool {
			for _, t := range users {
				if e.Name == t.name {
					dirs[t] = e.Dir
					return true
				}
			}
			return false
		}) {
			c.problem("not adopted", errSilent)
			return false
		}
	}
	c.enter(resting)
	if err := c.host.order(order{Op: opSettle}); err != nil {
		c.problem("order", err)
	}
	if !c.follow(limit, func(e event) bool { return e.Event == evSettled }) {
		c.problem("not settled", errSilent)
		return false
	}
	c.compare(c.always, dirs[c.always])
	if c.running != nil && c.random.IntN(2) == 0 {
		c.compare(c.running, dirs[c.running])
	}
	return true
}

// ask wants something from peers, or else from the registry.
func (c *campaign) ask(t *thing, peers bool) {
	o := order{Op: opEnsure, Name: t.name, Want: t.want}
	if !peers {
		o.Want.Root, o.Want.Sources = "", nil
	}
	if err := c.host.order(o); err != nil {
		c.problem("order", err)
	}
}

func (c *campaign) compare(t *thing, dir string) {
	if dir == "" {
		return // it failed, which was said
	}
	c.result.Compared++
	err := t.files.compare(dir)
	if wrong, ok := errors.AsType[*wrongError](err); ok {
		c.result.Wrong++
		c.problem("wrong bytes", wrong)
	} else if err != nil {
		c.problem("compare", err)
	}
}

// work has the host do what leads to a phase, and returns when it is time to end it.
func (c *campaign) work(aim phase) {
	if c.running != nil {
		c.end(&c.reader)
		if err := c.host.order(order{Op: opRelease, Name: c.running.name}); err != nil {
			c.problem("order", err)
		}
		c.running = nil
	}
	next := c.choose(aim)
	c.running, c.next = next, next.tree
	peers := aim != importing && c.random.IntN(3) > 0 || next.want.Image == ""
	if peers {
		c.enter(fetching)
	} else {
		c.enter(importing)
	}
	c.ask(next, peers)
	limit := time.After(10 * time.Second)
	if c.phase != aim && !c.follow(limit, func(e event) bool {
		return c.phase == aim || c.phase == resting && e.Event == evSealed
	}) {
		return
	}
	if c.phase == aim {
		c.follow(time.After(c.moment(aim)), nil)
	}
}

// choose returns something else to want, if possible something that is not here.
func (c *campaign) choose(aim phase) *thing {
	var absent, present []*thing
	for _, t := range c.world.things {
		switch {
		case t == c.always || aim == importing && t.want.Image == "":
		case slices.Contains(c.held, t.want.Root):
			present = append(present, t)
		default:
			absent = append(absent, t)
		}
	}
	if len(absent) > 0 && (len(present) == 0 || c.random.IntN(8) > 0) {
		return absent[c.random.IntN(len(absent))]
	}
	return present[c.random.IntN(len(present))]
}
