package pricing

import (
	"errors"
	"maps"
	"slices"
)

// Steps of a history, in seconds.
const (
	Minute      int64 = 60
	FiveMinutes int64 = 300
	Hour        int64 = 3600
	Day         int64 = 86400
)

// Steps lists the steps that a history keeps.
func Steps() []int64 { return []int64{Minute, FiveMinutes, Hour, Day} }

// MaxPoints bounds the rows that a history keeps of each step, and so what one answer holds.
const MaxPoints = 2000

// ErrStep says that a history has no such step.
var ErrStep = errors.New("no such step")

// Bar is one row of a history: what was printed and traded in [Start, Start+step). Rates are per GPU-hour.
type Bar struct {
	Seq     uint64 // of the row, 1, 2, 3, … in its step
	Revises uint64 // the row that this one corrects; zero: none
	Start   int64  // Unix seconds

	Open, High, Low, Close Rate // of the prints; zero without one
	Prints                 int
	BestAsk                Rate // at the last print; zero: nothing was on offer

	VWAP       Rate // of the trades, weighted by GPU-seconds; zero without one
	Trades     int
	GPUSeconds int64 // of these
}

// History makes bars of one series of prints and the trades beside it. Rows are appended and never changed: the bar of
// the running interval is shown as it stands and becomes a row when the interval is over; what comes for an interval
// before appends a row that revises it. It is not safe for concurrent use.
type History struct{ steps [4]series }

type series struct {
	rows []Bar
	sums map[int64]wide // rate × GPU-seconds of the kept rows and the open bar, by start
	open Bar            // Start zero: none
	seq  uint64
}

// AddPrint adds a value of the index.
func (h *History) AddPrint(at int64, value, bestAsk Rate) {
	h.change(at, func(b *Bar, _ *wide) {
		if b.Prints == 0 {
			b.Open, b.High, b.Low = value, value, value
		}
		b.High, b.Low, b.Close = max(b.High, value), min(b.Low, value), value
		b.BestAsk = bestAsk
		b.Prints++
	})
}

// AddTrade adds a trade at the time when it was settled.
func (h *History) AddTrade(t *Trade) {
	if !t.valid() {
		return
	}
	h.change(t.Settled, func(b *Bar, sum *wide) {
		b.Trades++
		b.GPUSeconds += t.GPUSeconds
		sum.add(uint64(t.Rate), uint64(t.GPUSeconds)) //nolint:gosec // valid
		b.VWAP = sum.mean(uint64(b.GPUSeconds))       //nolint:gosec // not negative
	})
}

func (h *History) change(at int64, fn func(*Bar, *wide)) {
	for i, step := range Steps() {
		h.steps[i].change(at-at%step, fn)
	}
}

func (s *series) change(start int64, fn func(*Bar, *wide)) {
	if s.sums == nil {
		s.sums = map[int64]wide{}
	}
	apply := func(b *Bar) {
		sum := s.sums[b.Start]
		fn(b, &sum)
		if b.Trades > 0 {
			s.sums[b.Start] = sum
		}
	}
	if start < s.open.Start {
		late := Bar{Start: start}
		for _, row := range slices.Backward(s.rows) {
			if row.Start == start {
				late = row
				late.Revises = row.Seq
				break
			}
		}
		apply(&late)
		s.append(late)
		return
	}
	if start > s.open.Start {
		if s.open.Start != 0 {
			s.append(s.open)
		}
		s.open = Bar{Start: start}
	}
	apply(&s.open)
}

func (s *series) append(b Bar) {
	s.seq++
	b.Seq = s.seq
	if len(s.rows) >= MaxPoints {
		s.rows = append(s.rows[:0:0], s.rows[MaxPoints/10:]...)
		oldest := s.rows[0].Start
		maps.DeleteFunc(s.sums, func(start int64, _ wide) bool { return start < oldest })
	}
	s.rows = append(s.rows, b)
}

// A daily fix is the mean of the last FixPrints prints before FixTime: a single print, or a single trade, moves it
// little, as in an option with an average price.
const (
	FixTime   = 16 * Hour // after midnight UTC
	FixPrints = 60
	FixLeast  = 30 // a fix of fewer firm prints is not made
)

// DailyFix returns the mean of the last [FixPrints] firm prints in the hour before a fix; false if there are too few.
func DailyFix(firm []Rate) (Rate, bool) {
	firm = firm[max(0, len(firm)-FixPrints):]
	if len(firm) < FixLeast {
		return 0, false
	}
	var sum wide
	for _, r := range firm {
		if r < 0 || r > MaxRate {
			return 0, false
		}
		sum.add(uint64(r), 1)
	}
	return sum.mean(uint64(len(firm))), true
}

// Rows returns the rows of a step whose bars begin in [from, to), in the order in which they were appended, at most
// [MaxPoints], the newest. The bar of the running interval comes last and has no Seq yet. They must not be changed.
func (h *History) Rows(step, from, to int64) ([]Bar, error) {
	i := slices.Index(Steps(), step)
	if i < 0 {
		return nil, ErrStep
	}
	s := &h.steps[i]
	var out []Bar
	for _, b := range s.rows {
		if b.Start >= from && b.Start < to {
			out = append(out, b)
		}
	}
	if b := s.open; b.Start != 0 && b.Start >= from && b.Start < to {
		out = append(out, b)
	}
	return out[max(0, len(out)-MaxPoints):], nil
}
