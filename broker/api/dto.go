package api

import (
	"time"

	"rialto/broker"
)

// JSON shapes. Amounts are integers whose field name carries the unit; states are words; times are
// RFC 3339; a field that may be missing is omitted when it is zero.
type (
	// MarketInfo says whom one deals with.
	MarketInfo struct {
		Broker         string   `json:"broker" doc:"peer id of the broker; jobs are signed for it"`
		FeePPM         int64    `json:"fee_ppm" doc:"the broker's part of a bill, in millionths"`
		AllowSimulated bool     `json:"allow_simulated" doc:"whether offers of simulated GPUs are admitted"`
		Addrs          []string `json:"addrs" doc:"multiaddrs at which agents and peers reach the broker"`
		Version        string   `json:"version"`
	}

	// QuoteRequest asks what a job would cost.
	QuoteRequest struct {
		Query
		MaxCostNanoUSD int64 `json:"max_cost_nanousd,omitempty" minimum:"0"`
		DurationMS     int64 `json:"duration_ms" minimum:"1" maximum:"31622400000"`
	}
	// Quote is the price of a job on the best offer of the moment. It holds nothing.
	Quote struct {
		Best               Offer  `json:"best"`
		RateNanoUSDPerHour int64  `json:"rate_nanousd_per_hour" doc:"all GPUs of the job"`
		CostNanoUSD        int64  `json:"cost_nanousd" doc:"for the whole duration, with disk and all the traffic"`
		HoldNanoUSD        int64  `json:"hold_nanousd" doc:"what would be kept aside"`
		Search             Offers `json:"search"`

		Survival1h *Survival `json:"survival_1h,omitempty" doc:"of a bid: how likely its lease is not displaced within an hour; missing: on-demand, or not known"`
		Fill10m    *Fill     `json:"fill_10m,omitempty" doc:"of a bid: how likely it gets a host within ten minutes; likewise"`
	}

	// SubmitRequest carries a signed job spec.
	SubmitRequest struct {
		Spec []byte `json:"spec" minLength:"4" maxLength:"1398104" doc:"envelope of the job spec, base64"`
	}
	// ChangeBidRequest carries what an interruptible job bids from now on.
	ChangeBidRequest struct {
		Change []byte `json:"change" minLength:"4" maxLength:"1368" doc:"envelope of the change, base64"`
	}
	// Job is a request and all that became of it.
	Job struct {
		ID            string     `json:"id"`
		State         string     `json:"state" enum:"queued,holding,quoted,leased,ready,running,done,failed,expired,cancelled,preempted"`
		Image         string     `json:"image"`
		Digest        string     `json:"digest"`
		Command       []string   `json:"command,omitempty"`
		GPUModel      string     `json:"gpu_model" doc:"as asked for"`
		GPUCount      int        `json:"gpu_count"`
		HeldNanoUSD   int64      `json:"held_nanousd" doc:"kept aside; zero once settled"`
		Lease         string     `json:"lease,omitempty"`
		Host          string     `json:"host,omitempty"`
		Provider      string     `json:"provider,omitempty"`
		CostNanoUSD   int64      `json:"cost_nanousd" doc:"so far, with disk and traffic"`
		BilledMS      int64      `json:"billed_ms" doc:"so far"`
		Simulated     bool       `json:"simulated"`
		ExitCode      *int       `json:"exit_code,omitempty" doc:"when done"`
		Error         string     `json:"error,omitempty" doc:"why it failed, expired, was cancelled or preempted"`
		Accepted      time.Time  `json:"accepted"`
		Ended         *time.Time `json:"ended,omitempty"`
		MaxDurationMS int64      `json:"max_duration_ms"`

		MaxRateNanoUSDPerHour int64      `json:"max_rate_nanousd_per_hour,omitempty" doc:"highest price of one GPU that the customer signed"`
		MaxCostNanoUSD        int64      `json:"max_cost_nanousd,omitempty" doc:"the most that it costs in all by its customer's word; missing: what its hold pays"`
		BidNanoUSDPerHour     int64      `json:"bid_nanousd_per_hour,omitempty" doc:"of an interruptible job: the most that it pays for one GPU"`
		RateNanoUSDPerHour    int64      `json:"rate_nanousd_per_hour,omitempty" doc:"of its lease, per GPU"`
		GoodUntil             *time.Time `json:"good_until,omitempty" doc:"a standing limit order: it waits until then for an offer at its highest price or less"`
		Ahead                 int        `json:"ahead,omitempty" doc:"while it is queued: jobs for the same GPUs that are served before it, because their accounts spent less lately or they came first"`

		Gang  string `json:"gang,omitempty" doc:"the job of rank 0, if several hosts run it: each of its nodes is a job"`
		Rank  int    `json:"rank,omitempty" doc:"of this job among the gang's nodes"`
		Nodes int    `json:"nodes,omitempty" doc:"hosts of the gang, all or none"`

		ReserveMS     int64      `json:"reserve_ms,omitempty" doc:"term that the customer commits to where that earns a reserved rate"`
		ReservedUntil *time.Time `json:"reserved_until,omitempty" doc:"end of the term of a job that became ready at a reserved rate: what is left of it when the customer or the container ends it is billed"`
		UnusedNanoUSD int64      `json:"unused_nanousd,omitempty" doc:"what of the cost that is. Until the term's end as many GPUs stay kept for the account: a job that names the provider uses them"`
		CoveredMS     int64      `json:"covered_ms,omitempty" doc:"what of billed_ms such a job did not have to pay"`

		DiskMiB      uint64 `json:"disk_mib" doc:"that the job may write"`
		TrafficBytes int64  `json:"traffic_bytes" doc:"that the customer pays for at most, each way. More is not billed, and slow on a host that charges for it"`
		Tariff              // of its lease
		Extras
	}
	// Gang is a job that several hosts run at once.
	Gang struct {
		ID          string     `json:"id" doc:"that of its first node; ending any node ends all"`
		State       string     `json:"state" enum:"queued,holding,quoted,leased,ready,running,done,failed,expired,cancelled,preempted" doc:"of the node that is furthest behind; when all have ended, done only if all are"`
		Started     *time.Time `json:"started,omitempty" doc:"when all hosts had granted and all were confirmed"`
		HeldNanoUSD int64      `json:"held_nanousd" doc:"kept aside for all nodes"`
		CostNanoUSD int64      `json:"cost_nanousd" doc:"of all nodes so far"`
		Extras                 // of all nodes so far
		Nodes       []Job      `json:"nodes" doc:"by rank"`
	}
	// Jobs is a page of jobs, newest first.
	Jobs struct {
		Jobs []Job  `json:"jobs"`
		Next string `json:"next,omitempty" doc:"cursor of the next page, if there are older jobs"`
	}
	// Event is one line of a job's history.
	Event struct {
		Seq   uint64    `json:"seq" doc:"without gaps"`
		Time  time.Time `json:"time"`
		State string    `json:"state"`
		Text  string    `json:"text" doc:"for people"`
	}

	// GPULease is one leased GPU with its fencing epoch.
	GPULease struct {
		UUID  string `json:"uuid"`
		Epoch uint64 `json:"epoch"`
	}
	// Step is one part of the start-up timeline.
	Step struct {
		Name    string `json:"name"`
		StartMS int64  `json:"start_ms" doc:"since the hold arrived"`
		TookMS  int64  `json:"took_ms"`
	}
	// Fetched counts bytes of image and weights by where they came from.
	Fetched struct {
		LocalBytes    int64 `json:"local_bytes"`
		PeerBytes     int64 `json:"peer_bytes"`
		RegistryBytes int64 `json:"registry_bytes"`
		TotalBytes    int64 `json:"total_bytes" doc:"zero: not known yet"`

		From []PeerBytes `json:"from,omitempty" doc:"who served what came from peers, by the provider's word; at most 16, the most first"`
	}
	// PeerBytes is what one peer served.
	PeerBytes struct {
		Peer  string `json:"peer"`
		Bytes int64  `json:"bytes"`
	}
	// Lease is one provider's GPUs for one job.
	Lease struct {
		ID                 string     `json:"id"`
		Job                string     `json:"job"`
		State              string     `json:"state" enum:"holding,granted,active,ending,ended"`
		Provider           string     `json:"provider"`
		Host               string     `json:"host"`
		Model              string     `json:"model"`
		GPUs               []GPULease `json:"gpus"`
		RateNanoUSDPerHour int64      `json:"rate_nanousd_per_hour" doc:"per GPU"`
		Answer             []byte     `json:"answer,omitempty" doc:"the provider's signed answer, base64: verify it before you use the tunnel"`
		Granted            *time.Time `json:"granted,omitempty"`
		Ready              *time.Time `json:"ready,omitempty"`
		Ended              *time.Time `json:"ended,omitempty"`
		UsedMS             int64      `json:"used_ms" doc:"by the provider's meter"`
		BilledMS           int64      `json:"billed_ms" doc:"corroborated so far"`
		ReservedUntil      *time.Time `json:"reserved_until,omitempty" doc:"end of the term, if the lease is ready at a reserved rate"`
		CostNanoUSD        int64      `json:"cost_nanousd" doc:"so far, with disk and traffic"`
		Fetched            Fetched    `json:"fetched"`
		Steps              []Step     `json:"steps"`
		Simulated          bool       `json:"simulated"`
		Tariff
		Extras
	}
	// Receipt is the final bill of a lease.
	Receipt struct {
		Job                string     `json:"job"`
		Lease              string     `json:"lease"`
		Customer           string     `json:"customer"`
		Provider           string     `json:"provider"`
		Model              string     `json:"model"`
		GPUs               []GPULease `json:"gpus"`
		RateNanoUSDPerHour int64      `json:"rate_nanousd_per_hour" doc:"per GPU"`
		Ready              *time.Time `json:"ready,omitempty"`
		Ended              time.Time  `json:"ended"`
		UsedMS             int64      `json:"used_ms"`
		BilledMS           int64      `json:"billed_ms"`
		CostNanoUSD        int64      `json:"cost_nanousd"`
		UnusedMS           int64      `json:"unused_ms,omitempty" doc:"rest of a reserved term that the customer or the container did not use"`
		UnusedCostNanoUSD  int64      `json:"unused_cost_nanousd,omitempty" doc:"what of the cost that is"`
		FeeNanoUSD         int64      `json:"fee_nanousd" doc:"the broker's part of the cost"`
		Fetched            Fetched    `json:"fetched"`
		ExitCode           int        `json:"exit_code"`
		Envelope           []byte     `json:"envelope" doc:"the receipt as the broker signed it, base64"`
		DiskMiB            uint64     `json:"disk_mib,omitempty" doc:"that the tariff was applied to; missing: the disk has no price"`
		Tariff
		Extras
	}

	// Image is what the broker knows about the root of an image.
	Image struct {
		Digest    string     `json:"digest" doc:"of the OCI manifest or index"`
		State     string     `json:"state" enum:"ready,building,failed" doc:"ready: the broker vouches for the root"`
		Root      string     `json:"root,omitempty" doc:"CID of the image's root, when ready: the broker read the layers, and it is what they add up to"`
		Bytes     int64      `json:"bytes" doc:"of the layers, as the registry has them; zero: not known yet"`
		DoneBytes int64      `json:"done_bytes" doc:"of bytes, read so far"`
		BuiltAt   *time.Time `json:"built_at,omitempty"`
		Error     string     `json:"error,omitempty" doc:"why it failed, a moment ago"`
	}
	// ImageRequest asks the broker to vouch for an image.
	ImageRequest struct {
		Image  string `json:"image" minLength:"1" maxLength:"512" doc:"reference with registry"`
		Digest string `json:"digest" minLength:"1" maxLength:"128" doc:"of the OCI manifest or index, sha256:…"`
	}

	// TracedCommand is what is remembered of the runs of one command of an image.
	TracedCommand struct {
		Command   string    `json:"command" doc:"SHA-256 over the arguments, each behind its length in eight bytes; of none: the image's own"`
		Runs      int       `json:"runs" doc:"of different providers"`
		Blocks    int       `json:"blocks" doc:"that the longest of them read"`
		UpdatedAt time.Time `json:"updated_at" doc:"when the newest of them was leased"`
	}
	// Traces lists them, the newest first.
	Traces struct {
		Commands []TracedCommand `json:"commands"`
	}
	// Trace is what runs of one command read first.
	Trace struct {
		Command string   `json:"command"`
		Blocks  []uint32 `json:"blocks" doc:"numbers of blocks of the image's tree, in order"`
	}

	// Account is a customer's money and key.
	Account struct {
		ID               string `json:"id"`
		Name             string `json:"name"`
		Key              string `json:"key,omitempty" doc:"peer id of the key that may sign jobs; bound once"`
		AvailableNanoUSD int64  `json:"available_nanousd"`
		HeldNanoUSD      int64  `json:"held_nanousd"`
		PayableNanoUSD   int64  `json:"payable_nanousd" doc:"earned, a provider's"`
		SpentNanoUSD     int64  `json:"spent_nanousd"`
		Custodial        bool   `json:"custodial,omitempty" doc:"the broker holds the key and signs jobs for whoever shows the token"`

		Limits *Limits `json:"limits,omitempty" doc:"that the account set itself"`
	}
	// Limits bound what an account may spend; zero is no limit. Money that is held for jobs counts as spent.
	Limits struct {
		JobNanoUSD   int64 `json:"job_nanousd" minimum:"0" doc:"for one job"`
		DayNanoUSD   int64 `json:"day_nanousd" minimum:"0" doc:"charged since midnight UTC and held"`
		TotalNanoUSD int64 `json:"total_nanousd" minimum:"0" doc:"charged ever and held"`
	}
	// BindKeyRequest binds a key to the account.
	BindKeyRequest struct {
		Key string `json:"key" minLength:"1" maxLength:"128" doc:"peer id of an Ed25519 key"`
	}
	// OpenAccountRequest creates an account.
	OpenAccountRequest struct {
		Name           string `json:"name" minLength:"1" maxLength:"64"`
		DepositNanoUSD *int64 `json:"deposit_nanousd,omitempty" minimum:"0" doc:"the broker's grant unless given"`
		Custodial      bool   `json:"custodial,omitempty" doc:"the broker shall hold the account's key, for clients that cannot sign"`
	}
	// DepositRequest adds money to an account.
	DepositRequest struct {
		AmountNanoUSD int64  `json:"amount_nanousd" minimum:"1"`
		Ref           string `json:"ref" minLength:"1" maxLength:"128" doc:"names the payment: a deposit is made once per ref, however often it is sent"`
	}
	// OwnerToken speaks for a provider; it is shown this once.
	OwnerToken struct {
		Provider string `json:"provider" doc:"peer id"`
		Token    string `json:"token"`
	}
	// OpenedAccount is a new account with its token, which is shown this once.
	OpenedAccount struct {
		Account Account `json:"account"`
		Token   string  `json:"token"`
	}
	// Accounts is a list of accounts.
	Accounts struct {
		Accounts []Account `json:"accounts"`
	}
)

