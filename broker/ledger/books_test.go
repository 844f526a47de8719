package ledger_test

import (
	"errors"
	"reflect"
	"slices"
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
		TunnelKey: tunnel.Key{1}, Customer: broker.PeerID(key.ID()), Broker: broker.PeerID(key.ID()), Created: at, Nonce: "n",
	}
	envelope, err := wire.SealJobSpec(key, spec)
	if err != nil {
		t.Fatal(err)
	}
	return broker.Job{
		ID: "j-1", Account: "a-1", Spec: spec, Envelope: envelope, State: broker.JobReady, Hold: pricing.USD + 1, Lease: "l-1",
		Attempts: 1, Tried: []broker.PeerID{"p"}, Stopping: broker.JobCancelled, ExitCode: 3, Error: "why", Accepted: at, Ended: at,
		Log: []broker.JobEvent{{Seq: 1, Time: at, State: broker.JobQueued, Text: "accepted"}},
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
			queued := job
			queued.State, queued.Stopping = broker.JobQueued, 0
			account := broker.Account{ID: "a-1", Name: "ada", Key: "k", Available: 8_999_999_999, Held: pricing.USD + 1, Spent: 5}
			deposit := broker.Transfer{Seq: 1, From: broker.BookWorld, To: broker.BookAvailable, ToID: "a-1", Amount: 10 * pricing.USD, Ref: "deposit"}
			hold := broker.Transfer{Seq: 2, From: broker.BookAvailable, FromID: "a-1", To: broker.BookHeld, ToID: "a-1", Amount: pricing.USD + 1, Job: "j-1", Ref: "hold"}
			first := []broker.Effect{
				broker.SaveAccount{Account: broker.Account{ID: "a-1"}},
				broker.SaveAccount{Account: account},
				broker.SaveJob{Job: queued, New: true},
				broker.SaveJob{Job: job},
				broker.Post{Transfer: deposit},
				broker.Post{Transfer: hold},
			}
			if err := books.Save(t.Context(), epoch, "1", first, map[string][]byte{"token/x": []byte("a-1")}, map[string][]byte{"h/1": []byte("x"), "h/2": []byte("y")}); err != nil {
				t.Fatal(err)
			}
			if err := books.Save(t.Context(), epoch, "2", []broker.Effect{broker.SaveLease{Lease: lease}, broker.SaveJob{Job: job}}, nil, map[string][]byte{"h/1": []byte("z"), "h/2": nil}); err != nil {
				t.Fatal(err)
			}
			st, err := books.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var transfers []broker.Transfer
			for x, err := range st.Transfers {
				if err != nil {
					t.Fatal(err)
				}
				transfers = append(transfers, x)
			}
			for _, c := range []struct{ got, want any }{
				{st.Accounts, []broker.Account{account}},
				{st.Jobs, []broker.Job{job}},
				{st.Leases, []broker.Lease{lease}},
				{transfers, []broker.Transfer{deposit, hold}},
			} {
				if !reflect.DeepEqual(c.got, c.want) {
					t.Errorf("loaded %+v\nwant %+v", c.got, c.want)
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
	post := func(t broker.Transfer, amount pricing.Money, seq uint64) broker.Effect {
		t.Amount, t.Seq = amount, seq
		return broker.Post{Transfer: t}
	}
	tests := map[string]struct {
		effects []broker.Effect
		want    string // empty: all is well
	}{
		"right":                 {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 2)}, ""},
		"a cent too much":       {[]broker.Effect{account(7), post(in, 10, 1), post(fee, 4, 2)}, "add up to"},
		"transfer missing":      {[]broker.Effect{account(6), post(in, 10, 1), post(fee, 4, 3)}, "expected number 2"},
		"below zero on the way": {[]broker.Effect{account(6), post(fee, 4, 1), post(in, 10, 2)}, "falls to"},
		"nothing moved":         {[]broker.Effect{account(0), post(in, 0, 1)}, "transfer 1 of"},
		"backwards":             {[]broker.Effect{account(-5), post(in, -5, 1)}, "transfer 1 of"},
		"nobody's money":        {[]broker.Effect{post(in, 10, 1)}, "does not exist"},
		"money from nothing":    {[]broker.Effect{account(5)}, "add up to"},
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
	books := ledger.Books{Store: new(ledger.Memory)}
	epoch, err := books.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job := aJob(t)
	job.Envelope[len(job.Envelope)-1] ^= 1
	if err := books.Save(t.Context(), epoch, "1", []broker.Effect{broker.SaveJob{Job: job, New: true}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := books.Load(t.Context()); err != nil || !reflect.DeepEqual(st.Jobs, []broker.Job{job}) {
		t.Errorf("loaded %+v, %v; want %+v", st.Jobs, err, job)
	}
	if _, err := ledger.Audit(t.Context(), books.Store); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "spec/j-1") {
		t.Errorf("audit: %v, want ErrCorrupt that names the spec", err)
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
	for _, encode := range []func() (ledger.Mutation, error){
		func() (ledger.Mutation, error) { return ledger.Job(job) },
		func() (ledger.Mutation, error) { return ledger.Lease(lease) },
	} {
		if m, err := encode(); err != nil || len(m.Value) > ledger.MaxValue {
			t.Errorf("%s has %d bytes, %v; at most %d fit", m.Key, len(m.Value), err, ledger.MaxValue)
		}
	}
}
