package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
)

const (
	// MaxSpec is the largest signed spec that a broker accepts, so that a job always fits a store's record.
	MaxSpec = 128 << 10
	// MaxIdempotencyKey bounds the key of a submission.
	MaxIdempotencyKey = 256

	maxDeposit = 1_000_000 * pricing.USD // what the market takes at once

	tokenNotes = "token/" // + SHA-256 of the token → account
	onceNotes  = "once/"  // + account / SHA-256 of the idempotency key → submission
)

// submission is what an idempotency key was used for.
type submission struct {
	Job  broker.JobID `json:"job"`
	Body string       `json:"body"` // SHA-256 of the envelope
}

// Submit accepts a signed spec as a job of the account. The same key with the same spec returns the same
// job; with another spec it is refused.
func (s *Service) Submit(ctx context.Context, account broker.AccountID, key string, envelope []byte) (broker.Job, error) {
	return s.SubmitTagged(ctx, account, key, envelope, nil)
}

// SubmitTagged is [Service.Submit] with a tag for the job, see [Service.Tag], which is saved with it.
func (s *Service) SubmitTagged(ctx context.Context, account broker.AccountID, key string, envelope, tag []byte) (broker.Job, error) {
	if len(tag) > MaxTag {
		return broker.Job{}, &broker.FieldError{Field: "tag", Problem: fmt.Sprintf("%d bytes, at most %d", len(tag), MaxTag)}
	}
	if key == "" || len(key) > MaxIdempotencyKey {
		return broker.Job{}, &broker.FieldError{Field: "Idempotency-Key", Problem: fmt.Sprintf("want 1 to %d bytes", MaxIdempotencyKey)}
	}
	if len(envelope) > MaxSpec {
		return broker.Job{}, &broker.FieldError{Field: "spec", Problem: fmt.Sprintf("%d bytes, at most %d", len(envelope), MaxSpec)}
	}
	if err := s.c.Store.Room(); err != nil {
		s.c.Logger.Error("jobs are refused", "err", err)
		return broker.Job{}, fmt.Errorf("the broker accepts no new jobs now: %w", broker.ErrUnavailable)
	}
	spec, signer, err := wire.OpenJobSpec(envelope)
	if err != nil {
		return broker.Job{}, err
	}
	ev := broker.Submitted{Account: account, Spec: spec, Envelope: envelope}
	id, err := ask(ctx, s, len(envelope)+len(tag), func(ctx context.Context, b *batch) (broker.JobID, error) {
		return b.submit(ctx, ev, signer, key, tag)
	})
	if err != nil {
		return broker.Job{}, err
	}
	s.accepted(ctx, account, &spec)
	return s.job(ctx, account, id)
}

func (b *batch) submit(ctx context.Context, ev broker.Submitted, signer broker.PeerID, key string, tag []byte) (broker.JobID, error) {
	body := hash(string(ev.Envelope))
	once := onceNotes + string(ev.Account) + "/" + hash(key)
	switch note, err := b.note(ctx, once); {
	case err == nil:
		var first submission
		if err := json.Unmarshal(note, &first); err != nil {
			return "", fmt.Errorf("note %s: %w", once, err)
		}
		if first.Body != body {
			return "", &broker.FieldError{Field: "Idempotency-Key", Problem: "was used for another spec: take a fresh key for each job"}
		}
		return first.Job, nil
	case !errors.Is(err, broker.ErrNotFound):
		return "", err
	}
	if err := b.mayRun(ev.Account, signer, ev.Spec); err != nil {
		return "", err
	}
	ev.Job = broker.JobID("j-" + randomID())
	if err := b.step(ctx, ev); err != nil {
		return "", err
	}
	note, err := json.Marshal(submission{Job: ev.Job, Body: body})
	if err != nil {
		b.fatal = err
		return "", err
	}
	b.notes[once] = note
	if len(tag) > 0 {
		b.hints[tagHints+string(ev.Job)] = tag
	}
	return ev.Job, nil
}

// mayRun holds a spec to the account that it came with and to this broker.
func (b *batch) mayRun(account broker.AccountID, signer broker.PeerID, spec broker.JobSpec) error {
	a, ok := b.s.market.Account(account)
	switch {
	case !ok:
		return fmt.Errorf("account %q: %w", account, broker.ErrNotFound)
	case a.Key == "":
		return fmt.Errorf("account %q has no key yet, bind one first (rialto account login): %w", account, broker.ErrForbidden)
	case a.Key != signer:
		return fmt.Errorf("the spec is signed by %s, the account's key is %s: %w", signer, a.Key, broker.ErrForbidden)
	case spec.Broker != b.s.c.Market.Self:
		return &broker.FieldError{Field: "spec.broker", Problem: fmt.Sprintf("signed for broker %s", spec.Broker), Nearest: string(b.s.c.Market.Self)}
	}
	return nil
}

