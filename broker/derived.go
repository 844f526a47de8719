package broker

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"rialto/pricing"
)

// Derived is something that follows from all that happened. It is saved in the batch that changes it, so that a restart
// reads what is open and not what is over. [Market.AuditPast] derives it again.
//
//sumtype:decl
type Derived interface{ derived() }

type (
	// Totals are the market's sums. A later one replaces it.
	Totals struct {
		World     pricing.Money
		Fee       pricing.Money
		Transfers uint64    // the number of the last
		Clock     time.Time // of the last step that changed them
		Done      int       // jobs that ended so
		Failed    int
		Expired   int
		Cancelled int
		Preempted int
	}
	// Slot holds a job that is open, with all of its gang: one of them has not ended, or a lease of them is not over. A
	// slot is used again, so that there are never more than jobs were open at a time.
	Slot struct {
		Number int
		Job    JobID // of a gang the first
		Closed bool  // it is open no more: the slot is free
	}
	// Epoch is the highest that a provider granted a GPU under.
	Epoch struct {
		Provider PeerID
		GPULease
	}
	// Answers are how a provider answered the last holds, oldest first.
	Answers struct {
		Provider PeerID
		Fills    []HoldFill
	}
	// Runs are what was seen of a provider's leases that have ended.
	Runs struct {
		Provider PeerID
		Seen     time.Duration
		Failures int
		Starts   []StartSeen // the newest first, without the provider
	}
	// Content is what was seen of starts of an image with weights, the newest first.
	Content struct {
		Key    string
		Starts []StartSeen
	}
	// Ending is a lease that is over, as far as prices and the market's health are concerned. There is one of each, in the
	// order of their times.
	Ending struct {
		At        time.Time // settled, or given up
		Lease     LeaseID
		Customer  PeerID
		Job       JobState // what its job was then
		Last      bool     // it was the job's last lease until then
		Provider  PeerID
		Model     string
		Term      pricing.Term `json:",omitzero"`
		Region    string       `json:",omitzero"`
		Level     Level        `json:",omitzero"`
		Simulated bool         `json:",omitzero"`
		CPUs      int          `json:",omitzero"`
		MemoryMiB uint64       `json:",omitzero"`
		GPUs      int          `json:",omitzero"`
		Rate      pricing.Rate `json:",omitzero"`
		Granted   time.Time    `json:",omitzero"`
		Ready     time.Time    `json:",omitzero"`
		Ended     time.Time
		Billed    time.Duration `json:",omitzero"`
		Rest      bool          `json:",omitzero"` // it ran in what was left of a reservation, which had paid

		Bid       pricing.Rate `json:",omitzero"` // of an interruptible job, per GPU-hour
		Displaced pricing.Rate `json:",omitzero"` // what displaced it bid or paid
	}
)

func (Totals) derived()  {}
func (Slot) derived()    {}
func (Epoch) derived()   {}
func (Answers) derived() {}
func (Runs) derived()    {}
func (Content) derived() {}
func (Ending) derived()  {}

// derivedSize is about what the larger of them take.
const derivedSize = 4 << 10

// Size is roughly how many bytes a record of an effect takes that is to be saved.
func Size(e Effect) int {
	const small = 512
	switch e := e.(type) {
	case SaveJob:
		return e.Job.Size()
	case SaveLease:
		return e.Lease.Size()
	case SaveAccount, Post:
		return small
	case SaveDerived:
		switch e.Derived.(type) {
		case Answers, Runs, Content:
			return derivedSize
		case Totals, Slot, Epoch, Ending, Wait:
			return small
		}
	case SendHold, SendConfirm, SendRelease, SendRenewal, SignReceipt:
	}
	return 0
}

