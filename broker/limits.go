package broker

import (
	"fmt"
	"time"

	"rialto/pricing"
)

// Limits bound what an account may spend. Zero is no limit. Money that is held for jobs counts as spent, so that no job
// that was accepted has to be ended because of them.
type Limits struct {
	Job   pricing.Money // for one job
	Day   pricing.Money // charged since midnight UTC and held
	Total pricing.Money // charged ever and held
}

// LimitError says which limit of an account a job would break. It is [ErrLimit] and [ErrForbidden].
type LimitError struct {
	Account AccountID
	Limit   string // "per job", "per day" or "in all"
	Most    pricing.Money
	Used    pricing.Money // charged or held already
	Need    pricing.Money
	Resets  time.Time // zero: never
}

func (e *LimitError) Error() string {
	s := fmt.Sprintf("account %s may spend %v %s", e.Account, e.Most, e.Limit)
	if e.Used > 0 {
		s += fmt.Sprintf(", of which %v are charged or held", e.Used)
	}
	s += fmt.Sprintf(": this needs %v", e.Need)
	if !e.Resets.IsZero() {
		s += "; what is charged counts anew from " + e.Resets.Format(time.RFC3339)
	}
	return s
}

// Unwrap returns [ErrLimit] and [ErrForbidden].
func (*LimitError) Unwrap() []error { return []error{ErrLimit, ErrForbidden} }

// Day is what was charged on a day. It is a day of UTC.
type Day struct {
	Number int64 // days since 1970
	Spent  pricing.Money
}

const day = 24 * time.Hour

func dayOf(now time.Time) int64 { return now.Unix() / int64(day/time.Second) }

func (d Day) at(now time.Time) Day {
	if n := dayOf(now); n != d.Number {
		return Day{Number: n}
	}
	return d
}

// Recent is what an account spent lately, of which a half is forgotten in every week. It decides whose jobs go first
// when several wait: a market that only looked at the moment would serve who asks most, again and again.
type Recent struct {
	Amount pricing.Money
	At     int64 // when that was right, in seconds since 1970
}

// halfLife is in seconds.
const halfLife = 7 * 24 * 3600

// at returns what is left at a time. It is halved for each week that has passed, and falls in a straight line between,
// so that it is exact in integers.
func (r Recent) at(now time.Time) pricing.Money {
	gone := max(0, now.Unix()-r.At)
	weeks, rest := gone/halfLife, gone%halfLife
	if weeks > 62 {
		return 0
	}
	left := r.Amount >> weeks
	less, err := left.PPM(rest * 500_000 / halfLife)
	if err != nil {
		return left // not of a half
	}
	return left - less
}

// spend counts a charge.
func (a *Account) spend(cost pricing.Money, now time.Time) {
	a.Spent += cost
	a.Recent = Recent{Amount: a.Recent.at(now) + cost, At: now.Unix()}
	a.Today = a.Today.at(now)
	a.Today.Spent += cost
}

// allows checks that holding more for a job, which has so much already, would break no limit. The error is a
// [*LimitError].
func (a *Account) allows(more, job pricing.Money, now time.Time) error {
	today := a.Today.at(now)
	midnight := time.Unix((today.Number+1)*int64(day/time.Second), 0).UTC()
	for _, l := range []LimitError{
		{Limit: "per job", Most: a.Limits.Job, Used: job},
		{Limit: "per day", Most: a.Limits.Day, Used: today.Spent + a.Held, Resets: midnight},
		{Limit: "in all", Most: a.Limits.Total, Used: a.Spent + a.Held},
	} {
		if l.Most > 0 && l.Used+more > l.Most {
			l.Account, l.Need = a.ID, more
			return &l
		}
	}
	return nil
}

// setLimits replaces an account's limits. What runs goes on: only what comes is bound.
func (t *turn) setLimits(ev LimitsSet) error {
	a := t.accounts[ev.Account]
	var c checker
	limit := func(field string, m pricing.Money) {
		c.that(m >= 0 && m <= maxMoney, field, "%v: want $0.00, which is none, to %v", m, maxMoney)
	}
	limit("limits.job", ev.Limits.Job)
	limit("limits.day", ev.Limits.Day)
	limit("limits.total", ev.Limits.Total)
	switch {
	case c.err != nil:
		return c.err
	case a == nil:
		return fmt.Errorf("account %s: %w", ev.Account, ErrNotFound)
	case a.Limits == ev.Limits:
		return nil
	}
	t.touchAccount(a)
	a.Limits = ev.Limits
	return nil
}
