// Package broker is the market's vocabulary (GPU, Offer, Job, Lease, Receipt) and its rules: [Market],
// a pure state machine that joins customers and providers. It does no I/O, starts no goroutine and reads
// no clock: time is an argument, effects are returned as values, and equal histories give equal answers.
package broker

import (
	"errors"
	"fmt"
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
