package blockstore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/blockstore"
)

func rootCID(name string) blockstore.CID { return blockstore.Sum([]byte(name)) }

func TestEvict(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	root := func(name string, bytes int64, age time.Duration) blockstore.Root {
		return blockstore.Root{CID: rootCID(name), Bytes: bytes, LastUsed: ago(age)}
	}
	a, b, c := root("a", 100, time.Hour), root("b", 100, 2*time.Hour), root("c", 100, 3*time.Hour)
	with := func(r blockstore.Root, change func(*blockstore.Root)) blockstore.Root {
		change(&r)
		return r
	}
	pinned := func(r *blockstore.Root) { r.Pinned = true }
	last := func(r *blockstore.Root) { r.LastInRegion = true }
	keeper := func(r *blockstore.Root) { r.Keeper = true }
	for _, tc := range []struct {
		name  string
		marks blockstore.Watermarks
		used  int64
		roots []blockstore.Root
		want  string
	}{
		{"no quota", blockstore.Watermarks{}, 1 << 40, []blockstore.Root{a, b, c}, ""},
		{"below high", blockstore.Watermarks{Quota: 1000}, 900, []blockstore.Root{a, b, c}, ""},
		{"oldest first", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{a, b, c}, "cb"},
		{"exactly low", blockstore.Watermarks{Quota: 1000, High: 0.85}, 900, []blockstore.Root{a, b, c}, "c"},
		{"pinned stays", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{a, b, with(c, pinned)}, "ba"},
		{"last in region stays", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{a, with(b, last), c}, "ca"},
		{"keepers go later", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{a, b, with(c, keeper)}, "ba"},
		{"keepers go in order", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{with(a, keeper), with(b, keeper), with(c, keeper)}, "cb"},
		{"keepers go all the same", blockstore.Watermarks{Quota: 1000}, 1200, []blockstore.Root{a, b, with(c, keeper)}, "bac"},
		{"needed: the last in region goes last", blockstore.Watermarks{Quota: 1000, Needed: true}, 1100, []blockstore.Root{with(a, keeper), b, with(c, last)}, "bac"},
		{"needed: it goes only if it must", blockstore.Watermarks{Quota: 1000, Needed: true}, 901, []blockstore.Root{a, with(b, last), c}, "ca"},
		{"needed: pinned stays", blockstore.Watermarks{Quota: 1000, Needed: true}, 2000, []blockstore.Root{with(with(a, pinned), last), with(b, last)}, "b"},
		{"nothing may go", blockstore.Watermarks{Quota: 1000}, 2000, []blockstore.Root{with(a, pinned), with(b, last)}, ""},
		{"not enough", blockstore.Watermarks{Quota: 1000}, 2000, []blockstore.Root{a, b, c}, "cba"},
		{
			"more replicas first",
			blockstore.Watermarks{Quota: 1000},
			901,
			[]blockstore.Root{with(a, func(r *blockstore.Root) { r.Replicas = 9 }), b, c},
			"ac",
		},
		{"large before old", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{with(a, func(r *blockstore.Root) { r.Bytes = 400 }), b, c}, "a"},
		{"small ones spared", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{root("a", 200, time.Second), b, c}, "cb"},
		{"superfluous", blockstore.Watermarks{Quota: 1000}, 950, []blockstore.Root{root("a", 150, time.Minute), root("b", 10, 1000*time.Hour)}, "a"},
		{"used in the future", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{root("a", 100, -time.Hour), b, c}, "cb"},
		{"no bytes", blockstore.Watermarks{Quota: 1000}, 901, []blockstore.Root{root("a", 0, time.Hour)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got strings.Builder
			names := map[blockstore.CID]string{rootCID("a"): "a", rootCID("b"): "b", rootCID("c"): "c"}
			for _, v := range tc.marks.Evict(now, tc.used, tc.roots) {
				got.WriteString(names[v])
			}
			if got.String() != tc.want {
				t.Errorf("evicts %q, want %q", got.String(), tc.want)
			}
		})
	}
}

func TestEvictProperties(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		var roots []blockstore.Root
		byCID := make(map[blockstore.CID]blockstore.Root)
		for i := range rapid.IntRange(0, 30).Draw(t, "roots") {
			r := blockstore.Root{
				CID:          rootCID(fmt.Sprint(i)),
				Bytes:        rapid.Int64Range(0, 1000).Draw(t, "bytes"),
				LastUsed:     now.Add(-time.Duration(rapid.IntRange(-10, 1000).Draw(t, "age")) * time.Second),
				Pinned:       rapid.Bool().Draw(t, "pinned"),
				LastInRegion: rapid.Bool().Draw(t, "last"),
				Replicas:     rapid.IntRange(0, 5).Draw(t, "replicas"),
				Keeper:       rapid.Bool().Draw(t, "keeper"),
			}
			roots = append(roots, r)
			byCID[r.CID] = r
		}
		quota := rapid.Int64Range(1, 20_000).Draw(t, "quota")
		used := rapid.Int64Range(0, 30_000).Draw(t, "used")
		marks := blockstore.Watermarks{Quota: quota, Needed: rapid.Bool().Draw(t, "needed")}
		victims := marks.Evict(now, used, roots)

		var freed, free int64
		for _, v := range victims {
			r, ours := byCID[v]
			if !ours || r.Pinned || r.LastInRegion && !marks.Needed {
				t.Fatalf("evicts %+v", r)
			}
			freed += r.Bytes
			delete(byCID, v) // a second time is not ours
		}
		for _, r := range roots {
			if !r.Pinned && (marks.Needed || !r.LastInRegion) {
				free += r.Bytes
			}
		}
		high, low := int64(float64(quota)*0.9), int64(float64(quota)*0.8)
		switch {
		case used <= high && len(victims) > 0:
			t.Fatalf("evicts at %d of %d", used, high)
		case used > high && used-freed > low && freed < free:
			t.Fatalf("stops at %d, low is %d, and %d bytes could go", used-freed, low, free-freed)
		}
		for _, r := range roots {
			if slices.Contains(victims, r.CID) && used-(freed-r.Bytes) <= low {
				t.Fatalf("%d bytes are superfluous", r.Bytes)
			}
		}
		rand.Shuffle(len(roots), func(i, j int) { roots[i], roots[j] = roots[j], roots[i] })
		if again := marks.Evict(now, used, roots); !slices.Equal(victims, again) {
			t.Fatal("the order of the roots decides")
		}
	})
}