// derive lists what of it the step has changed, and closes what is over.
func (t *turn) derive() []Effect {
	t.closeAll()
	var out []Effect
	add := func(d Derived) { out = append(out, SaveDerived{d}) }
	if len(t.posts) > 0 || t.counted {
		t.totals.Clock = t.now
		add(t.totals)
	}
	for _, s := range t.moved {
		add(s)
	}
	for _, e := range t.raised {
		add(e)
	}
	for _, p := range t.heard.list {
		add(Answers{p, t.fills[p]})
	}
	for _, p := range t.ran.list {
		r := t.records[p]
		add(Runs{p, r.Seen, r.Failures, t.starts.hosts[p].starts.of("")})
	}
	for _, key := range t.started.list {
		add(Content{key, t.starts.contents[key]})
	}
	for _, l := range t.over {
		add(t.tape(l))
	}
	for _, w := range t.waits {
		add(w)
	}
	return out
}

func (t *turn) tape(l *Lease) Ending {
	j := t.jobs[l.Job]
	displaced := l.Displacement.Rate
	if j.State != JobPreempted {
		displaced = 0 // it had ended before
	}
	return Ending{
		Bid: l.Bid, Displaced: displaced,

		At: t.now, Lease: l.ID, Customer: j.Spec.Customer, Job: j.State, Last: j.Lease == l.ID,
		Provider: l.Provider, Model: l.Model, Term: l.PriceTerm(), Region: l.Region, Level: l.Level, Simulated: l.Simulated, CPUs: l.CPUs, MemoryMiB: l.MemoryMiB,
		GPUs: len(l.GPUs), Rate: l.Rate, Granted: l.Granted, Ready: l.Ready, Ended: l.Ended, Billed: l.Billed, Rest: l.Rest != "",
	}
}

// First names the slot of a job: itself, or the first of its gang.
func (j *Job) First() JobID { return cmp.Or(j.Member.Gang, j.ID) }

// Members are the jobs that share a job's slot.
func (j *Job) Members() iter.Seq[JobID] {
	return func(yield func(JobID) bool) {
		for rank := range j.Spec.members() {
			if !yield(MemberID(j.First(), rank)) {
				return
			}
		}
	}
}

// Leases are the ids of all leases that a job has had.
func (j *Job) Leases() iter.Seq[LeaseID] {
	return func(yield func(LeaseID) bool) {
		for n := range j.Attempts {
			if !yield(leaseID(j.ID, n+1)) {
				return
			}
		}
	}
}

// occupySlot gives a new job the lowest slot that is free.
func (t *turn) occupySlot(j *Job) {
	n := t.slotted
	if last := len(t.vacant) - 1; last >= 0 {
		n, t.vacant = t.vacant[last], t.vacant[:last]
	} else {
		t.slotted++
	}
	t.slots[j.ID] = n
	t.moved = append(t.moved, Slot{Number: n, Job: j.ID})
}

// closeAll frees the slots of jobs that this step has ended.
func (t *turn) closeAll() {
	for _, l := range t.dirtyLeases.list {
		if l.Over() {
			t.closeIfOver(t.jobs[l.Job])
		}
	}
	for _, j := range t.dirtyJobs.list {
		if j.State.Terminal() {
			t.closeIfOver(j)
		}
	}
}

func (t *turn) closeIfOver(j *Job) {
	first := j.First()
	n, open := t.slots[first]
	if !open || t.isOpen(j) {
		return
	}
	delete(t.slots, first)
	t.vacant = append(t.vacant, n)
	t.moved = append(t.moved, Slot{Number: n, Job: first, Closed: true})
}

// isOpen reports whether something may still happen to a job, its gang or their leases.
func (m *Market) isOpen(j *Job) bool {
	for id := range j.Members() {
		o := m.jobs[id]
		if o == nil {
			continue // Restore says so
		}
		if !o.State.Terminal() {
			return true
		}
		for id := range o.Leases() {
			if l := m.leases[id]; l != nil && (!l.Over() || mapHas(m.rests, id)) {
				return true
			}
		}
	}
	return false
}

