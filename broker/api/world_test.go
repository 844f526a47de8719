package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/api"
	"rialto/pricing"
)

const (
	ownerToken = "rialto_owner"
	otherToken = "rialto_other"
	adminToken = "rialto_admin"
	owner      = broker.AccountID("a-owner")
	other      = broker.AccountID("a-other")
	jobID      = broker.JobID("j-1")

	readyDigest, failedDigest, unknownDigest = "sha256:1", "sha256:2", "sha256:3"
)

// market is a Market with one job of one owner.
type market struct {
	ready error
	pause time.Duration // before the first event
	forge bool          // receipts

	mu      sync.Mutex
	query   broker.Query
	submits []string // idempotency keys
}

func (m *market) Ready() error { return m.ready }

func (m *market) Search(_ context.Context, q broker.Query) (broker.Search, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.query = q
	if q.GPU.Model == "RTX 409" {
		return broker.Search{}, &broker.FieldError{Field: "gpu.model", Problem: "not known", Nearest: "RTX 4090"}
	}
	return broker.Search{
		Offers: 2, Applied: []string{"gpu any"}, Eliminated: []broker.Elimination{{Predicate: "max rate", Count: 1, Nearest: "$0.40/h"}},
		Matches: []broker.Match{{Offer: broker.Offer{
			ID: "o1", Host: "alpha", Rate: 400_000_000, GPUs: []broker.GPU{{Model: "RTX 4090", MemoryMiB: 24564, Simulated: true}},
		}, Free: 1}},
	}, nil
}

func (m *market) Quote(context.Context, broker.QuoteRequest) (broker.Quote, error) {
	return broker.Quote{}, &broker.NoOfferError{Search: broker.Search{Offers: 1}}
}

func (m *market) Submit(_ context.Context, _ broker.AccountID, key string, _ []byte) (broker.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.submits = append(m.submits, key)
	switch key {
	case "poor":
		return broker.Job{}, fmt.Errorf("hold: %w", broker.ErrNoFunds)
	case "broken":
		return broker.Job{}, fmt.Errorf("secret path /x")
	}
	return broker.Job{ID: jobID, Account: owner, State: broker.JobQueued}, nil
}

func (m *market) mine(a broker.AccountID, id broker.JobID) error {
	if a != owner || id != jobID {
		return fmt.Errorf("job %q: %w", id, broker.ErrNotFound)
	}
	return nil
}

func (m *market) Jobs(_ context.Context, a broker.AccountID, before broker.JobID, most int) ([]broker.Job, bool, error) {
	jobs := []broker.Job{{ID: jobID, Account: owner, State: broker.JobReady}, {ID: "j-0", Account: owner, State: broker.JobDone, ExitCode: 3}}
	switch {
	case a != owner || most < 1:
		return nil, false, nil
	case before == "":
		return jobs[:1], true, nil // a page is never full
	case before == jobID:
		return jobs[1:], false, nil
	}
	return nil, false, &broker.FieldError{Field: "cursor", Problem: "no job of this account"}
}

func (*market) Ahead(ids ...broker.JobID) []int {
	return slices.Repeat([]int{3}, len(ids))
}

func (m *market) Job(_ context.Context, a broker.AccountID, id broker.JobID) (broker.Job, error) {
	if rank := slices.Index([]broker.JobID{"g-1", broker.MemberID("g-1", 1)}, id); rank >= 0 && a == owner {
		return broker.Job{
			ID: id, Account: owner, State: []broker.JobState{broker.JobDone, broker.JobReady}[rank], Hold: pricing.USD, Spec: broker.JobSpec{Nodes: 2},
			Member: broker.Member{Gang: "g-1", Rank: rank, Started: time.Unix(1, 0)},
		}, nil
	}
	return broker.Job{ID: jobID, Account: owner, State: broker.JobReady, Lease: "l-1"}, m.mine(a, id)
}

func (m *market) Cancel(_ context.Context, a broker.AccountID, id broker.JobID, _ string) (broker.Job, error) {
	return broker.Job{ID: jobID, Account: owner, State: broker.JobCancelled}, m.mine(a, id)
}

