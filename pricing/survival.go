package pricing

import (
	"cmp"
	"math"
	"slices"
)

// SpotRun is an interruptible lease that ran and has ended.
type SpotRun struct {
	Ended int64 // Unix seconds
	Bid   Rate  // per GPU-hour
	Ran   int64 // seconds, from ready
	By    Rate  // what displaced it bid or paid per GPU-hour; zero: it ended for another reason
}

// Displaces reports whether a bid is enough to displace another: it must be a tenth higher. With less, two that bid in turns
// would throw each other out for a tick. Both are at most [MaxRate].
func Displaces(by, bid Rate) bool { return by*10 >= bid*11 }

// FewRuns is how many runs a survival needs at least.
const FewRuns = 10

// Survival is the chance that a lease with a bid runs for so many seconds without being displaced, in millionths, by the
// Kaplan-Meier estimator (Kaplan and Meier, Nonparametric Estimation from Incomplete Observations, 1958), and how many runs
// it rests on. Those are the runs whose bids were as high or lower: had they bid more, what displaced them would have done so
// only if it exceeded that, too, and otherwise they are known to have lasted for as long as they did and no longer. What would
// have become of runs with higher bids, had they bid less, nobody saw. With fewer than [FewRuns] there is no estimate.
func Survival(runs []SpotRun, bid Rate, seconds int64) (ppm int64, n int, ok bool) {
	var like []SpotRun
	for _, r := range runs {
		if r.Bid <= bid && r.Ran >= 0 {
			like = append(like, r)
		}
	}
	if len(like) < FewRuns {
		return 0, len(like), false
	}
	slices.SortFunc(like, func(a, b SpotRun) int { return cmp.Compare(a.Ran, b.Ran) })
	alive := 1.0
	for i := 0; i < len(like) && like[i].Ran < seconds; {
		atRisk, ended := len(like)-i, 0
		for at := like[i].Ran; i < len(like) && like[i].Ran == at; i++ {
			if like[i].By > 0 && Displaces(like[i].By, bid) {
				ended++
			}
		}
		alive *= 1 - float64(ended)/float64(atRisk)
	}
	return int64(math.Round(alive * 1e6)), len(like), true
}
