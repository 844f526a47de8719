package broker

import (
	"fmt"
	"slices"
	"time"

	"rialto/pricing"
)

// MaxNodes is how many hosts a gang may have.
const MaxNodes = 64

// maxGangSpecs bounds what the members' signed specs take together: a gang is saved in one batch.
const maxGangSpecs = 1 << 20

// Member says which node of a gang a job is. The zero Member is of a job by itself.
//
// A spec with Nodes above one asks for a gang: as many hosts at once, each with the GPUs of the spec, or none. Each node is
// a job of its own, with its hold, its lease, its bill and its receipt; that of rank 0 has the gang's id. All holds are kept
// aside before the first host is asked. All hosts are asked in one step, and a grant waits until the last has come: then all
// are confirmed, in one step that is saved as one. If one refuses, is silent or takes its word back, all are let go, and
// other hosts are asked when there are enough. So no gang ever holds some hosts while it waits for others, and two gangs
// that want the same ones cannot block each other.
//
// From then on a host that is lost before its node was ready is replaced alone. A node that was ready and is lost, or ends
// in another way than with exit code zero, ends the gang: what is left of it would wait for a peer that does not come back.
type Member struct {
	Gang    JobID     // the job of rank 0; empty: no member of a gang
	Rank    int       // 0 to Spec.Nodes-1
	Started time.Time // when all hosts had granted and all were confirmed; zero: not yet
}

// checkGang checks what a spec says of a gang.
func (s *JobSpec) checkGang(c *checker) {
	c.that(s.Nodes == 0 || s.Nodes >= 2 && s.Nodes <= MaxNodes, "nodes", "%d: want 2 to %d, or none for one host", s.Nodes, MaxNodes)
	c.that(!s.SameRegion || s.Nodes > 0, "same_region", "of a job that has one host anyway")
	c.that(s.Nodes == 0 || s.Firm == 0, "firm", "a job of several hosts cannot be quoted firmly")
	c.that(s.Nodes == 0 || s.Provider == "", "provider", "several hosts are wanted, one is named")
}

// members is how many jobs a spec makes.
func (s *JobSpec) members() int { return max(1, s.Nodes) }

// MemberID names the job of a gang's rank. It is derived, so that the market needs no randomness.
func MemberID(gang JobID, rank int) JobID {
	if rank == 0 {
		return gang
	}
	return JobID("j-" + derivedID("rialto node 1\x00%s\x00%d", gang, rank))
}

// forming reports whether a job belongs to a gang that has not all its hosts yet.
func (j *Job) forming() bool { return j.Member.Gang != "" && j.Member.Started.IsZero() }

// waiting reports whether a job's granted lease waits: for the customer of a firm quote, or for the gang's other hosts.
func (j *Job) waiting() bool { return j.State == JobQuoted || j.forming() && j.State == JobHolding }