func (m *market) ChangeBid(_ context.Context, a broker.AccountID, id broker.JobID, envelope []byte) (broker.Job, error) {
	if string(envelope) != "signed" {
		return broker.Job{}, &broker.JobError{Op: "change the bid of", Job: id, Err: broker.ErrConflict}
	}
	return broker.Job{ID: jobID, Account: owner, State: broker.JobQueued, Spec: broker.JobSpec{Bid: 7, MaxCost: 9}}, m.mine(a, id)
}

func (m *market) Events(ctx context.Context, _ broker.AccountID, _ broker.JobID, after uint64) iter.Seq2[broker.JobEvent, error] {
	return func(yield func(broker.JobEvent, error) bool) {
		if m.pause > 0 {
			select {
			case <-time.After(m.pause):
			case <-ctx.Done():
				yield(broker.JobEvent{}, ctx.Err())
				return
			}
		}
		for seq := after + 1; seq <= 3; seq++ {
			if !yield(broker.JobEvent{Seq: seq, State: broker.JobQueued, Text: fmt.Sprint("event\n", seq)}, nil) {
				return
			}
		}
	}
}

func (m *market) Lease(_ context.Context, a broker.AccountID, id broker.JobID) (broker.Lease, error) {
	return broker.Lease{ID: "l-1", Job: jobID, Host: "alpha", State: broker.LeaseActive, Answer: []byte("signed")}, m.mine(a, id)
}

func (m *market) Receipt(_ context.Context, a broker.AccountID, id broker.JobID) ([]byte, error) {
	if err := m.mine(a, id); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("no receipt yet: %w", broker.ErrNotFound)
}

func (m *market) Image(_ context.Context, digest string) (broker.ImageBuild, error) {
	switch digest {
	case readyDigest:
		return broker.ImageBuild{Digest: digest, State: broker.BuildReady, Root: "bafy", Bytes: 7, Done: 7, Built: time.Unix(1, 0)}, nil
	case failedDigest:
		return broker.ImageBuild{Digest: digest, State: broker.BuildFailed, Error: "no such image"}, nil
	case unknownDigest:
		return broker.ImageBuild{}, fmt.Errorf("image %s: %w", digest, broker.ErrNotFound)
	}
	return broker.ImageBuild{}, &broker.FieldError{Field: "digest", Problem: "not a digest"}
}

func (m *market) BuildImage(ctx context.Context, _ broker.AccountID, image, digest string) (broker.ImageBuild, error) {
	known, err := m.Image(ctx, digest)
	if !errors.Is(err, broker.ErrNotFound) {
		return known, err
	}
	if image == "busy" {
		return known, fmt.Errorf("16 images wait: %w", broker.ErrUnavailable)
	}
	return broker.ImageBuild{Digest: digest, State: broker.BuildRunning, Bytes: 9, Done: 2}, nil
}

func (m *market) Traces(ctx context.Context, digest string) ([]broker.TracedCommand, error) {
	if _, err := m.Image(ctx, digest); errors.Is(err, broker.ErrInvalid) {
		return nil, err
	}
	if digest != readyDigest {
		return nil, nil
	}
	return []broker.TracedCommand{{Command: "c0", Runs: 2, Blocks: 3, Updated: time.Unix(1, 0)}}, nil
}

func (m *market) Trace(_ context.Context, digest, command string) (blockstore.Trace, error) {
	if digest != readyDigest || command != "c0" {
		return nil, fmt.Errorf("runs: %w", broker.ErrNotFound)
	}
	return blockstore.Trace{4, 0, 2}, nil
}

func (m *market) Authenticate(token string) (broker.AccountID, error) {
	switch token {
	case ownerToken:
		return owner, nil
	case otherToken:
		return other, nil
	}
	return "", broker.ErrForbidden
}

func (m *market) Account(_ context.Context, id broker.AccountID) (broker.Account, error) {
	return broker.Account{ID: id, Available: 5 * pricing.USD}, nil
}

func (m *market) Accounts(context.Context) ([]broker.Account, error) {
	return []broker.Account{{ID: owner}, {ID: other}}, nil
}