// jobOf joins a job with its current or last lease; the zero Lease means that there is none.
func jobOf(j broker.Job, l broker.Lease) Job {
	out := Job{
		ID: string(j.ID), State: j.State.String(), Image: j.Spec.Image, Digest: j.Spec.Digest, Command: j.Spec.Command,
		GPUModel: j.Spec.GPU.Model, GPUCount: j.Spec.GPU.Count, HeldNanoUSD: int64(j.Hold), Lease: string(j.Lease),
		Host: l.Host, Provider: string(l.Provider), CostNanoUSD: int64(l.Cost), BilledMS: l.Billed.Milliseconds(),
		Simulated: l.Simulated, Error: j.Error, Accepted: j.Accepted, Ended: stamp(j.Ended),
		MaxDurationMS: j.Spec.MaxDuration.Milliseconds(), MaxRateNanoUSDPerHour: int64(j.Spec.MaxRate), GoodUntil: stamp(j.Spec.GoodUntil),
		MaxCostNanoUSD:    int64(j.Spec.MaxCost),
		BidNanoUSDPerHour: int64(j.Spec.Bid), RateNanoUSDPerHour: int64(l.Rate),
		Gang: string(j.Member.Gang), Rank: j.Member.Rank, Nodes: j.Spec.Nodes,
		ReserveMS: j.Spec.Reserve.Milliseconds(), ReservedUntil: stamp(l.Until()), UnusedNanoUSD: int64(l.UnusedCost), CoveredMS: l.Covered.Milliseconds(),
		DiskMiB: j.Spec.Disk(), TrafficBytes: j.Spec.PaidTraffic(), Tariff: TariffOf(l.Tariff), Extras: ExtrasOf(l.Traffic, l.DiskCost, l.TrafficCost),
	}
	if j.State == broker.JobDone {
		out.ExitCode = new(j.ExitCode)
	}
	return out
}

