package broker

import (
	"fmt"

	"rialto/pricing"
)

func (t *turn) openAccount(ev AccountOpened) error {
	var c checker
	c.name("account", string(ev.Account), maxName)
	c.name("name", ev.Name, maxName)
	if c.err != nil {
		return c.err
	}
	if _, ok := t.accounts[ev.Account]; ok {
		return fmt.Errorf("account %s: %w: it exists", ev.Account, ErrConflict)
	}
	a := &Account{ID: ev.Account, Name: ev.Name}
	t.touchAccount(a)
	t.accounts[a.ID] = a
	return nil
}

func (t *turn) bind(ev KeyBound) error {
	a := t.accounts[ev.Account]
	switch _, taken := t.keys[ev.Key]; {
	case a == nil:
		return fmt.Errorf("account %s: %w", ev.Account, ErrNotFound)
	case ev.Key == "" || len(ev.Key) > maxName:
		return &FieldError{Field: "key", Problem: "empty or too long"}
	case a.Key == ev.Key:
		return nil
	case a.Custodial:
		return fmt.Errorf("account %s: %w: it is custodial, the broker holds its key", a.ID, ErrConflict)
	case a.Key != "":
		return fmt.Errorf("account %s: %w: another key is bound", a.ID, ErrConflict)
	case taken:
		return fmt.Errorf("key %s: %w: it is bound to another account", ev.Key, ErrConflict)
	}
	t.touchAccount(a)
	a.Key, a.Custodial = ev.Key, ev.Custodial
	t.keys[ev.Key] = a.ID
	return nil
}

func (t *turn) deposit(ev Deposited) error {
	a := t.accounts[ev.Account]
	var c checker
	c.that(ev.Amount > 0 && ev.Amount <= maxMoney, "amount", "%v: want more than $0.00 and at most %v", ev.Amount, maxMoney)
	c.name("ref", ev.Ref, maxName)
	if c.err != nil {
		return c.err
	}
	if a == nil {
		return fmt.Errorf("account %s: %w", ev.Account, ErrNotFound)
	}
	ref := depositRef(ev.Ref)
	past, counted := t.deposits[ref]
	if !counted && t.past.Deposit != nil {
		past, counted = *t.past.Deposit, true
	}
	if counted {
		if past.ToID == ev.Account && past.Amount == ev.Amount {
			return nil
		}
		return fmt.Errorf("deposit %s: %w: it was %v to account %s", ev.Ref, ErrConflict, past.Amount, past.ToID)
	}
	// All money in the market came through here, so this bound keeps every balance in range.
	if _, err := t.totals.World.Sub(ev.Amount); err != nil {
		return fmt.Errorf("deposit %s: %w", ev.Ref, err)
	}
	t.deposits[ref] = t.transfer(Transfer{From: BookWorld, To: BookAvailable, ToID: a.ID, Amount: ev.Amount, Ref: ref})
	return nil
}

func depositRef(ref string) string { return "deposit " + ref }

// hold keeps more of the customer's money aside for a job. The caller made sure that it is there.
func (t *turn) hold(j *Job, amount pricing.Money) {
	t.touchJob(j)
	j.Hold += amount
	t.committed[j.Account] += amount
	t.transfer(Transfer{From: BookAvailable, FromID: j.Account, To: BookHeld, ToID: j.Account, Amount: amount, Job: j.ID, Ref: "hold"})
}

// unhold returns a part of a job's hold while it waits.
func (t *turn) unhold(j *Job, amount pricing.Money) {
	t.touchJob(j)
	j.Hold -= amount
	t.committed[j.Account] -= amount
	t.transfer(Transfer{From: BookHeld, FromID: j.Account, To: BookAvailable, ToID: j.Account, Amount: amount, Job: j.ID, Ref: "unhold"})
}

// settle pays a job's bill out of its hold and returns the rest. It happens once, when the job ends.
func (t *turn) settle(j *Job, l *Lease) {
	t.touchJob(j)
	var cost, fee pricing.Money
	if l != nil {
		cost = l.Cost
		fee = t.feeOf(cost)
	}
	if cost > j.Hold {
		t.broken(fmt.Sprintf("job %s: the bill %v exceeds the hold %v", j.ID, cost, j.Hold))
		return
	}
	if cost > 0 {
		p := t.provider(l)
		t.transfer(Transfer{From: BookHeld, FromID: j.Account, To: BookPayable, ToID: p, Amount: cost - fee, Job: j.ID, Ref: "charge"})
		t.transfer(Transfer{From: BookHeld, FromID: j.Account, To: BookFee, Amount: fee, Job: j.ID, Ref: "fee"})
		t.accounts[j.Account].spend(cost, t.now)
	}
	t.transfer(Transfer{From: BookHeld, FromID: j.Account, To: BookAvailable, ToID: j.Account, Amount: j.Hold - cost, Job: j.ID, Ref: "void"})
	t.committed[j.Account] -= j.Hold
	j.Hold = 0
}

