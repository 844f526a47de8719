package provider

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"rialto/broker"
)

// Errors of the [Authority] that a caller decides on.
var (
	ErrTaken   = errors.New("GPU is taken")
	ErrNoLease = errors.New("no such lease")
	ErrLapsed  = errors.New("lease has lapsed")
)

// LeaseError says what the authority refused for which lease.
type LeaseError struct {
	Op    string
	Lease broker.LeaseID
	Err   error
}

func (e *LeaseError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Lease, e.Err) }

// Unwrap returns the cause.
func (e *LeaseError) Unwrap() error { return e.Err }

// Claim is a hold or, once confirmed, a lease on GPUs of this host.
type Claim struct {
	Lease     broker.LeaseID
	Owner     broker.PeerID // the broker that asked, the only one that may confirm or release
	GPUs      []broker.GPULease
	Confirmed bool
	Deadline  time.Time // the claim has lapsed from this moment on
}

// Authority decides who may use which GPU. It is pure: time is an argument and equal histories give
// equal answers. Its invariants:
//
//   - A GPU belongs to at most one claim.
//   - A GPU's epoch grows by at least one with each hold and never falls, also across restarts: the
//     caller makes the epochs of a claim durable before it acts on the claim, and feeds them back to
//     [NewAuthority].
//   - Only [Authority.Release] frees a GPU. A claim past its deadline can be neither confirmed nor
//     renewed, but keeps its GPUs until the caller has stopped the workload and released it: a GPU is
//     never handed on under a workload that still runs.
//
// The zero Authority is not usable. Methods are not safe for concurrent use.
type Authority struct {
	epochs map[string]uint64
	claims map[broker.LeaseID]*Claim
	taken  map[string]broker.LeaseID
}

// NewAuthority returns an authority without claims that continues from the given epochs.
func NewAuthority(epochs map[string]uint64) *Authority {
	a := &Authority{
		epochs: make(map[string]uint64, len(epochs)),
		claims: make(map[broker.LeaseID]*Claim),
		taken:  make(map[string]broker.LeaseID),
	}
	maps.Copy(a.epochs, epochs)
	return a
}

// Hold claims GPUs until now+ttl and raises their epochs.
func (a *Authority) Hold(now time.Time, lease broker.LeaseID, owner broker.PeerID, uuids []string, ttl time.Duration) (Claim, error) {
	switch {
	case a.claims[lease] != nil:
		return Claim{}, &LeaseError{Op: "hold", Lease: lease, Err: broker.ErrConflict}
	case len(uuids) == 0 || ttl <= 0:
		return Claim{}, &LeaseError{Op: "hold", Lease: lease, Err: broker.ErrInvalid}
	}
	for i, uuid := range uuids {
		if _, ok := a.taken[uuid]; ok || slices.Contains(uuids[:i], uuid) {
			return Claim{}, &LeaseError{Op: "hold", Lease: lease, Err: ErrTaken}
		}
	}
	c := &Claim{Lease: lease, Owner: owner, Deadline: now.Add(ttl)}
	for _, uuid := range uuids {
		a.epochs[uuid]++
		a.taken[uuid] = lease
		c.GPUs = append(c.GPUs, broker.GPULease{UUID: uuid, Epoch: a.epochs[uuid]})
	}
	a.claims[lease] = c
	return c.clone(), nil
}

// Restore takes over a claim that was made before a restart. A claim under an epoch below one that the
// authority knows is stale and refused.
func (a *Authority) Restore(c Claim) error {
	if a.claims[c.Lease] != nil {
		return &LeaseError{Op: "restore", Lease: c.Lease, Err: broker.ErrConflict}
	}
	for _, g := range c.GPUs {
		if _, ok := a.taken[g.UUID]; ok {
			return &LeaseError{Op: "restore", Lease: c.Lease, Err: ErrTaken}
		}
		if g.Epoch < a.epochs[g.UUID] {
			return &LeaseError{Op: "restore", Lease: c.Lease, Err: broker.ErrFencedEpoch}
		}
	}
	for _, g := range c.GPUs {
		a.epochs[g.UUID] = g.Epoch
		a.taken[g.UUID] = c.Lease
	}
	c = c.clone()
	a.claims[c.Lease] = &c
	return nil
}

