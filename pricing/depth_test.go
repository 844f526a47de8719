package pricing

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestDepthAgreesWithGPUsOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var asks []Ask
		var single []Rate
		for range rapid.IntRange(0, 12).Draw(t, "asks") {
			a := Ask{Rate(rapid.Int64Range(0, 20).Draw(t, "rate")) * usd / 10, rapid.IntRange(1, 40).Draw(t, "gpus"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "operator")}
			asks = append(asks, a)
			for range a.GPUs {
				single = append(single, a.Rate)
			}
		}
		slices.Sort(single)
		n := rapid.IntRange(1, 300).Draw(t, "n")
		levels, _ := Levels(asks)
		got, err := Impact(levels, n)
		if n > len(single) {
			if !errors.Is(err, ErrDepth) {
				t.Fatalf("%d of %d GPUs: got %v", n, len(single), err)
			}
		} else {
			sum := Rate(0)
			for _, r := range single[:n] {
				sum += r
			}
			if err != nil || got.Worst != single[n-1] || got.Avg-sum/Rate(n) > 1 || got.Avg < sum/Rate(n) {
				t.Fatalf("%d GPUs: got %+v, %v, want an average of %v up to %v", n, got, err, sum/Rate(n), single[n-1])
			}
		}
		levels, gpus := Levels(asks)
		if gpus != len(single) {
			t.Fatalf("got %d GPUs, want %d", gpus, len(single))
		}
		var again []Rate
		for i, l := range levels {
			if i > 0 && l.Rate <= levels[i-1].Rate {
				t.Fatalf("levels out of order: %v", levels)
			}
			again = append(again, slices.Repeat([]Rate{l.Rate}, l.GPUs)...)
		}
		if !slices.Equal(again, single) {
			t.Fatalf("levels %v, want %v", levels, single)
		}
		near, _ := Levels(NearestAsks(asks, n))
		again = nil
		for _, l := range near {
			again = append(again, slices.Repeat([]Rate{l.Rate}, l.GPUs)...)
		}
		if !slices.Equal(again, single[:min(n, len(single))]) {
			t.Fatalf("the nearest %d are %v, want %v", n, again, single[:min(n, len(single))])
		}
		if points := Depth(levels); len(points) > 0 && points[0].Worst != single[0] {
			t.Fatalf("the first GPU costs %v, want %v", points[0].Worst, single[0])
		}
	})
}

func TestBidsAreSoldFromTheHighest(t *testing.T) {
	levels := BidLevels([]Level{{Rate: 300*Tick + 1, GPUs: 2}, {Rate: 350 * Tick, GPUs: 1}, {Rate: 301*Tick - 1, GPUs: 4}, {Rate: Tick - 1, GPUs: 1}})
	if want := []Level{{350 * Tick, 1}, {300 * Tick, 6}, {0, 1}}; !slices.Equal(levels, want) {
		t.Errorf("levels %v, want %v", levels, want)
	}
	got, err := Impact(levels, 3)
	if want := (DepthPoint{GPUs: 3, Avg: (350*Tick + 2*300*Tick) / 3, Worst: 300 * Tick}); err != nil || got != want && got.Avg-want.Avg != 1 {
		t.Errorf("3 GPUs earn %+v, %v, want %+v", got, err, want)
	}
	if _, err := Impact(levels, 9); !errors.Is(err, ErrDepth) {
		t.Errorf("9 of 8 GPUs: %v", err)
	}
}
