package ledger_test

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
)

const imageDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// aJob returns a job with every kind of field set.
func aJob(t *testing.T) broker.Job {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 19, 0, 0, 123456789, time.UTC)
	spec := broker.JobSpec{
		Image: "app:1", Digest: imageDigest, Command: []string{"a", "b"}, Env: map[string]string{"K": "V"},
		GPU: broker.GPURequest{Model: "RTX 4090", Count: 2}, MaxCost: pricing.USD + 1, MaxDuration: time.Hour,
		TunnelKey: tunnel.Key{1}, Customer: broker.PeerID(key.ID()), Broker: broker.PeerID(key.ID()), Created: at, Nonce: "n", Bid: 200_000_000,
	}
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		t.Fatal(err)
	}
	change := broker.BidChange{Customer: spec.Customer, Broker: spec.Broker, Nonce: "n", Bid: 300_000_000, MaxCost: pricing.USD + 1, Created: at.Add(time.Second)}
	changed, err := wire.SealBidChange(key, change)
	if err == nil {
		err = change.Amend(&spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	return broker.Job{
		ID: "j-1", Account: "a-1", Spec: spec, Envelope: envelope, State: broker.JobReady, Hold: pricing.USD + 1, Lease: "l-1",
		Attempts: 1, Tried: []broker.PeerID{"p"}, Stopping: broker.JobCancelled, ExitCode: 3, Error: "why", Accepted: at, Ended: at,
		Log:   []broker.JobEvent{{Seq: 1, Time: at, State: broker.JobQueued, Text: "accepted"}},
		Rebid: broker.Rebid{Count: 1, Created: change.Created, Envelope: changed},
	}
}

func aLease() broker.Lease {
	at := time.Date(2026, 11, 23, 19, 0, 0, 1, time.UTC)
	return broker.Lease{
		ID: "l-1", Job: "j-1", Account: "a-1", Offer: "o", Provider: "p", Host: "alpha", Model: "RTX 4090",
		GPUs: []broker.GPULease{{UUID: "GPU-1", Epoch: 1 << 63}}, Rate: 400_000_000, State: broker.LeaseActive, Answer: []byte{1},
		Granted: at, Ready: at, Renewed: at, Seq: 4, Used: time.Minute, Billed: time.Second, Cost: 7,
		Fetched: broker.Fetched{Local: 1, Peers: 2, Registry: 3, Total: 6}, Steps: []broker.Step{{Name: "image", Start: 1, Took: 2}},
		Simulated: true, Report: []byte{2}, Receipt: []byte{3},
	}
}

func TestBooksReturnWhatTheySaved(t *testing.T) {
	for name, store := range map[string]ledger.Store{"memory": new(ledger.Memory), "badger": openBadger(t, t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			books := ledger.Books{Store: store}
			epoch, err := books.Campaign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			job, lease := aJob(t), aLease()
			for id := range job.Leases() {
				job.Lease, lease.ID = id, id
			}
			queued := job
			queued.State, queued.Stopping = broker.JobQueued, 0
			over := job
			over.ID, over.State, over.Hold, over.Stopping, over.Lease, over.Attempts = "j-0", broker.JobDone, 0, 0, "", 0
			over.Spec.Nonce, over.Accepted = "o", job.Accepted.Add(-1)
			totals := broker.Totals{World: -10 * pricing.USD, Transfers: 2, Clock: job.Accepted, Done: 1}
			epochs := broker.Epoch{Provider: "p", GPULease: broker.GPULease{UUID: "GPU-1", Epoch: 7}}
			answers := broker.Answers{Provider: "p", Fills: []broker.HoldFill{{At: job.Accepted, Lease: "l", Account: "a", Failed: true}}}
			starts := []broker.StartSeen{{Ready: 1, Lease: "l", Provider: "p", Startup: broker.Startup{Took: 1, Total: 2, Local: 3, Loaded: 4}}}
			runs := broker.Runs{Provider: "p", Seen: time.Hour, Failures: 1, Starts: starts}
			waits := []broker.Wait{
				{At: job.Accepted, Job: "j-1", Began: job.Accepted, Bid: broker.Bid{Model: "T4", Countries: []string{"DE"}, Rate: 1, GPUs: 2, Term: pricing.Interruptible}},
				{At: job.Accepted, Job: "j-1", Change: 1, Began: job.Accepted, Served: true},
				{At: job.Accepted.Add(1), Job: "j-0"},
			}
			content := broker.Content{Key: "sha256:x\x00", Starts: starts}
			derived := func(d broker.Derived) broker.Effect { return broker.SaveDerived{Derived: d} }
			account := broker.Account{ID: "a-1", Name: "ada", Key: "k", Available: 8_999_999_999, Held: pricing.USD + 1, Spent: 5}
			deposit := broker.Transfer{Seq: 1, From: broker.BookWorld, To: broker.BookAvailable, ToID: "a-1", Amount: 10 * pricing.USD, Ref: "deposit first"}
			hold := broker.Transfer{Seq: 2, From: broker.BookAvailable, FromID: "a-1", To: broker.BookHeld, ToID: "a-1", Amount: pricing.USD + 1, Job: "j-1", Ref: "hold"}
			first := []broker.Effect{
				broker.SaveAccount{Account: broker.Account{ID: "a-1"}},
				broker.SaveAccount{Account: account},
				broker.SaveJob{Job: over, New: true},
				broker.SaveJob{Job: queued, New: true},
				broker.SaveJob{Job: job},
				broker.Post{Transfer: deposit},
				broker.Post{Transfer: hold},
				derived(broker.Totals{}),
				derived(totals),
				derived(broker.Slot{Number: 0, Job: "j-0"}), derived(broker.Slot{Number: 11, Job: "j-1"}),
				derived(epochs), derived(answers), derived(runs), derived(content), derived(waits[2]), derived(waits[1]), derived(waits[0]),
			}
			if err := books.Save(t.Context(), epoch, "1", first, map[string][]byte{"token/x": []byte("a-1")}, map[string][]byte{"h/1": []byte("x"), "h/2": []byte("y")}); err != nil {
				t.Fatal(err)
			}
			if err := books.Save(t.Context(), epoch, "2", []broker.Effect{broker.SaveLease{Lease: lease}, broker.SaveJob{Job: job}, derived(broker.Slot{Number: 0, Job: "j-0", Closed: true})}, nil, map[string][]byte{"h/1": []byte("z"), "h/2": nil}); err != nil {
				t.Fatal(err)
			}
			st, err := books.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ got, want any }{
				{st.Accounts, []broker.Account{account}},
				{st.Jobs, []broker.Job{job}},
				{st.Leases, []broker.Lease{lease}},
				{st.Slots, []broker.Slot{{Number: 11, Job: "j-1"}}},
				{st.Totals, totals},
				{st.Epochs, []broker.Epoch{epochs}},
				{st.Answers, []broker.Answers{answers}},
				{st.Runs, []broker.Runs{runs}},
				{st.Contents, []broker.Content{content}},
			} {
				if !reflect.DeepEqual(c.got, c.want) {
					t.Errorf("loaded %+v\nwant %+v", c.got, c.want)
				}
			}
			for i := range len(waits) + 1 {
				var after broker.Wait
				if i > 0 {
					after = waits[i-1]
				}
				var got []broker.Wait
				for w, err := range books.Waits(t.Context(), after) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, w)
				}
				if !reflect.DeepEqual(got, slices.Clip(waits[i:])) && len(got)+i != len(waits) {
					t.Errorf("waits after %+v: %+v", after, got)
				}
			}
			if err := books.Recount(t.Context(), st); err != nil {
				t.Errorf("recount: %v", err)
			}
			if got, err := books.Job(t.Context(), "j-1"); err != nil || !reflect.DeepEqual(got, job) {
				t.Errorf("job %+v, %v; want %+v", got, err, job)
			}
			if got, err := books.Lease(t.Context(), lease.ID); err != nil || !reflect.DeepEqual(got, lease) {
				t.Errorf("lease %+v, %v; want %+v", got, err, lease)
			}
			if got, err := books.Deposit(t.Context(), "first"); err != nil || got != deposit {
				t.Errorf("deposit %+v, %v; want %+v", got, err, deposit)
			}
			if got, err := books.Signed(t.Context(), job.Spec.Customer, "n"); err != nil || got != "j-1" {
				t.Errorf("job of a nonce: %s, %v", got, err)
			}
			_, noJob := books.Job(t.Context(), "j-2")
			_, noLease := books.Lease(t.Context(), "l-2")
			_, noDeposit := books.Deposit(t.Context(), "second")
			_, noNonce := books.Signed(t.Context(), job.Spec.Customer, "m")
			for _, err := range []error{noJob, noLease, noDeposit, noNonce} {
				if !errors.Is(err, broker.ErrNotFound) {
					t.Errorf("what never was: %v, want broker.ErrNotFound", err)
				}
			}
			for _, c := range []struct {
				before *broker.Job
				most   int
				want   []broker.JobID
				more   bool
			}{{nil, 1, []broker.JobID{"j-1"}, true}, {nil, 2, []broker.JobID{"j-1", "j-0"}, false}, {&job, 1, []broker.JobID{"j-0"}, false}, {&over, 1, nil, false}} {
				if got, more, err := books.JobsOf(t.Context(), "a-1", c.before, c.most); err != nil || !slices.Equal(got, c.want) || more != c.more {
					t.Errorf("%d jobs before %v: %v, %v, %v; want %v, %v", c.most, c.before, got, more, err, c.want, c.more)
				}
			}
			if note, err := books.Note(t.Context(), "token/x"); err != nil || string(note) != "a-1" {
				t.Errorf("note %q, %v", note, err)
			}
			if _, err := books.Note(t.Context(), "token/y"); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("missing note: %v, want broker.ErrNotFound", err)
			}
			if hints, err := books.Hints(t.Context(), "h/"); err != nil || len(hints) != 1 || string(hints["h/1"]) != "z" {
				t.Errorf("hints %q, %v", hints, err)
			}
			if hint, err := books.Hint(t.Context(), "h/1"); err != nil || string(hint) != "z" {
				t.Errorf("hint %q, %v", hint, err)
			}
			if r, err := ledger.Audit(t.Context(), store); err != nil || r.Transfers != 2 || r.Held != pricing.USD+1 || r.World != -10*pricing.USD {
				t.Errorf("audit %+v, %v", r, err)
			}
			if err := books.Save(t.Context(), epoch, "3", nil, map[string][]byte{"token/x": []byte("a-2")}, nil); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("a note written twice: %v, want ErrConflict", err)
			}
			if err := books.Save(t.Context(), epoch, "4", []broker.Effect{broker.Post{Transfer: hold}}, nil, nil); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("a transfer written twice: %v, want ErrConflict", err)
			}
			if err := books.Save(t.Context(), epoch, "5", []broker.Effect{broker.SendRenewal{}}, nil, nil); err == nil {
				t.Error("an effect that is nothing to save was saved")
			}
		})
	}
}