// Confirm turns a hold into a lease until now+ttl. Confirming a lease again renews it.
func (a *Authority) Confirm(now time.Time, lease broker.LeaseID, owner broker.PeerID, ttl time.Duration) (Claim, error) {
	c, err := a.live("confirm", now, lease)
	if err != nil {
		return Claim{}, err
	}
	if c.Owner != owner {
		return Claim{}, &LeaseError{Op: "confirm", Lease: lease, Err: broker.ErrForbidden}
	}
	if ttl <= 0 {
		return Claim{}, &LeaseError{Op: "confirm", Lease: lease, Err: broker.ErrInvalid}
	}
	c.Confirmed, c.Deadline = true, now.Add(ttl)
	return c.clone(), nil
}

// Renew moves a lease's deadline to now+ttl, if gpus are its GPUs under their present epochs.
func (a *Authority) Renew(now time.Time, lease broker.LeaseID, gpus []broker.GPULease, ttl time.Duration) error {
	c, err := a.live("renew", now, lease)
	if err != nil {
		return err
	}
	switch {
	case !c.Confirmed || ttl <= 0:
		return &LeaseError{Op: "renew", Lease: lease, Err: broker.ErrInvalid}
	case !slices.Equal(c.GPUs, gpus):
		return &LeaseError{Op: "renew", Lease: lease, Err: broker.ErrFencedEpoch}
	}
	c.Deadline = now.Add(ttl)
	return nil
}

// Release frees the GPUs of a claim. The caller has stopped whatever used them. Releasing a claim that
// does not exist does nothing.
func (a *Authority) Release(lease broker.LeaseID) {
	c := a.claims[lease]
	if c == nil {
		return
	}
	for _, g := range c.GPUs {
		delete(a.taken, g.UUID)
	}
	delete(a.claims, lease)
}

// Lapsed returns the claims past their deadline, in order of their lease ids.
func (a *Authority) Lapsed(now time.Time) []broker.LeaseID {
	var over []broker.LeaseID
	for id, c := range a.claims {
		if !now.Before(c.Deadline) {
			over = append(over, id)
		}
	}
	slices.Sort(over)
	return over
}

// Claim returns the claim of a lease.
func (a *Authority) Claim(lease broker.LeaseID) (Claim, bool) {
	c := a.claims[lease]
	if c == nil {
		return Claim{}, false
	}
	return c.clone(), true
}

// Claims returns all claims in order of their lease ids.
func (a *Authority) Claims() []Claim {
	all := make([]Claim, 0, len(a.claims))
	for _, c := range a.claims {
		all = append(all, c.clone())
	}
	slices.SortFunc(all, func(x, y Claim) int { return cmp.Compare(x.Lease, y.Lease) })
	return all
}

// Free reports whether nobody claims a GPU.
func (a *Authority) Free(uuid string) bool {
	_, ok := a.taken[uuid]
	return !ok
}

// Epoch returns the last epoch of a GPU; zero: never held.
func (a *Authority) Epoch(uuid string) uint64 { return a.epochs[uuid] }

func (a *Authority) live(op string, now time.Time, lease broker.LeaseID) (*Claim, error) {
	c := a.claims[lease]
	if c == nil {
		return nil, &LeaseError{Op: op, Lease: lease, Err: ErrNoLease}
	}
	if !now.Before(c.Deadline) {
		return nil, &LeaseError{Op: op, Lease: lease, Err: ErrLapsed}
	}
	return c, nil
}

func (c Claim) clone() Claim {
	c.GPUs = slices.Clone(c.GPUs)
	return c
}