// With counts a job, if it has ended.
func (c Totals) With(s JobState) Totals {
	switch s {
	case JobDone:
		c.Done++
	case JobFailed:
		c.Failed++
	case JobExpired:
		c.Expired++
	case JobCancelled:
		c.Cancelled++
	case JobPreempted:
		c.Preempted++
	case JobQueued, JobHolding, JobLeased, JobReady, JobRunning, JobQuoted:
	}
	return c
}

// Jobs is how many jobs have ended, without the rest.
func (c Totals) Jobs() Totals {
	return Totals{Done: c.Done, Failed: c.Failed, Expired: c.Expired, Cancelled: c.Cancelled, Preempted: c.Preempted}
}

// AuditPast asserts that what is derived follows from all jobs and leases that ever were.
func (m *Market) AuditPast(jobs map[JobID]Job, leases map[LeaseID]Lease) error {
	again := Market{
		fills: map[PeerID][]HoldFill{}, failing: map[PeerID]struct{}{}, records: map[PeerID]Record{}, starts: newSeenStarts(), epochs: map[gpuID]uint64{},
	}
	var ended Totals
	for _, j := range jobs { // the order does not matter
		ended = ended.With(j.State)
		if _, kept := m.jobs[j.ID]; !kept && !j.State.Terminal() {
			return &InvariantError{Rule: fmt.Sprintf("job %s: %v, and forgotten", j.ID, j.State)}
		}
	}
	for _, l := range leases {
		if _, kept := m.leases[l.ID]; !kept && !l.Over() {
			return &InvariantError{Rule: fmt.Sprintf("lease %s: not over, and forgotten", l.ID)}
		}
		j := jobs[l.Job]
		again.recallFill(&l)
		for _, g := range l.GPUs {
			id := gpuID{l.Provider, g.UUID}
			again.epochs[id] = max(again.epochs[id], g.Epoch)
		}
		if l.State == LeaseEnded && !l.Ready.IsZero() {
			again.records[l.Provider] = again.records[l.Provider].with(&l, &j)
			again.starts.learn(&l, &j.Spec)
		}
	}
	switch {
	case !maps.EqualFunc(again.fills, m.fills, slices.Equal):
		return &InvariantError{Rule: "leases: how providers answered holds does not follow from them"}
	case !maps.Equal(again.records, m.records) || !again.starts.equal(&m.starts):
		return &InvariantError{Rule: "leases: what was seen of a provider does not follow from them"}
	case !maps.Equal(again.epochs, m.epochs):
		return &InvariantError{Rule: "leases: the epochs of GPUs do not follow from them"}
	case ended != m.totals.Jobs():
		return &InvariantError{Rule: fmt.Sprintf("jobs: %+v have ended, counted %+v", ended, m.totals)}
	}
	return nil
}

// auditSlots asserts that what is open has a slot of its own, and nothing else has one.
func (m *Market) auditSlots() error {
	numbers := map[int]JobID{}
	for _, n := range m.vacant {
		numbers[n] = "none"
	}
	for _, id := range sortedKeys(m.slots) {
		j, n := m.jobs[id], m.slots[id]
		other, twice := numbers[n]
		numbers[n] = id
		switch {
		case j == nil || !m.isOpen(j):
			return &InvariantError{Rule: fmt.Sprintf("job %s: not open, and in slot %d", id, n)}
		case twice || n >= m.slotted:
			return &InvariantError{Rule: fmt.Sprintf("slot %d of %d: of %s, and of %s", n, m.slotted, id, other)}
		}
	}
	for _, id := range sortedKeys(m.jobs) {
		if j := m.jobs[id]; m.isOpen(j) != mapHas(m.slots, j.First()) {
			return &InvariantError{Rule: fmt.Sprintf("job %s: open %v, and the slots disagree", id, m.isOpen(j))}
		}
	}
	return nil
}

// DepositRef returns the reference under which a transfer counts once, if it is a deposit.
func (x *Transfer) DepositRef() (ref string, ok bool) {
	return strings.CutPrefix(x.Ref, depositRef(""))
}