// Cancel asks for a job to end.
func (s *Service) Cancel(ctx context.Context, account broker.AccountID, id broker.JobID, reason string) (broker.Job, error) {
	if _, err := s.Job(ctx, account, id); err != nil {
		return broker.Job{}, err
	}
	if err := s.event(ctx, len(reason), broker.CancelRequested{Job: id, Reason: reason}); err != nil {
		return broker.Job{}, err
	}
	return s.job(ctx, account, id)
}

// ChangeBid has one of the account's interruptible jobs bid what its customer signed. The same again changes nothing.
func (s *Service) ChangeBid(ctx context.Context, account broker.AccountID, id broker.JobID, envelope []byte) (broker.Job, error) {
	change, _, err := wire.OpenBidChange(envelope)
	if err != nil {
		return broker.Job{}, err
	}
	if _, err := s.Job(ctx, account, id); err != nil {
		return broker.Job{}, err
	}
	// The market compares the signer with who signed the job.
	if err := s.event(ctx, len(envelope), broker.BidChanged{Job: id, Change: change, Envelope: bytes.Clone(envelope)}); err != nil {
		return broker.Job{}, err
	}
	return s.job(ctx, account, id)
}

// Job returns one of the account's jobs.
func (s *Service) Job(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Job, error) {
	if err := s.Ready(); err != nil {
		return broker.Job{}, err
	}
	return s.job(ctx, account, id)
}

// Jobs returns the account's newest jobs, or those accepted before a job, at most most, newest first, and
// whether there are older ones.
func (s *Service) Jobs(ctx context.Context, account broker.AccountID, before broker.JobID, most int) ([]broker.Job, bool, error) {
	if err := s.Ready(); err != nil {
		return nil, false, err
	}
	return s.jobsBefore(ctx, account, before, most)
}

// Lease returns a job's current or last lease.
func (s *Service) Lease(ctx context.Context, account broker.AccountID, id broker.JobID) (broker.Lease, error) {
	if err := s.Ready(); err != nil {
		return broker.Lease{}, err
	}
	return s.leaseOf(ctx, account, id)
}

// Executed returns the leases that ran at any time between two, of all accounts, by when they became ready. Those that are
// not over have the zero At.
func (s *Service) Executed(ctx context.Context, from, to time.Time) ([]broker.Ending, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	return s.executed(ctx, from, to)
}

// Receipt returns the signed receipt of a job's last lease.
func (s *Service) Receipt(ctx context.Context, account broker.AccountID, id broker.JobID) ([]byte, error) {
	l, err := s.Lease(ctx, account, id)
	if err != nil {
		return nil, err
	}
	if len(l.Receipt) == 0 {
		return nil, fmt.Errorf("job %q has no receipt yet: %w", id, broker.ErrNotFound)
	}
	return bytes.Clone(l.Receipt), nil
}

// Events yields a job's history after the event with number after, and what happens from then on, until
// the job has ended, ctx ends or the market closes.
func (s *Service) Events(ctx context.Context, account broker.AccountID, id broker.JobID, after uint64) iter.Seq2[broker.JobEvent, error] {
	return func(yield func(broker.JobEvent, error) bool) {
		for {
			if err := s.Ready(); err != nil {
				yield(broker.JobEvent{}, err)
				return
			}
			j, changed, err := s.watch(ctx, account, id)
			if err != nil {
				yield(broker.JobEvent{}, err)
				return
			}
			for _, e := range j.Log {
				if e.Seq <= after {
					continue
				}
				if !yield(e, nil) {
					return
				}
				after = e.Seq
			}
			if j.State.Terminal() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(broker.JobEvent{}, ctx.Err())
				return
			case <-s.stopped:
			}
		}
	}
}

// Ahead returns how many jobs are served before each of some that wait; see [broker.Market.Ahead].
func (s *Service) Ahead(ids ...broker.JobID) []int {
	n, err := read(s, func(m *broker.Market) ([]int, error) { return m.Ahead(ids...), nil })
	if err != nil {
		return make([]int, len(ids)) // it is not told while the broker starts
	}
	return n
}

// searchPart is how many offers a search asks before it lets the writer go on: some hundred microseconds.
const searchPart = 256

// Search explains which offers match. It asks them in parts, see [broker.Survey].
func (s *Service) Search(ctx context.Context, q broker.Query) (broker.Search, error) {
	survey, err := read(s, func(m *broker.Market) (*broker.Survey, error) { return m.Survey(q) })
	for done := false; err == nil && !done; {
		done, err = read(s, func(*broker.Market) (bool, error) { return survey.Look(searchPart), ctx.Err() })
	}
	if err != nil {
		return broker.Search{}, err
	}
	return read(s, func(*broker.Market) (broker.Search, error) { return survey.Search() })
}