// TestAuditAddsUp gives audits books that do not add up although every hash is right.
func TestAuditAddsUp(t *testing.T) {
	in := broker.Transfer{Seq: 1, From: broker.BookWorld, To: broker.BookAvailable, ToID: "a", Amount: 10}
	fee := broker.Transfer{Seq: 2, From: broker.BookAvailable, FromID: "a", To: broker.BookFee, Amount: 4}
	account := func(available pricing.Money) broker.Effect {
		return broker.SaveAccount{Account: broker.Account{ID: "a", Available: available}}
	}
	sums := func(transfers uint64, world, fee pricing.Money) broker.Effect {
		return broker.SaveDerived{Derived: broker.Totals{Transfers: transfers, World: world, Fee: fee}}
	}
	job := aJob(t)
	job.Account, job.Hold, job.Stopping, job.Lease, job.Attempts = "a", 0, 0, "", 0
	holding := job
	holding.Hold = 1
	lease := aLease()
	lease.Receipt = nil
	slot := broker.SaveDerived{Derived: broker.Slot{Job: job.ID}}
	post := func(t broker.Transfer, amount pricing.Money, seq uint64) broker.Effect {
		t.Amount, t.Seq = amount, seq
		return broker.Post{Transfer: t}
	}
	tests := map[string]struct {
		effects []broker.Effect
		want    string // empty: all is well
	}{
		"right":                 {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 2), sums(2, -10, 4), broker.SaveJob{Job: job, New: true}, slot}, ""},
		"a cent too much":       {[]broker.Effect{account(7), post(in, 10, 1), post(fee, 4, 2), sums(2, -10, 4)}, "add up to"},
		"transfer missing":      {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 3), sums(2, -10, 4)}, "expected number 2"},
		"the last one missing":  {[]broker.Effect{account(10), post(in, 10, 1), sums(2, -10, 0)}, "2 transfers, there are 1"},
		"one too many":          {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 2), sums(1, -10, 4)}, "1 transfers, there are 2"},
		"another fee":           {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 2), sums(2, -10, 5)}, "transfers add up to"},
		"below zero on the way": {[]broker.Effect{account(6), post(fee, 4, 1), post(in, 10, 2), sums(2, -10, 4)}, "falls to"},
		"nothing moved":         {[]broker.Effect{account(0), post(in, 0, 1), sums(1, 0, 0)}, "transfer 1 of"},
		"backwards":             {[]broker.Effect{account(-5), post(in, -5, 1), sums(1, 5, 0)}, "transfer 1 of"},
		"nobody's money":        {[]broker.Effect{post(in, 10, 1), sums(1, -10, 0)}, "does not exist"},
		"money from nothing":    {[]broker.Effect{account(5)}, "add up to"},
		"a job that is lost":    {[]broker.Effect{broker.SaveJob{Job: job, New: true}}, "in no slot"},
		"a lease that is lost":  {[]broker.Effect{broker.SaveLease{Lease: lease}}, "in no slot"},
		"a hold of no account":  {[]broker.Effect{account(0), broker.SaveJob{Job: holding, New: true}, slot}, "its jobs hold"},
		"a job not counted":     {[]broker.Effect{broker.SaveDerived{Derived: broker.Totals{Done: 1}}}, "have ended"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			books := ledger.Books{Store: new(ledger.Memory)}
			epoch, err := books.Campaign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := books.Save(t.Context(), epoch, "1", tt.effects, nil, nil); err != nil {
				t.Fatal(err)
			}
			_, err = ledger.Audit(t.Context(), books.Store)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("audit: %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAuditChecksSignatures: a restart believes what was verified before it was saved, an audit does not.
func TestAuditChecksSignatures(t *testing.T) {
	for key, forge := range map[string]func(*broker.Job) []byte{
		"spec/j-1": func(j *broker.Job) []byte { return j.Envelope },
		"job/j-1":  func(j *broker.Job) []byte { return j.Rebid.Envelope },
	} {
		books := ledger.Books{Store: new(ledger.Memory)}
		epoch, err := books.Campaign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		job := aJob(t)
		forged := forge(&job)
		forged[len(forged)-1] ^= 1
		job.Attempts = 0
		effects := []broker.Effect{broker.SaveJob{Job: job, New: true}, broker.SaveDerived{Derived: broker.Slot{Job: job.ID}}}
		if err := books.Save(t.Context(), epoch, "1", effects, nil, nil); err != nil {
			t.Fatal(err)
		}
		if st, err := books.Load(t.Context()); err != nil || !reflect.DeepEqual(st.Jobs, []broker.Job{job}) {
			t.Errorf("loaded %+v, %v; want %+v", st.Jobs, err, job)
		}
		if _, err := ledger.Audit(t.Context(), books.Store); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), key) {
			t.Errorf("audit: %v, want ErrCorrupt that names %s", err, key)
		}
	}
}

