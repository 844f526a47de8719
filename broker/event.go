package broker

import (
	"time"

	"rialto/pricing"
)

// Event is something that happened to the market. Events are the only input of [Market.Step].
//
//sumtype:decl
type Event interface{ event() }

type (
	// OffersPosted replaces all offers of a provider.
	OffersPosted struct {
		Provider PeerID
		Set      OfferSet
	}
	// ProviderGone says that the connection to a provider ended: its offers vanish, its leases live
	// on until they are renewed over a new connection or lapse.
	ProviderGone struct{ Provider PeerID }
	// AccountOpened creates an account.
	AccountOpened struct {
		Account AccountID
		Name    string
	}
	// KeyBound binds the key that may sign jobs to an account, once. Custodial says that the broker holds it.
	KeyBound struct {
		Account   AccountID
		Key       PeerID
		Custodial bool
	}
	// LimitsSet replaces an account's spending limits.
	LimitsSet struct {
		Account AccountID
		Limits  Limits
	}
	// Deposited adds money from the outside world. Ref makes it idempotent.
	Deposited struct {
		Account AccountID
		Amount  pricing.Money
		Ref     string
	}
	// Submitted asks for a job to be accepted. The caller chose the ID and verified the envelope.
	Submitted struct {
		Job      JobID
		Account  AccountID
		Spec     JobSpec
		Envelope []byte
	}
	// QuoteAccepted is a customer's word that he takes a firm quote.
	QuoteAccepted struct{ Job JobID }
	// BidChanged is a customer's new bid for an interruptible job. The caller verified the envelope.
	BidChanged struct {
		Job      JobID
		Change   BidChange
		Envelope []byte
	}
	// CancelRequested asks for a job to end.
	CancelRequested struct {
		Job    JobID
		Reason string
	}
	// HoldAnswered is a provider's answer to a hold. Answer.Grant nil and Refusal empty means that no
	// answer came; Error then says why.
	HoldAnswered struct {
		Lease    LeaseID
		Answer   Answer
		Envelope []byte
		Error    string
	}
	// ConfirmAnswered is the outcome of a confirmation; Error empty means that it was acknowledged.
	ConfirmAnswered struct {
		Lease LeaseID
		Error string
	}
	// ReleaseAnswered is the outcome of a release; Error empty means that it was acknowledged.
	ReleaseAnswered struct {
		Lease LeaseID
		Error string
	}
	// Reported is a provider's report whose envelope the caller verified.
	Reported struct {
		Provider PeerID
		Report   Report
		Envelope []byte
	}
	// ReceiptSigned is the outcome of SignReceipt, to be stored with the lease.
	ReceiptSigned struct {
		Lease    LeaseID
		Envelope []byte
	}
	// SourceDistrusted says that a provider is not to be named as a source of blocks until a time.
	SourceDistrusted struct {
		Provider PeerID
		Until    time.Time
	}
	// ContentSized says how many bytes an image has, by the broker's own count. It is not saved.
	ContentSized struct {
		Digest string
		Root   string // CID
		Bytes  int64  // zero: not known
	}
	// Ticked lets time pass: lapsed holds, leases and durations end.
	Ticked struct{}
)

func (OffersPosted) event()     {}
func (ProviderGone) event()     {}
func (AccountOpened) event()    {}
func (KeyBound) event()         {}
func (LimitsSet) event()        {}
func (Deposited) event()        {}
func (Submitted) event()        {}
func (QuoteAccepted) event()    {}
func (BidChanged) event()       {}
func (CancelRequested) event()  {}
func (HoldAnswered) event()     {}
func (ConfirmAnswered) event()  {}
func (ReleaseAnswered) event()  {}
func (Reported) event()         {}
func (ReceiptSigned) event()    {}
func (SourceDistrusted) event() {}
func (ContentSized) event()     {}
func (Ticked) event()           {}

// Effect is something that the caller of [Market.Step] must do: first make every Save and Post of the
// step durable in one batch, then perform the rest in order.
//
//sumtype:decl
type Effect interface{ effect() }

type (
	// SaveAccount stores an account.
	SaveAccount struct{ Account Account }
	// SaveJob stores a job; New says that it is the first time, and its signed spec is to be stored with it.
	SaveJob struct {
		Job Job
		New bool
	}
	// SaveLease stores a lease.
	SaveLease struct{ Lease Lease }
	// Post appends a transfer to the ledger.
	Post struct{ Transfer Transfer }
	// SaveDerived stores what follows from the rest.
	SaveDerived struct{ Derived Derived }
	// SendHold asks a provider; the outcome comes back as HoldAnswered.
	SendHold struct {
		Provider PeerID
		Hold     Hold
	}
	// SendConfirm confirms a lease; the outcome comes back as ConfirmAnswered.
	SendConfirm struct {
		Provider PeerID
		Confirm  Confirm
	}
	// SendRelease ends a lease at the provider; the outcome comes back as ReleaseAnswered.
	SendRelease struct {
		Provider PeerID
		Release  Release
	}
	// SendRenewal answers the report that caused this step.
	SendRenewal struct{ Renewal Renewal }
	// SignReceipt asks for the lease's receipt to be signed; the envelope comes back as ReceiptSigned.
	SignReceipt struct{ Receipt Receipt }
)

func (SaveAccount) effect() {}
func (SaveJob) effect()     {}
func (SaveLease) effect()   {}
func (Post) effect()        {}
func (SaveDerived) effect() {}
func (SendHold) effect()    {}
func (SendConfirm) effect() {}
func (SendRelease) effect() {}
func (SendRenewal) effect() {}
func (SignReceipt) effect() {}

// Account is a customer's or provider's money and the key that speaks for it.
// A provider's account has its peer id as ID, which needs no bound key, and earns into Payable.
type Account struct {
	ID        AccountID
	Name      string
	Key       PeerID        // empty: not bound yet
	Available pricing.Money // never below zero
	Held      pricing.Money // kept aside for jobs, never below zero
	Payable   pricing.Money // earned, a provider's
	Spent     pricing.Money // paid for jobs so far
	Custodial bool          `json:",omitzero"` // the broker holds Key and signs jobs for the account's owner
	Limits    Limits        `json:",omitzero"`
	Recent    Recent        `json:",omitzero"`
	Today     Day           `json:",omitzero"`
}

// Book names one side of a transfer.
type Book string

// Books of the double-entry ledger. A customer has Available and Held, a provider Payable;
// World is where deposits come from and may be negative; Fee is the broker's.
const (
	BookWorld     Book = "world"
	BookFee       Book = "fee"
	BookAvailable Book = "available"
	BookHeld      Book = "held"
	BookPayable   Book = "payable"
)

// Transfer moves money between two books. Transfers are never changed; the sum over all books is zero.
type Transfer struct {
	Seq    uint64 // 1, 2, 3, …
	From   Book
	FromID AccountID // empty for World and Fee
	To     Book
	ToID   AccountID
	Amount pricing.Money // more than zero
	Job    JobID
	Ref    string // "hold", "unhold", "charge", "fee", "void" or "deposit …"
}
