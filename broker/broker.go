// Package broker is the market's vocabulary (GPU, Offer, Job, Lease, Receipt) and its rules: [Market],
// a pure state machine that joins customers and providers. It does no I/O, starts no goroutine and reads
// no clock: time is an argument, effects are returned as values, and equal histories give equal answers.
//
// # Rules
//
//   - The provider is the authority over its GPUs: a lease exists because it granted one, under an epoch
//     per GPU that only grows. A grant that repeats an epoch, and a report under another, is refused.
//   - A GPU is in one lease at a time. A lease whose provider is silent is over for the market only when
//     it is surely over at the provider: one TTL, two per cent for the clocks, and two seconds later.
//   - An accepted job ends in a terminal state, and terminal means settled: its hold is charged, split
//     and returned exactly once, in the same step.
//   - A bill is at most the hold, and at most the time that provider and market both saw, from the first
//     ready report on. What was never ready costs nothing. Traffic is counted by the provider alone, and billed for at
//     most as much as the customer signed; see [Tariff].
//   - A firm quote starts nothing and costs nothing before its customer accepts it, and what he accepts is what he saw:
//     a quote that was made is never replaced by another.
//   - A gang, a job of several hosts, has all of them or none: none is confirmed before all have granted. See [Member].
//   - Money moves by transfers between two books; all books add up to zero and none but the world's is
//     below zero. Each step asserts it, and a market that finds it broken refuses to go on.
//   - A refused event changes nothing.
//
// # Queries
//
// Offers are asked for in one language ([ParseFilter], [ParseOrder]; [Fields] lists what there is): by the command line,
// the HTTP API, and by jobs, whose signature covers their query, so that the provider checks it again ([Filter.Fails]).
// A search is explained ([Search]): the predicates in canonical form, how many offers each eliminated in order, how many
// would match without it, and which offers fail exactly one, with the predicate that would admit them. What nobody says
// of an offer satisfies nothing; what nobody measures cannot be asked for. Nothing is dropped in silence.
//
// What is open is kept in memory. What is over is forgotten once it is durable, and recalled from the ledger when an event
// names it ([Past], [Market.Recall]); what follows from all that ever was is saved with it ([Derived]).
package broker

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that a caller decides on.
var (
	ErrNoOffer     = errors.New("no matching offer")
	ErrNotFound    = errors.New("not found")
	ErrNoFunds     = errors.New("not enough money")
	ErrInvalid     = errors.New("invalid")
	ErrConflict    = errors.New("conflict")
	ErrFencedEpoch = errors.New("stale epoch")
	ErrJobTerminal = errors.New("job has ended")
	ErrForbidden   = errors.New("not allowed")
	ErrLimit       = errors.New("above a limit that the account set itself")
	ErrUnavailable = errors.New("unavailable")
)

// JobError says what was wrong with which job.
type JobError struct {
	Op  string
	Job JobID
	Err error
}

func (e *JobError) Error() string { return fmt.Sprintf("%s job %s: %v", e.Op, e.Job, e.Err) }

// Unwrap returns the cause.
func (e *JobError) Unwrap() error { return e.Err }

// FieldError names the field that is invalid and, where there is one, the nearest valid value.
type FieldError struct {
	Field   string // such as "gpu.model"
	Problem string
	Nearest string // empty: none
}

func (e *FieldError) Error() string {
	s := "invalid " + e.Field + ": " + e.Problem
	if e.Nearest != "" {
		s += fmt.Sprintf(" (did you mean %q?)", e.Nearest)
	}
	return s
}

// Unwrap returns [ErrInvalid].
func (*FieldError) Unwrap() error { return ErrInvalid }

// NoOfferError explains why nothing matches.
type NoOfferError struct{ Search Search }

func (e *NoOfferError) Error() string {
	if e.Search.Offers == 0 {
		return ErrNoOffer.Error() + ": no provider is connected"
	}
	var why []string
	for _, x := range e.Search.Eliminated {
		w := fmt.Sprintf("%d fail on %q", x.Count, x.Predicate)
		if x.Nearest != "" {
			w += " (nearest: " + x.Nearest + ")"
		}
		why = append(why, w)
	}
	return fmt.Sprintf("%v among %d: %s", ErrNoOffer, e.Search.Offers, strings.Join(why, ", "))
}

// Unwrap returns [ErrNoOffer].
func (*NoOfferError) Unwrap() error { return ErrNoOffer }

// InvariantError reports that a rule of the market was broken from the inside: money that does not add
// up, a GPU leased twice. The process must end, and state must be read again from what is durable.
type InvariantError struct{ Rule string }

func (e *InvariantError) Error() string { return "market invariant broken: " + e.Rule }