func (m *market) Accused(context.Context) ([]broker.Accused, error) {
	return []broker.Accused{{Peer: "bad", Accusers: 2, Until: time.Unix(9, 0).UTC(), Accusations: []broker.Accusation{
		{Accuser: "a", Lease: "l-1", Want: "b", Got: "sha256:c", Size: 7, At: time.Unix(8, 0).UTC(), Times: 3, Counts: true},
	}}}, nil
}

func (m *market) BindKey(_ context.Context, id broker.AccountID, key broker.PeerID) (broker.Account, error) {
	return broker.Account{ID: id, Key: key}, nil
}

func (m *market) SetLimits(_ context.Context, id broker.AccountID, l broker.Limits) (broker.Account, error) {
	if l.Job > l.Total {
		return broker.Account{}, &broker.LimitError{Account: id, Limit: "in all", Most: l.Total, Need: l.Job}
	}
	return broker.Account{ID: id, Limits: l}, nil
}

func (m *market) OpenAccount(_ context.Context, name string, deposit *pricing.Money) (broker.Account, string, error) {
	a := broker.Account{ID: "a-new", Name: name}
	if deposit != nil {
		a.Available = *deposit
	}
	return a, "rialto_new", nil
}

func (m *market) OpenCustodial(ctx context.Context, name string, deposit *pricing.Money) (broker.Account, string, error) {
	a, token, err := m.OpenAccount(ctx, name, deposit)
	a.Custodial = true
	return a, token, err
}

func (m *market) Deposit(_ context.Context, id broker.AccountID, amount pricing.Money, ref string) (broker.Account, error) {
	if ref != "payment 1" {
		return broker.Account{}, fmt.Errorf("deposit %s: %w", ref, broker.ErrConflict)
	}
	return broker.Account{ID: id, Available: amount}, nil
}

func (m *market) OwnerToken(_ context.Context, provider broker.PeerID) (string, error) {
	if provider != "12D3owned" {
		return "", &broker.FieldError{Field: "provider", Problem: "no peer id"}
	}
	return "rialto_owner", nil
}

// start serves a market and returns its address.
func start(t *testing.T, m api.Market, blocks api.Blocks) string {
	t.Helper()
	s, err := api.New(api.Config{
		Market: m, Blocks: blocks, AdminToken: adminToken, BlockQuota: 1 << 20,
		Info: func() api.MarketInfo { return api.MarketInfo{Broker: "12D3", FeePPM: 7, Version: "v1"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv.URL
}

func client(t *testing.T, url, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(url, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ask sends a raw request.
func ask(t *testing.T, method, url, token, body string, header ...string) (int, http.Header, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var decoded map[string]any
	if method != http.MethodHead && strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.NewDecoder(resp.Body).Decode(&decoded); err != nil {
			t.Fatalf("%s %s: %v", method, url, err)
		}
	}
	return resp.StatusCode, resp.Header, decoded
}

func (m *market) FirmQuote(ctx context.Context, a broker.AccountID, key string, spec []byte) (broker.Job, error) {
	if _, err := m.Submit(ctx, a, key, spec); err != nil {
		return broker.Job{}, err
	}
	return quotedJob(), nil
}

func (m *market) AcceptQuote(_ context.Context, a broker.AccountID, id broker.JobID) (broker.Job, error) {
	if a == owner && id == "j-late" {
		return broker.Job{}, &broker.JobError{Op: "accept quote of", Job: id, Err: broker.ErrJobTerminal}
	}
	j := quotedJob()
	j.State = broker.JobLeased
	return j, m.mine(a, id)
}

func (m *market) DropQuote(_ context.Context, a broker.AccountID, id broker.JobID) (broker.Job, error) {
	j := quotedJob()
	j.State = broker.JobCancelled
	return j, m.mine(a, id)
}

func quotedJob() broker.Job {
	return broker.Job{
		ID: jobID, Account: owner, State: broker.JobQuoted, Lease: "l-1", Hold: pricing.USD,
		Spec:  broker.JobSpec{Firm: 15 * time.Second, MaxDuration: 2 * time.Hour, GPU: broker.GPURequest{Count: 2}},
		Quote: broker.FirmQuote{Rate: 400_000_000, Until: time.Now().Add(15 * time.Second)},
	}
}
