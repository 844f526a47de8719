//go:build linux

package campaign

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	killsVar = "RIALTO_KILLS" // how many; a few by default
	seedVar  = "RIALTO_SEED"  // repeats a campaign as far as the machine does
	jsonVar  = "RIALTO_JSON"  // file for the result
)

// TestKill kills a host time after time, at random moments of all that it does, and compares what it shows then.
func TestKill(t *testing.T) {
	kills, seed := 14, rand.Uint64()
	for name, set := range map[string]func(string) error{
		killsVar: func(v string) (err error) { kills, err = strconv.Atoi(v); return err },
		seedVar:  func(v string) (err error) { seed, err = strconv.ParseUint(v, 10, 64); return err },
	} {
		if v := os.Getenv(name); v != "" {
			if err := set(v); err != nil {
				t.Fatal(name, err)
			}
		}
	}
	c := newCampaign(t, seed)
	began := time.Now()
	fmt.Printf("%d kills, %s=%d\n", kills, seedVar, seed)
	for c.result.Kills < kills && !t.Failed() || c.result.Kills < kills && os.Getenv(killsVar) != "" {
		if c.result.Kills%len(aims) == 0 {
			c.random.Shuffle(len(aims), func(i, k int) { aims[i], aims[k] = aims[k], aims[i] })
		}
		c.round(aims[c.result.Kills%len(aims)])
		if n := c.result.Kills; n%100 == 0 {
			waits := c.watch.sorted()
			fmt.Printf("%d kills in %v: %v, %d wrong, %d waits, median %v\n",
				n, time.Since(began).Round(time.Second), c.result.Phases, c.result.Wrong, len(waits), quantile(waits, 0.5))
		}
		if c.result.Kills%50 == 0 && c.result.Kills < kills {
			c.audit()
		}
	}
	c.audit()
	c.finish()
	waits := c.watch.sorted()
	c.result.Seconds = int(time.Since(began).Seconds())
	c.result.Resumes = len(waits)
	c.result.Resume = map[string]int{}
	for name, q := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1} {
		c.result.Resume[name] = int(quantile(waits, q).Milliseconds())
	}
	out, err := json.Marshal(c.result)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
	if name := os.Getenv(jsonVar); name != "" {
		if err := os.WriteFile(name, append(out, '\n'), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// quantile returns one of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// audit starts the host once more, compares everything that it says is whole, without peers, and ends it as it should.
func (c *campaign) audit() {
	var err error
	if c.host, err = startHost(c.dir, quota); err != nil {
		c.tb.Fatal(err)
	}
	c.watch.revive()
	c.phase, c.entered, c.next = starting, time.Now(), ""
	c.auditing = true
	defer func() { c.auditing, c.was = false, "the last host ended" }()
	if !c.ready(resting) {
		c.watch.kill()
		c.host.kill()
		return
	}
	for _, t := range c.world.things {
		here := false
		for _, root := range c.held {
			here = here || root == t.want.Root
		}
		if !here || t == c.always || t == c.running {
			continue
		}
		o := order{Op: opEnsure, Name: t.name, Want: t.want}
		o.Want.Sources = nil
		if err := c.host.order(o); err != nil {
			c.problem("order", err)
		}
		c.follow(time.After(patient), func(e event) bool {
			if e.Name != t.name {
				return false
			}
			if e.Peers+e.Remote > 0 && !c.evicted {
				c.problem("not whole", fmt.Errorf("%s came from elsewhere: %+v", t.name, e))
			}
			c.compare(t, e.Dir)
			return true
		})
		if err := c.host.order(order{Op: opRelease, Name: t.name}); err != nil {
			c.problem("order", err)
		}
	}
	if err := c.host.order(order{Op: opScrub}); err != nil {
		c.problem("order", err)
	}
	c.follow(time.After(patient), func(e event) bool { return e.Event == evScrubbed })
	c.end(&c.reader)
	c.end(&c.steady)
	c.running = nil
	if err := c.host.end(); err != nil {
		c.problem("end", err)
	}
	for _, l := range left(c.dir) {
		c.problem("left", fmt.Errorf("%s", l))
	}
}

// finish looks for what should not be there after the end.
func (c *campaign) finish() {
	c.end(&c.reader)
	c.end(&c.steady)
	named := make(map[string]bool)
	for _, f := range glob(c.tb, c.dir, "images", "roots", "*.json") {
		raw, err := os.ReadFile(f)
		if err != nil {
			c.tb.Fatal(err)
		}
		var rec struct{ Tree string }
		if err := json.Unmarshal(raw, &rec); err != nil {
			c.problem("record", err)
		}
		named[rec.Tree] = true
	}
	for _, kind := range []string{"tables", "meta", "sealed"} {
		for _, f := range glob(c.tb, c.dir, "mounts", kind, "*") {
			root, _, _ := strings.Cut(filepath.Base(f), ".")
			root, _, _ = strings.Cut(root, "-")
			if !named[root] || strings.HasSuffix(f, ".new") {
				c.problem("file left", fmt.Errorf("%s", f))
			}
		}
	}
	for _, pattern := range []string{"images/roots/new-*", "images/scratch/*", "mounts/probe-*", "mounts/mounts/*"} {
		for _, f := range glob(c.tb, c.dir, pattern) {
			c.problem("file left", fmt.Errorf("%s", f))
		}
	}
}

func glob(tb testing.TB, parts ...string) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(parts...))
	if err != nil {
		tb.Fatal(err)
	}
	return names
}
