package service

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/ledger"
	"rialto/broker/markettest"
	"rialto/broker/wire"
)

// archived is a service that does not run, on a store with jobs of two accounts, every other one open.
func archived(t *testing.T) (*Service, *ledger.Books) {
	t.Helper()
	books := &ledger.Books{Store: new(ledger.Memory)}
	epoch, err := books.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := mustKey(t)
	s := &Service{c: Config{Store: books}, view: newView()}
	var effects []broker.Effect
	for i := range 7 {
		for _, account := range []broker.AccountID{"a", "b"} {
			j := broker.Job{
				ID: broker.JobID(fmt.Sprint(account, i)), Account: account, State: broker.JobDone, Accepted: time.Unix(int64(i), 0).UTC(),
				Spec: markettest.Spec(string(key.ID()), fmt.Sprint(account, i)),
			}
			j.Spec.Broker = broker.PeerID(key.ID())
			if j.Envelope, err = wire.SealJobSpec(key, j.Spec); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				j.State = broker.JobQueued
				s.view.saveJob(j)
			}
			effects = append(effects, broker.SaveJob{Job: j, New: true})
		}
	}
	if err := books.Save(t.Context(), epoch, "1", effects, nil, nil); err != nil {
		t.Fatal(err)
	}
	return s, books
}

// TestPagesOfJobs reads an account's jobs, open and over, in pages of every size while another account has jobs too.
func TestPagesOfJobs(t *testing.T) {
	s, _ := archived(t)
	for most := 1; most <= 8; most++ {
		var got []broker.JobID
		var before broker.JobID
		for more := true; more; {
			page, older, err := s.jobsBefore(t.Context(), "a", before, most)
			if err != nil || len(page) > most || older && len(page) < most {
				t.Fatalf("page of %d before %q: %d jobs, %v", most, before, len(page), err)
			}
			for _, j := range page {
				got = append(got, j.ID)
			}
			more, before = older, got[len(got)-1]
		}
		if fmt.Sprint(got) != "[a6 a5 a4 a3 a2 a1 a0]" {
			t.Errorf("pages of %d: %v", most, got)
		}
	}
	if _, _, err := s.jobsBefore(t.Context(), "a", "b3", 1); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("another account's job as cursor: %v", err)
	}
	if page, more, err := s.jobsBefore(t.Context(), "c", "", 5); len(page) != 0 || more || err != nil {
		t.Errorf("an account without jobs: %v, %v, %v", page, more, err)
	}
}

// TestWhatIsNotShownYet: a job that is open in the store, and that readers were not shown, is not there for them.
func TestWhatIsNotShownYet(t *testing.T) {
	s, _ := archived(t)
	delete(s.view.jobs, "a4")
	if _, err := s.job(t.Context(), "a", "a4"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a job that is not shown yet: %v", err)
	}
	page, _, err := s.jobsBefore(t.Context(), "a", "", 3)
	if err != nil || len(page) != 2 || page[0].ID != "a6" || page[1].ID != "a5" {
		t.Errorf("page: %+v, %v", page, err)
	}
	if j, changed, err := s.watch(t.Context(), "a", "a3"); err != nil || changed != nil || j.State != broker.JobDone {
		t.Errorf("watching what is over: %+v, %v, %v", j, changed, err)
	}
	if _, changed, err := s.watch(t.Context(), "a", "a2"); err != nil || changed == nil {
		t.Errorf("watching what is open: %v, %v", changed, err)
	}
	if _, err := s.job(t.Context(), "b", "a3"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("another account's job: %v", err)
	}
}