// TestChangedBidOfAnotherJob: what a job bids now was signed for this job, or a restart refuses it.
func TestChangedBidOfAnotherJob(t *testing.T) {
	books := ledger.Books{Store: new(ledger.Memory)}
	epoch, err := books.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job := aJob(t)
	job.Rebid, job.Attempts = aJob(t).Rebid, 0 // another customer's
	effects := []broker.Effect{broker.SaveJob{Job: job, New: true}, broker.SaveDerived{Derived: broker.Slot{Job: job.ID}}}
	if err := books.Save(t.Context(), epoch, "1", effects, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := books.Load(t.Context()); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "job/j-1") {
		t.Errorf("loaded: %v, want ErrCorrupt that names the job", err)
	}
}

// TestUnknownFieldIsRefused: a record of a newer version must not lose a field on its way through an older one.
func TestUnknownFieldIsRefused(t *testing.T) {
	store := new(ledger.Memory)
	epoch, err := store.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	batch := []ledger.Mutation{{Key: ledger.AccountKey("a"), Value: []byte(`{"ID":"a","Colour":"red"}`)}}
	if _, err := store.Apply(t.Context(), epoch, "1", batch); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.State(t.Context(), store); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "Colour") {
		t.Errorf("state: %v, want ErrCorrupt that names the field", err)
	}
}

