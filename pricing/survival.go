package pricing

import (
	"cmp"
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
	lives := make([]life, len(like))
	for i, r := range like {
		lives[i] = life{lasted: r.Ran, ended: r.By > 0 && Displaces(r.By, bid)}
	}
	return millionths(survive(lives, seconds)), len(like), true
}

// SpotWait is how long an interruptible job waited for its first host with one bid.
type SpotWait struct {
	Began  int64 // Unix seconds
	Ended  int64 // likewise; zero: it waits still
	Bid    Rate  // per GPU-hour
	Served bool  // it got a host; otherwise it was cancelled, expired, or bids something else
}

// Fill is the chance that a job with a bid gets a host within so many seconds, in millionths, by the Kaplan-Meier estimator
// (see [Survival]), and how many waits it rests on. Who waits still, or gave up, is known to have waited for so long and
// might have been served a moment later.
//
// The waits are those of jobs that bid as much or up to a tenth less: who bids more is served first, so that a bid does as
// well as they did or better, and little more than a tenth is what makes a difference between bids, see [Displaces]. Those
// of all higher bids would promise too much to who bids least, and those of all lower ones too little to who bids most.
// With fewer than [FewRuns] there is no estimate.
func Fill(waits []SpotWait, bid Rate, seconds, now int64) (ppm int64, n int, ok bool) {
	var lives []life
	for _, w := range waits {
		until := w.Ended
		if until == 0 {
			until = now
		}
		if w.Bid <= bid && !Displaces(bid, w.Bid) && until >= w.Began {
			lives = append(lives, life{lasted: until - w.Began, ended: w.Served})
		}
	}
	if len(lives) < FewRuns {
		return 0, len(lives), false
	}
	return millionths(1 - survive(lives, seconds+1)), len(lives), true
}

// life is how long something was seen to last, and whether it ended then.
type life struct {
	lasted int64
	ended  bool
}

// survive is the Kaplan-Meier estimate of the chance to last for so long: that nothing ends before. It sorts the lives.
func survive(lives []life, seconds int64) float64 {
	slices.SortFunc(lives, func(a, b life) int { return cmp.Compare(a.lasted, b.lasted) })
	alive := 1.0
	for i := 0; i < len(lives) && lives[i].lasted < seconds; {
		atRisk, ended := len(lives)-i, 0
		for at := lives[i].lasted; i < len(lives) && lives[i].lasted == at; i++ {
			if lives[i].ended {
				ended++
			}
		}
		alive *= 1 - float64(ended)/float64(atRisk)
	}
	return alive
}