// members returns the jobs of a gang by rank.
func (m *Market) members(j *Job) []*Job {
	out := make([]*Job, 0, j.Spec.Nodes)
	for rank := range j.Spec.Nodes {
		if o := m.jobs[MemberID(j.Member.Gang, rank)]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

// submitGang accepts a gang: keeps the money for all its members aside and looks for their hosts. The spec is checked.
func (t *turn) submitGang(ev Submitted, a *Account, query Query) error {
	spec := &ev.Spec
	if size := spec.Nodes * len(ev.Envelope); size > maxGangSpecs {
		return &FieldError{Field: "nodes", Problem: fmt.Sprintf("%d times a spec of %d bytes is more than %d", spec.Nodes, len(ev.Envelope), maxGangSpecs)}
	}
	for rank := range spec.Nodes {
		if id := MemberID(ev.Job, rank); t.jobs[id] != nil {
			return fmt.Errorf("%w: the id %s is taken", ErrConflict, id)
		}
	}
	var hold pricing.Money
	if !spec.standing() {
		nodes := t.apart(spec, &query, nil, true)
		if nodes == nil {
			return t.tooFew(spec, query)
		}
		for _, c := range nodes { // whoever gets the dearest host, the money for it is there
			need, err := spec.checkHoldOn(c.offer)
			if err != nil {
				return err
			}
			hold = max(hold, need)
		}
	} else {
		charge, err := spec.atLimit()
		if err != nil {
			return err
		}
		if hold, err = spec.checkHold(charge); err != nil {
			return err
		}
	}
	all, err := hold.MulInt(int64(spec.Nodes))
	if err != nil {
		return err
	}
	if err := a.allows(all, 0, t.now); err != nil {
		return err
	}
	if all > a.Available {
		return fmt.Errorf("%w: need %v to hold for %d hosts, %v available", ErrNoFunds, all, spec.Nodes, a.Available)
	}
	for rank := range spec.Nodes {
		j := &Job{
			ID: MemberID(ev.Job, rank), Account: a.ID, Spec: *spec, Envelope: ev.Envelope, State: JobQueued, Accepted: t.now,
			Member: Member{Gang: ev.Job, Rank: rank},
		}
		t.accepted = append(t.accepted, j.ID)
		t.touchJob(j)
		t.addJob(j)
		if rank == 0 {
			t.occupySlot(j)
		}
		t.hold(j, hold)
		delete(t.stale, j.ID)
		if rank > 0 {
			t.log(j, "node %d of the %d of %s", rank, spec.Nodes, ev.Job)
		}
	}
	t.gather(t.jobs[ev.Job])
	return nil
}

// tooFew explains why a gang finds no place, now or later.
func (t *turn) tooFew(spec *JobSpec, query Query) error {
	found := t.search(query, nil)
	all := slices.Concat(found.free, found.busy)
	if len(all) == 0 {
		return t.noOffer(query)
	}
	where := ""
	if spec.SameRegion {
		where = " in one region"
	}
	return fmt.Errorf("%w: %d hosts match, %d%s are wanted at once", ErrNoOffer, hosts(all), spec.Nodes, where)
}

// hosts counts the providers of candidates.
func hosts(all []candidate) int {
	seen := map[PeerID]struct{}{}
	for _, c := range all {
		seen[c.offer.Provider] = struct{}{}
	}
	return len(seen)
}

// gather asks as many hosts as a gang wants, all in this step, or none: then the gang waits.
func (t *turn) gather(first *Job) {
	members, query := t.members(first), first.Spec.query()
	nodes := t.apart(&first.Spec, &query, first.Tried, false)
	if nodes != nil && t.coversAll(members, nodes) {
		for i, j := range members {
			t.ask(j, nodes[i].offer)
		}
		return
	}
	if first.saidWhy() {
		return
	}
	if nodes != nil {
		t.waitFor(first, fmt.Sprintf("the money on hold does not cover the %d hosts that can take it", len(nodes)))
		return
	}
	found := t.search(query, first.Tried)
	if len(found.free) == 0 {
		t.waitFor(first, (&NoOfferError{Search: found.Search}).Error())
		return
	}
	t.waitFor(first, fmt.Sprintf("%d hosts can take it now, %d are wanted at once", hosts(found.free), first.Spec.Nodes))
}

// coversAll makes sure that the holds of a gang's members are enough for their hosts, of all or of none.
func (t *turn) coversAll(members []*Job, nodes []candidate) bool {
	a := t.accounts[members[0].Account]
	var more, held pricing.Money
	for i, j := range members {
		need, err := j.Spec.checkHoldOn(nodes[i].offer)
		if err != nil {
			return false
		}
		held += j.Hold
		more += max(0, need-j.Hold)
	}
	if more > a.Available || more > 0 && a.allows(more, held, t.now) != nil {
		return false
	}
	for i, j := range members {
		t.covers(j, nodes[i]) // what it adds was counted
	}
	return true
}

// granted notes that a host of a gang that forms has granted. The last one starts all.
func (t *turn) granted(l *Lease, j *Job) {
	members := t.members(j)
	missing := 0
	for _, o := range members {
		if t.leases[o.Lease].State != LeaseGranted {
			missing++
		}
	}
	t.log(j, "%s holds %d × %s at %v: %d of %d hosts still to answer", l.Host, len(l.GPUs), l.Model, l.Rate, missing, len(members))
	if missing > 0 {
		return
	}
	for _, o := range members {
		x := t.leases[o.Lease]
		t.touchJob(o)
		t.touchLease(x)
		o.State, o.Member.Started = JobLeased, t.now
		x.Granted, x.Renewed = t.now, t.now // all that counts from a grant counts from here
		t.log(o, "all %d hosts hold: %s leased %d × %s at %v", len(members), x.Host, len(x.GPUs), x.Model, x.Rate)
		t.sendConfirm(x, o)
	}
}

// scatter lets all hosts go that a forming gang has or asks, because one of them does not serve it.
func (t *turn) scatter(j *Job, why string) {
	for _, o := range t.members(j) {
		if o.State != JobHolding {
			continue
		}
		l := t.leases[o.Lease]
		t.release(l, why)
		t.log(o, "%s is let go: %s", l.Host, why)
		t.requeue(o)
	}
	t.changed = true
}

// replace looks for another host for one member of a gang that has started: none that another member is on.
func (t *turn) replace(j *Job) {
	query, avoid := j.Spec.query(), slices.Clone(j.Tried)
	region := ""
	for _, o := range t.members(j) {
		if l := t.leases[o.Lease]; o != j && l != nil {
			avoid, region = append(avoid, l.Provider), l.Region
		}
	}
	if j.Spec.SameRegion {
		query.Region = region
	}
	t.placeAmong(j, &query, avoid, nil)
}

// placeMember looks for places for a gang that forms, when it is its first member's turn, or for one member alone.
func (t *turn) placeMember(j *Job) {
	switch {
	case !j.forming():
		t.replace(j)
	case j.Member.Rank == 0:
		t.gather(j)
	}
}

// memberEnded ends a gang with a member that ended otherwise than well.
func (t *turn) memberEnded(j *Job) {
	gang := j.Member.Gang
	if gang == "" || gang == t.ending || j.State == JobDone && j.ExitCode == 0 {
		return
	}
	state, why := j.State, fmt.Sprintf("node %d of %d: %s", j.Member.Rank, j.Spec.Nodes, j.Error)
	if state == JobDone {
		state, why = JobFailed, fmt.Sprintf("node %d of %d ended with exit code %d", j.Member.Rank, j.Spec.Nodes, j.ExitCode)
	}
	t.stopGang(j, state, why)
}

// stopGang stops all members of a gang that do not end yet. What it stops stops no others in turn.
func (t *turn) stopGang(j *Job, state JobState, why string) (stopped int) {
	before := t.ending
	t.ending = j.Member.Gang
	for _, o := range t.members(j) {
		if !o.State.Terminal() && o.Stopping == 0 {
			t.stop(o, state, why)
			stopped++
		}
	}
	t.ending = before
	return stopped
}

// auditGangs asserts that a gang has all its hosts or none.
func (m *Market) auditGangs() error {
	for _, id := range sortedKeys(m.jobs) {
		j := m.jobs[id]
		if j.Member.Gang == "" || !j.forming() && j.Member.Rank > 0 {
			continue
		}
		asking := false
		for _, o := range m.members(j) {
			switch {
			case !o.Member.Started.Equal(j.Member.Started):
				return &InvariantError{Rule: fmt.Sprintf("gang %s: %s has started, %s has not", j.Member.Gang, o.ID, j.ID)}
			case j.forming() && o.State != j.State:
				return &InvariantError{Rule: fmt.Sprintf("gang %s: %s is %v, %s is %v, and it has not started", j.Member.Gang, o.ID, o.State, j.ID, j.State)}
			case j.forming() && j.State == JobHolding && m.leases[o.Lease].State == LeaseHolding:
				asking = true
			}
		}
		if j.forming() && j.State == JobHolding && !asking {
			return &InvariantError{Rule: fmt.Sprintf("gang %s: all hosts have granted, and it has not started", j.Member.Gang)}
		}
	}
	return nil
}