func TestTransferKeysSortByNumber(t *testing.T) {
	var keys []string
	for _, n := range []uint64{1, 9, 10, 99, 1 << 40, 1<<64 - 1} {
		keys = append(keys, ledger.TransferKey(n))
	}
	if !slices.IsSorted(keys) {
		t.Errorf("keys %q", keys)
	}
}

// TestLargestRecordsFit: what peers may say at most must fit a record, or one of them could stop the broker.
func TestLargestRecordsFit(t *testing.T) {
	worst := strings.Repeat("\"<", 256+64) // the market's limit for a peer's text, and the text around it
	job, lease := aJob(t), aLease()
	for i := range 32 * 4 { // attempts, and lines for each
		job.Log = append(job.Log, broker.JobEvent{Seq: uint64(i) + 2, Time: job.Accepted, State: broker.JobQueued, Text: worst})
	}
	job.Error = worst
	lease.Answer = make([]byte, wire.MaxAnswer)
	lease.Report = make([]byte, 32<<10) // what the service takes
	lease.Receipt = make([]byte, 32<<10+16<<10)
	lease.Steps = slices.Repeat([]broker.Step{{Name: strings.Repeat("\"", 128), Start: 1 << 62, Took: 1 << 62}}, 64)
	lease.GPUs = slices.Repeat([]broker.GPULease{{UUID: strings.Repeat("\"", 128), Epoch: 1<<64 - 1}}, 16)
	store := new(ledger.Memory)
	books := ledger.Books{Store: store}
	epoch, err := books.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range []broker.Effect{broker.SaveJob{Job: job}, broker.SaveLease{Lease: lease}} {
		if err := books.Save(t.Context(), epoch, strconv.Itoa(i), []broker.Effect{e}, nil, nil); err != nil {
			t.Errorf("%T of the largest: %v", e, err)
		}
	}
}