func eventOf(e broker.JobEvent) Event {
	return Event{Seq: e.Seq, Time: e.Time, State: e.State.String(), Text: e.Text}
}

func leaseState(s broker.LeaseState) string {
	switch s {
	case broker.LeaseHolding:
		return "holding"
	case broker.LeaseGranted:
		return "granted"
	case broker.LeaseActive:
		return "active"
	case broker.LeaseEnding:
		return "ending"
	case broker.LeaseEnded:
		return "ended"
	}
	return "unknown"
}

func leaseOf(l broker.Lease) Lease {
	out := Lease{
		ID: string(l.ID), Job: string(l.Job), State: leaseState(l.State), Provider: string(l.Provider), Host: l.Host,
		Model: l.Model, GPUs: gpusOf(l.GPUs), RateNanoUSDPerHour: int64(l.Rate), Answer: l.Answer,
		Granted: stamp(l.Granted), Ready: stamp(l.Ready), Ended: stamp(l.Ended),
		UsedMS: l.Used.Milliseconds(), BilledMS: l.Billed.Milliseconds(), CostNanoUSD: int64(l.Cost),
		Fetched: fetchedOf(l.Fetched), Steps: []Step{}, Simulated: l.Simulated, ReservedUntil: stamp(l.Until()),
		Tariff: TariffOf(l.Tariff), Extras: ExtrasOf(l.Traffic, l.DiskCost, l.TrafficCost),
	}
	for _, s := range l.Steps {
		out.Steps = append(out.Steps, Step{Name: s.Name, StartMS: s.Start.Milliseconds(), TookMS: s.Took.Milliseconds()})
	}
	return out
}

