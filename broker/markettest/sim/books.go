package sim

import (
	"fmt"

	"rialto/broker"
	"rialto/pricing"
)

// books are kept beside the market's own, from its transfers alone.
type books map[entry]pricing.Money

type entry struct {
	book broker.Book
	id   broker.AccountID
}

// post moves money. Only the world may owe any.
func (b books) post(x broker.Transfer) error {
	from, to := entry{x.From, x.FromID}, entry{x.To, x.ToID}
	b[from] -= x.Amount
	b[to] += x.Amount
	if x.Amount <= 0 || b[from] < 0 && x.From != broker.BookWorld {
		return fmt.Errorf("transfer %d of %v leaves %v in %s of %q", x.Seq, x.Amount, b[from], x.From, x.FromID)
	}
	return nil
}

// step follows a step of the market: what it moved must be what the accounts that it saves now have.
func (b books) step(effects []broker.Effect) error {
	for _, e := range effects {
		if p, ok := e.(broker.Post); ok {
			if err := b.post(p.Transfer); err != nil {
				return err
			}
		}
	}
	for _, e := range effects {
		s, ok := e.(broker.SaveAccount)
		if !ok {
			continue
		}
		a := &s.Account
		for book, has := range map[broker.Book]pricing.Money{
			broker.BookAvailable: a.Available, broker.BookHeld: a.Held, broker.BookPayable: a.Payable,
		} {
			if want := b[entry{book, a.ID}]; has != want {
				return fmt.Errorf("account %s: %s is %v, its transfers add up to %v", a.ID, book, has, want)
			}
		}
	}
	return nil
}
