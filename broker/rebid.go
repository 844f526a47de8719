package broker

import (
	"fmt"
	"strings"
	"time"

	"rialto/pricing"
)

// BidChange is a customer's word that one of his interruptible jobs bids something else from now on. It replaces Bid and
// MaxCost of the spec that he signed, and every change before it.
//
// It names the spec by its nonce and not by the job's id, which is the broker's: a host that gets both can tell that they
// belong together.
type BidChange struct {
	Customer PeerID
	Broker   PeerID
	Nonce    string        // of the spec
	Bid      pricing.Rate  // per GPU-hour
	MaxCost  pricing.Money // see [JobSpec].MaxCost
	Created  time.Time     // later than the spec and than any change before
}

// Amend makes of a signed spec what its customer wants now. The error, which matches [ErrInvalid] or [ErrConflict], says why
// the change is not one of this spec.
func (c *BidChange) Amend(s *JobSpec) error {
	changed := *s
	changed.Bid, changed.MaxCost = c.Bid, c.MaxCost
	var check checker
	check.that(c.Bid > 0, "bid", "%v: want more than $0.00/h", c.Bid)
	changed.checkPrice(&check)
	changed.checkBid(&check)
	switch {
	case c.Customer != s.Customer || c.Broker != s.Broker || c.Nonce != s.Nonce:
		return fmt.Errorf("%w: the new bid was signed for another job", ErrConflict)
	case s.Bid == 0:
		return fmt.Errorf("%w: the job is on-demand, it does not bid", ErrConflict)
	case !c.Created.After(s.Created):
		return fmt.Errorf("%w: the new bid was signed at %s, the job at %s", ErrConflict, c.Created.Format(time.RFC3339), s.Created.Format(time.RFC3339))
	case check.err != nil:
		return check.err
	}
	*s = changed
	return nil
}

// Rebid is the newest [BidChange] of a job, whose spec has been amended by it; zero: there was none.
type Rebid struct {
	Count    int // of all so far
	Created  time.Time
	Envelope []byte // as the customer signed it
}

// maxRebids is how often a job's bid may change: each is a line of its log, which is kept for good.
const maxRebids = 256

// rebid takes a customer's new bid for a job.
//
// While the job waits, bid and budget may go both ways, and its hold with them. Once it has a lease, the bid can only be
// raised: the price was agreed when the lease began and stays, a higher bid only protects the job from being displaced. It
// comes too late for one that is displaced already. Nor may a job bid less for which GPUs are being freed.
func (t *turn) rebid(ev BidChanged) error {
	j := t.job(ev.Job)
	refuse := func(err error) error { return &JobError{Op: "change the bid of", Job: ev.Job, Err: err} }
	if j == nil {
		return refuse(ErrNotFound)
	}
	if j.State.Terminal() {
		return refuse(ErrJobTerminal)
	}
	spec := j.Spec
	if err := ev.Change.Amend(&spec); err != nil {
		return refuse(err)
	}
	if spec.Bid == j.Spec.Bid && spec.MaxCost == j.Spec.MaxCost {
		return nil // also the same again, because its answer was lost
	}
	if !ev.Change.Created.After(j.Rebid.Created) {
		return refuse(fmt.Errorf("%w: a newer bid was signed at %s", ErrConflict, j.Rebid.Created.Format(time.RFC3339Nano)))
	}
	if err := t.mayRebid(j, &spec); err != nil {
		return refuse(err)
	}
	hold, err := j.holdFor(&spec)
	if err != nil {
		return refuse(err)
	}
	a, more := t.accounts[j.Account], hold-j.Hold
	if more > 0 {
		if err := a.allows(more, j.Hold, t.now); err != nil {
			return refuse(err)
		}
		if more > a.Available {
			return refuse(fmt.Errorf("%w: need %v more to hold, %v available", ErrNoFunds, more, a.Available))
		}
	}
	t.bidAnew(j, spec, more)
	j.Rebid = Rebid{Count: j.Rebid.Count + 1, Created: ev.Change.Created, Envelope: ev.Envelope}
	return nil
}

// holdFor is what is to be held for a job once its spec is changed: its budget, or what it pays at its bid, with what a host
// charges beside that as far as it is held.
func (j *Job) holdFor(changed *JobSpec) (pricing.Money, error) {
	limit, err := changed.atLimit()
	if err != nil {
		return 0, err
	}
	hold, err := changed.checkHold(limit)
	if err != nil || changed.MaxCost > 0 || j.Spec.MaxCost > 0 {
		return hold, err
	}
	if limit, err = j.Spec.atLimit(); err != nil {
		return 0, err
	}
	before, err := j.Spec.holdAt(limit)
	return j.Hold + hold - before, err
}

// mayRebid refuses what would break somebody's trust in a bid.
func (t *turn) mayRebid(j *Job, changed *JobSpec) error {
	l, lower := t.leases[j.Lease], changed.Bid < j.Spec.Bid
	switch {
	case j.Rebid.Count >= maxRebids:
		return fmt.Errorf("%w: its bid has changed %d times, which is enough", ErrConflict, maxRebids)
	case j.Member.Gang != "":
		return fmt.Errorf("%w: a gang's bid stays as it was signed", ErrConflict)
	case j.State == JobQueued && lower && t.displacing(j):
		return fmt.Errorf("%w: GPUs are being freed for its bid of %v, which can only be raised now", ErrConflict, j.Spec.Bid)
	case j.State == JobQueued:
		return nil
	case j.Stopping != 0:
		return fmt.Errorf("%w: it is being stopped", ErrConflict)
	case l.Displacement.For != "":
		return fmt.Errorf("%w: too late, it is %s", ErrConflict, l.displacedBy())
	case lower:
		return fmt.Errorf("%w: it has a host, and its bid of %v can only be raised", ErrConflict, j.Spec.Bid)
	case changed.MaxCost != j.Spec.MaxCost:
		return fmt.Errorf("%w: it has a host, with which its budget was agreed", ErrConflict)
	}
	return nil
}

// changes says for people what a new bid changes.
func changes(before, now *JobSpec) string {
	var text []string
	if now.Bid != before.Bid {
		text = append(text, fmt.Sprintf("it bids %v now, and no longer %v", now.Bid, before.Bid))
	}
	switch now.MaxCost {
	case before.MaxCost:
	case 0:
		text = append(text, "its budget is lifted")
	default:
		text = append(text, fmt.Sprintf("it costs at most %v in all", now.MaxCost))
	}
	return strings.Join(text, "; ")
}

// bidAnew has a job bid what a spec says, and moves its hold by an amount that the caller made sure is there.
func (t *turn) bidAnew(j *Job, spec JobSpec, more pricing.Money) {
	t.touchJob(j)
	waits := j.State == JobQueued
	if waits {
		t.unqueue(j) // it is found by its bid
	}
	if before := j.Bidding; spec.Bid != j.Spec.Bid && !before.IsZero() {
		t.waited(j, false)
		j.Bidding = t.now
	}
	before := j.Spec
	j.Spec = spec
	switch {
	case more > 0:
		t.hold(j, more)
	case more < 0:
		t.unhold(j, -more)
	}
	t.log(j, "%s", changes(&before, &spec))
	if waits {
		t.enqueue(j)
		t.changed = true
		return
	}
	l := t.leases[j.Lease]
	t.touchLease(l)
	l.Bid = spec.Bid
}