func receiptOf(r broker.Receipt, envelope []byte) Receipt {
	return Receipt{
		Job: string(r.Job), Lease: string(r.Lease), Customer: string(r.Customer), Provider: string(r.Provider),
		Model: r.Model, GPUs: gpusOf(r.GPUs), RateNanoUSDPerHour: int64(r.Rate), Ready: stamp(r.Ready), Ended: r.Ended,
		UsedMS: r.Used.Milliseconds(), BilledMS: r.Billed.Milliseconds(), CostNanoUSD: int64(r.Cost),
		FeeNanoUSD: int64(r.Fee), Fetched: fetchedOf(r.Fetched), ExitCode: r.ExitCode, Envelope: envelope,
		UnusedMS: r.Unused.Milliseconds(), UnusedCostNanoUSD: int64(r.UnusedCost),
		DiskMiB: r.DiskMiB, Tariff: TariffOf(r.Tariff), Extras: ExtrasOf(r.Traffic, r.DiskCost, r.TrafficCost),
	}
}

func imageOf(b broker.ImageBuild) Image {
	return Image{
		Digest: b.Digest, State: string(b.State), Root: b.Root, Bytes: b.Bytes, DoneBytes: b.Done, BuiltAt: stamp(b.Built), Error: b.Error,
	}
}

