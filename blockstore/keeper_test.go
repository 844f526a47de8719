package blockstore_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"rialto/blockstore"
)

// keepers lists the hosts that are keepers of a root, of those that hold it.
func keepers(root blockstore.CID, hosts []string, k int) []string {
	var list []string
	for _, h := range hosts {
		if blockstore.Keeper(root, h, slices.Values(hosts), k) {
			list = append(list, h)
		}
	}
	return list
}

func hostNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("host ", i)
	}
	return names
}

// Each root has k keepers, or as many as hold it, and each host its share: within five standard deviations.
func TestKeepersShareTheWork(t *testing.T) {
	const roots = 4000
	for _, hosts := range []int{1, 2, 3, 10, 50} {
		for _, k := range []int{1, 2, 3} {
			names, kept := hostNames(hosts), map[string]int{}
			for i := range roots {
				list := keepers(rootCID(fmt.Sprint(i)), names, k)
				if want := min(k, hosts); len(list) != want {
					t.Fatalf("%d hosts: %d keepers, want %d", hosts, len(list), want)
				}
				for _, h := range list {
					kept[h]++
				}
			}
			share := min(1, float64(k)/float64(hosts))
			mean, deviation := roots*share, math.Sqrt(roots*share*(1-share))
			for _, h := range names {
				if got := float64(kept[h]); math.Abs(got-mean) > 5*deviation {
					t.Errorf("%d hosts, k = %d: %s keeps %v, want %.0f ± %.0f", hosts, k, h, got, mean, 5*deviation)
				}
			}
		}
	}
}

// When a host leaves, only what it kept gets another keeper: one, and the others stay.
func TestKeepersMoveLittle(t *testing.T) {
	const hosts, k, roots = 20, 2, 1000
	names := hostNames(hosts)
	moved := 0
	for i := range roots {
		root := rootCID(fmt.Sprint(i))
		before, after := keepers(root, names, k), keepers(root, names[1:], k)
		left := slices.Contains(before, names[0])
		before = slices.DeleteFunc(before, func(h string) bool { return h == names[0] })
		for _, h := range before {
			if !slices.Contains(after, h) {
				t.Fatalf("root %d: %s is no keeper any more", i, h)
			}
		}
		if !left && len(after) != len(before) {
			t.Fatalf("root %d: keepers %v, before %v", i, after, before)
		}
		if left {
			moved++
		}
	}
	if want := roots * k / hosts; moved < want/2 || moved > 2*want {
		t.Errorf("%d of %d roots moved, want about %d", moved, roots, want)
	}
}

func TestKeeperOfNothing(t *testing.T) {
	if blockstore.Keeper(rootCID("a"), "me", slices.Values([]string{"me", "me"}), 1) != true {
		t.Error("who is alone keeps nothing")
	}
	if blockstore.Keeper(rootCID("a"), "me", slices.Values([]string{}), 0) {
		t.Error("one of none is a keeper")
	}
}

func BenchmarkKeeper(b *testing.B) {
	names := hostNames(1000)
	for i := 0; b.Loop(); i++ {
		blockstore.Keeper(rootCID("a"), names[i%len(names)], slices.Values(names), 2)
	}
}
