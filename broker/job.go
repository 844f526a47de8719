package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"rialto/pricing"
)

// JobState is where a job stands.
type JobState uint8

// States of a job. Done, Failed, Expired, Cancelled and Preempted are terminal.
const (
	JobQueued    JobState = iota + 1 // accepted, waiting for an offer
	JobHolding                       // a provider was asked to hold GPUs
	JobLeased                        // GPUs granted, the provider prepares the container
	JobReady                         // the container runs, the meter started
	JobRunning                       // at least one renewal corroborated the meter
	JobDone                          // the container exited by itself; see ExitCode
	JobFailed                        // it could not run; see Error
	JobExpired                       // its maximum duration or budget was spent
	JobCancelled                     // the customer ended it
	JobQuoted                        // GPUs granted as a firm quote that its customer has not accepted yet; saved states keep their numbers
	JobPreempted                     // it was interruptible, and displaced by a higher bid; terminal
)

func jobStates() [JobPreempted + 1]string {
	return [...]string{
		JobQueued: "queued", JobHolding: "holding", JobLeased: "leased", JobReady: "ready", JobRunning: "running",
		JobDone: "done", JobFailed: "failed", JobExpired: "expired", JobCancelled: "cancelled",
		JobQuoted: "quoted", JobPreempted: "preempted",
	}
}

// Terminal reports whether s is final.
func (s JobState) Terminal() bool { return s >= JobDone && s <= JobCancelled || s == JobPreempted }

// String returns the state's word.
func (s JobState) String() string {
	if names := jobStates(); int(s) < len(names) && names[s] != "" {
		return names[s]
	}
	return fmt.Sprintf("JobState(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s JobState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *JobState) UnmarshalText(text []byte) error {
	names := jobStates()
	i := slices.Index(names[:], string(text))
	if i <= 0 {
		return fmt.Errorf("job state %q: not known", text)
	}
	*s = JobState(i)
	return nil
}

// Job is a customer's accepted request and all that became of it.
type Job struct {
	ID       JobID
	Account  AccountID
	Spec     JobSpec // amended by what the job bids now, see [BidChange]
	Envelope []byte  // of the spec as the customer signed it
	State    JobState
	Hold     pricing.Money // money kept aside; zero once settled
	Lease    LeaseID       // the current or last lease; empty: none yet
	Attempts int           // leases asked for so far
	Tried    []PeerID      // providers that refused or lost the job
	Stopping JobState      // cancelled or expired as soon as its lease has ended; zero: not stopping
	ExitCode int           // with JobDone
	Error    string        // why it failed, expired or was cancelled
	Accepted time.Time
	Ended    time.Time
	Log      []JobEvent // what happened, in order
	Quote    FirmQuote  `json:",omitzero"`
	Member   Member     `json:",omitzero"`
	Claim    Claim      `json:",omitzero"`
	Rebid    Rebid      `json:",omitzero"`
	Bidding  time.Time  `json:",omitzero"` // since when it waits for its first host with the bid that it has; zero: it does not
}

// Size is roughly how many bytes a record of the job takes, without its spec, and of its settlement.
func (j *Job) Size() int {
	n := 4 << 10
	for _, e := range j.Log {
		n += 128 + len(e.Text)
	}
	return n
}

// JobEvent is one line of a job's history, in order and without gaps.
type JobEvent struct {
	Seq   uint64
	Time  time.Time
	State JobState
	Text  string // for people
}

// LeaseState is where a lease stands at the broker.
type LeaseState uint8

// States of a lease.
const (
	LeaseHolding LeaseState = iota + 1 // hold sent, no answer yet
	LeaseGranted                       // granted and recorded; to be confirmed
	LeaseActive                        // the provider acknowledged the confirmation
	LeaseEnding                        // release wanted, not acknowledged yet
	LeaseEnded
)

// Lease is one provider's GPUs for one job.
type Lease struct {
	ID        LeaseID
	Job       JobID
	Account   AccountID
	Offer     OfferID
	Provider  PeerID
	Host      string
	Model     string
	GPUs      []GPULease
	Rate      pricing.Rate // per GPU-hour
	State     LeaseState
	Answer    []byte        // the provider's signed answer with the grant, for the customer to verify
	Granted   time.Time     // or, of a firm quote, when it was accepted
	Ready     time.Time     // zero: never
	Renewed   time.Time     // last report, by the broker's clock
	Ended     time.Time     // when it ended, or when its release was first wanted
	Seq       uint64        // last report taken
	Used      time.Duration // by the provider's meter
	Billed    time.Duration // corroborated so far
	Cost      pricing.Money // of all that is billed
	Fetched   Fetched
	Steps     []Step
	Simulated bool
	Report    []byte // envelope of the last report
	Receipt   []byte // envelope signed by the broker; empty until settled

	// What the offer said when it was taken, for the price index.
	Region    string
	CPUs      int    // per GPU
	MemoryMiB uint64 // per GPU
	Level     Level  // of its least proved GPU
	Settled   time.Time

	Startup  Startup   `json:",omitzero"`
	Fill     Fill      `json:",omitzero"`
	Answered time.Time `json:",omitzero"` // when the hold was, with Fill

	Term         time.Duration `json:",omitzero"` // of a reservation, see [JobSpec.Reserve]; zero: on demand
	Unused       time.Duration `json:",omitzero"` // what of it was left when its customer ended it, and is owed
	UnusedCost   pricing.Money `json:",omitzero"` // what of Cost that is
	Rest         LeaseID       `json:",omitzero"` // of the reservation whose rest it uses
	RestUntil    time.Time     `json:",omitzero"` // when that ends
	Covered      time.Duration `json:",omitzero"` // what of Billed that has paid
	Tariff       Tariff        `json:",omitzero"` // when it was taken
	Traffic      Traffic       `json:",omitzero"` // by the provider's count
	DiskCost     pricing.Money `json:",omitzero"` // what of Cost is for the disk
	TrafficCost  pricing.Money `json:",omitzero"` // what of Cost is for the traffic that its customer pays for
	Bid          pricing.Rate  `json:",omitzero"` // of an interruptible job, per GPU-hour; zero: on-demand
	Displacement Displacement  `json:",omitzero"`
}

// Over reports whether nothing of the lease will change any more: it was never granted, or its receipt is signed.
func (l *Lease) Over() bool { return l.State == LeaseEnded && (len(l.GPUs) == 0 || len(l.Receipt) > 0) }

// Size is roughly how many bytes a record of the lease takes, with the receipt that it will get.
func (l *Lease) Size() int {
	return 4<<10 + 2*(len(l.Answer)+2*len(l.Report)+len(l.Receipt))
}

// clean makes a peer's text fit for a log line.
func clean(s string) string {
	const most = 512
	s = strings.Map(func(r rune) rune {
		if !printable(string(r)) {
			return ' '
		}
		return r
	}, s[:min(len(s), most)])
	return strings.Join(strings.Fields(s), " ")
}