func (t *turn) feeOf(cost pricing.Money) pricing.Money {
	fee, err := cost.PPM(t.cfg.FeePPM)
	if err != nil {
		t.broken(fmt.Sprintf("fee of %v: %v", cost, err))
	}
	return fee
}

// provider returns the account that a lease's provider earns into, and opens it if need be.
func (t *turn) provider(l *Lease) AccountID {
	id := AccountID(l.Provider)
	if t.accounts[id] == nil {
		a := &Account{ID: id, Name: l.Host}
		t.touchAccount(a)
		t.accounts[id] = a
	}
	return id
}

// transfer moves money and appends to the ledger. An amount of zero leaves no trace.
func (t *turn) transfer(x Transfer) Transfer {
	if x.Amount == 0 {
		return x
	}
	if x.Amount < 0 {
		t.broken(fmt.Sprintf("transfer of %v", x.Amount))
		return x
	}
	for _, id := range []AccountID{x.FromID, x.ToID} {
		if a := t.accounts[id]; a != nil {
			t.touchAccount(a)
		}
	}
	if err := t.move(x); err != nil {
		t.broken(err.Error())
		return x
	}
	t.totals.Transfers++
	x.Seq = t.totals.Transfers
	t.posts = append(t.posts, Post{x})
	return x
}

// move changes the balances on both sides of a transfer.
func (m *Market) move(x Transfer) error {
	from, to := m.balance(x.From, x.FromID), m.balance(x.To, x.ToID)
	if from == nil || to == nil {
		return fmt.Errorf("transfer from %s of %q to %s of %q: no such book", x.From, x.FromID, x.To, x.ToID)
	}
	less, err := from.Sub(x.Amount)
	if err != nil || less < 0 && x.From != BookWorld {
		return fmt.Errorf("transfer of %v from %s of %q: it has %v", x.Amount, x.From, x.FromID, *from)
	}
	more, err := to.Add(x.Amount)
	if err != nil {
		return fmt.Errorf("transfer of %v to %s of %q: %w", x.Amount, x.To, x.ToID, err)
	}
	*from, *to = less, more
	return nil
}

// balance returns where a book's balance is kept; nil if there is no such book.
func (m *Market) balance(b Book, id AccountID) *pricing.Money {
	a := m.accounts[id]
	switch {
	case b == BookWorld && id == "":
		return &m.totals.World
	case b == BookFee && id == "":
		return &m.totals.Fee
	case a == nil:
		return nil
	}
	switch b {
	case BookAvailable:
		return &a.Available
	case BookHeld:
		return &a.Held
	case BookPayable:
		return &a.Payable
	default:
		return nil
	}
}

func (t *turn) touchAccount(a *Account) {
	if t.dirtyAccounts.add(a) {
		t.before += a.Available + a.Held + a.Payable
	}
}

// audit asserts what a step may never break, for the accounts that it touched. [Market.Audit] asserts
// the same for all.
func (t *turn) audit() {
	var after, posted pricing.Money
	for _, a := range t.dirtyAccounts.list {
		after += a.Available + a.Held + a.Payable
		if err := t.auditAccount(a); err != nil {
			t.broken(err.Error())
		}
	}
	for _, e := range t.posts {
		p, ok := e.(Post)
		if !ok {
			continue
		}
		if p.Transfer.From == BookWorld {
			posted += p.Transfer.Amount
		}
		if p.Transfer.To == BookFee {
			posted -= p.Transfer.Amount
		}
	}
	if after-t.before != posted {
		t.broken(fmt.Sprintf("money: accounts changed by %v, the world and the fee by %v", after-t.before, posted))
	}
}

func (m *Market) auditAccount(a *Account) error {
	if a.Available < 0 || a.Held < 0 || a.Payable < 0 {
		return fmt.Errorf("account %s: below zero: available %v, held %v, payable %v", a.ID, a.Available, a.Held, a.Payable)
	}
	if a.Held != m.committed[a.ID] {
		return fmt.Errorf("account %s: held %v, its jobs hold %v", a.ID, a.Held, m.committed[a.ID])
	}
	return nil
}