func accountOf(a broker.Account) Account {
	return Account{
		ID: string(a.ID), Name: a.Name, Key: string(a.Key), AvailableNanoUSD: int64(a.Available),
		HeldNanoUSD: int64(a.Held), PayableNanoUSD: int64(a.Payable), SpentNanoUSD: int64(a.Spent), Custodial: a.Custodial,
		Limits: limitsOf(a.Limits),
	}
}

// limitsOf returns nil for none.
func limitsOf(l broker.Limits) *Limits {
	if l == (broker.Limits{}) {
		return nil
	}
	return &Limits{JobNanoUSD: int64(l.Job), DayNanoUSD: int64(l.Day), TotalNanoUSD: int64(l.Total)}
}

func gpusOf(gpus []broker.GPULease) []GPULease {
	out := make([]GPULease, len(gpus))
	for i, g := range gpus {
		out[i] = GPULease{UUID: g.UUID, Epoch: g.Epoch}
	}
	return out
}

func fetchedOf(f broker.Fetched) Fetched {
	out := Fetched{LocalBytes: f.Local, PeerBytes: f.Peers, RegistryBytes: f.Registry, TotalBytes: f.Total}
	for _, p := range f.From {
		out.From = append(out.From, PeerBytes{Peer: string(p.Peer), Bytes: p.Bytes})
	}
	return out
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