// Quote prices a job on the offer that it would get now.
func (s *Service) Quote(_ context.Context, r broker.QuoteRequest) (broker.Quote, error) {
	return read(s, func(m *broker.Market) (broker.Quote, error) { return m.Quote(r) })
}

// Authenticate returns the account of a token.
func (s *Service) Authenticate(token string) (broker.AccountID, error) {
	if err := s.Ready(); err != nil {
		return "", err
	}
	// A token has 130 random bits, and what is looked up is its hash: timing tells nothing.
	if id, ok := s.view.token(tokenNotes + hash(token)); ok {
		return id, nil
	}
	return "", fmt.Errorf("token is not known: %w", broker.ErrForbidden)
}

// Account returns an account.
func (s *Service) Account(_ context.Context, id broker.AccountID) (broker.Account, error) {
	if err := s.Ready(); err != nil {
		return broker.Account{}, err
	}
	return s.view.account(id)
}

// Accounts returns all accounts, by id.
func (s *Service) Accounts(context.Context) ([]broker.Account, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	return s.view.allAccounts(), nil
}

// BindKey binds the key that may sign the account's jobs, once.
func (s *Service) BindKey(ctx context.Context, id broker.AccountID, key broker.PeerID) (broker.Account, error) {
	if _, err := identity.ParseID(string(key)); err != nil {
		return broker.Account{}, &broker.FieldError{Field: "key", Problem: err.Error()}
	}
	if err := s.event(ctx, len(key), broker.KeyBound{Account: id, Key: key}); err != nil {
		return broker.Account{}, err
	}
	return s.view.account(id)
}

// OpenAccount makes an account and its token. A nil deposit means the configured grant.
func (s *Service) OpenAccount(ctx context.Context, name string, deposit *pricing.Money) (broker.Account, string, error) {
	return s.openAccount(ctx, name, deposit, false)
}

func (s *Service) openAccount(ctx context.Context, name string, deposit *pricing.Money, custodial bool) (broker.Account, string, error) {
	if name == "" || len(name) > 64 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return broker.Account{}, "", &broker.FieldError{Field: "name", Problem: "want 1 to 64 bytes of printable text"}
	}
	if deposit == nil {
		deposit = &s.c.Grant
	}
	if *deposit < 0 || *deposit > maxDeposit {
		return broker.Account{}, "", &broker.FieldError{Field: "deposit_nanousd", Problem: fmt.Sprintf("%v: want $0.00 to %v", *deposit, maxDeposit)}
	}
	id := broker.AccountID("a-" + randomID())
	token := "rialto_" + randomID()
	var bound broker.PeerID
	if custodial {
		key, err := s.custodialKey(id)
		if err != nil {
			return broker.Account{}, "", err
		}
		bound = broker.PeerID(key.ID())
	}
	err := s.do(ctx, len(name), func(ctx context.Context, b *batch) error {
		if err := b.step(ctx, broker.AccountOpened{Account: id, Name: name}); err != nil {
			return err
		}
		if *deposit > 0 {
			if err := b.step(ctx, broker.Deposited{Account: id, Amount: *deposit, Ref: "open " + string(id)}); err != nil {
				b.fatal = fmt.Errorf("deposit into the new account %s: %w", id, err) // half an account must not be saved
				return err
			}
		}
		if custodial {
			if err := b.step(ctx, broker.KeyBound{Account: id, Key: bound, Custodial: true}); err != nil {
				b.fatal = fmt.Errorf("key of the new account %s: %w", id, err)
				return err
			}
		}
		b.notes[tokenNotes+hash(token)] = []byte(id)
		return nil
	})
	if err != nil {
		return broker.Account{}, "", err
	}
	a, err := s.view.account(id)
	return a, token, err
}

// SetLimits replaces what an account may spend.
func (s *Service) SetLimits(ctx context.Context, id broker.AccountID, l broker.Limits) (broker.Account, error) {
	if err := s.event(ctx, 0, broker.LimitsSet{Account: id, Limits: l}); err != nil {
		return broker.Account{}, err
	}
	return s.view.account(id)
}

// Deposit adds money from outside to an account, once per ref: the same again changes nothing.
func (s *Service) Deposit(ctx context.Context, id broker.AccountID, amount pricing.Money, ref string) (broker.Account, error) {
	if err := s.event(ctx, len(ref), broker.Deposited{Account: id, Amount: amount, Ref: ref}); err != nil {
		return broker.Account{}, err
	}
	return s.view.account(id)
}

// randomID is 26 lower-case base32 characters.
func randomID() string { return strings.ToLower(rand.Text()) }

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
