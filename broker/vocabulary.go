package broker

import (
	"slices"
	"strings"
	"time"

	"rialto/blockstore"
	"rialto/pricing"
	"rialto/tunnel"
)

// PeerID names a party (customer, provider or broker): the libp2p peer id of its Ed25519 key.
type PeerID string

// AccountID names a customer's account at a broker.
type AccountID string

// OfferID names an offer: unique per provider and GPU model, stable across re-sends.
type OfferID string

// JobID names an accepted job: "j-" and 26 lower-case base32 characters.
type JobID string

// LeaseID names one attempt to place a job on a provider: "l-" and 26 lower-case base32 characters.
type LeaseID string

// Level says how far a GPU's description has been proved.
type Level uint8

// Levels of proof, weakest first. A simulated GPU never rises above LevelClaimed.
const (
	LevelClaimed Level = iota // the provider's word
	LevelNVML                 // read by the agent through NVML
)

// GPU is a provider's description of one GPU: the claim that the matcher reads.
type GPU struct {
	UUID          string // NVML's "GPU-…"; "SIM-…" when simulated
	Model         string // canonical name, such as "RTX 4090"
	MemoryMiB     uint64
	Driver        string // driver version; empty when simulated
	CUDA          string // highest CUDA version of the driver, such as "13.0"; empty when simulated
	ComputeMajor  int    // CUDA compute capability
	ComputeMinor  int
	PCIBus        string // such as "00000000:01:00.0"
	PowerLimitMW  uint64
	Level         Level
	Simulated     bool
	DeviceMinor   int    // /dev/nvidiaN; -1 when there is no device node
	Busy          bool   // a process that is not ours holds the GPU
	UnusableCause string // why the GPU cannot be leased now; empty when it can
}

// ImageHeld says that a provider holds every block of an image and will serve them to peers.
type ImageHeld struct {
	Digest string // digest of the platform's OCI image manifest, "sha256:…"
	Root   string // CID of the image's root
}

// Offer is what a provider sells: GPUs of one model on one host at one price.
type Offer struct {
	ID        OfferID
	Provider  PeerID
	Host      string       // display name that the owner chose
	Region    string       // ISO 3166-1 alpha-2 country code, or empty
	GPUs      []GPU        // all of one model
	Free      []string     // UUIDs that can be leased now
	Rate      pricing.Rate // nanodollars per GPU-hour, on demand
	CPUs      int          // whole cores per GPU granted to a job
	MemoryMiB uint64       // host memory per GPU granted to a job
	DiskMiB   uint64       // that a job can write
	Images    []ImageHeld
	Weights   []string // CIDs of weight roots held
	Addrs     []string // multiaddrs with /p2p/ for block exchange
	Agent     string   // agent version

	// ReservedRate is the price per GPU-hour, below Rate, for a job that commits to a term of at least ReservedMin. Zero:
	// there is none. See [JobSpec.Reserve].
	ReservedRate pricing.Rate
	ReservedMin  time.Duration
	// MinBid is the least bid per GPU-hour of an interruptible job that takes these GPUs; zero: on-demand only. See [JobSpec].Bid.
	MinBid pricing.Rate
	Tariff Tariff // what the host charges for beside its GPUs
}

// Simulated reports whether any GPU of the offer is simulated.
func (o *Offer) Simulated() bool {
	for _, g := range o.GPUs {
		if g.Simulated {
			return true
		}
	}
	return false
}

// Level returns how far the least proved GPU of the offer is.
func (o *Offer) Level() Level {
	least := LevelClaimed
	for i, g := range o.GPUs {
		if i == 0 || g.Level < least {
			least = g.Level
		}
	}
	return least
}

// OfferSet is everything that a provider offers, sent whole whenever it changes.
// A set with a lower sequence than one seen from the same boot is ignored.
type OfferSet struct {
	Boot   string // random per agent process
	Seq    uint64
	Offers []Offer
}

// OwnerAsk is what an owner wants of one broker for a host, beside what the host's agent offers there. The agent is the
// authority over its prices: one below the agent's has no effect, and what it asks of who commits to a term stays.
type OwnerAsk struct {
	Unlisted bool         `json:"unlisted,omitempty"` // the host's offers are not shown and get no jobs; leases go on
	Rate     pricing.Rate `json:"rate,omitempty"`     // per GPU-hour, if higher than the agent's; zero: the agent's
	Tariff   Tariff       `json:"tariff,omitzero"`    // each part likewise
}

// Validate returns a [*FieldError] for a price that no offer may have.
func (k *OwnerAsk) Validate() error {
	var c checker
	c.that(k.Rate >= 0 && k.Rate <= maxRate, "rate", "%v: want $0.00/h to %v", k.Rate, maxRate)
	k.Tariff.check(&c, "tariff")
	return c.err
}

// On returns an agent's offer at the prices that its owner asks.
func (k *OwnerAsk) On(o Offer) Offer {
	o.Rate, o.Tariff = max(o.Rate, k.Rate), o.Tariff.raised(k.Tariff)
	return o
}

// GPURequest is what a job asks for.
type GPURequest struct {
	Model        string // canonical model, or "any"
	Count        int    // 1…16
	MinMemoryMiB uint64 // per GPU; zero: any
}

// WeightsMount puts a directory of weights into the container, read-only.
type WeightsMount struct {
	Name string // the customer's name for it
	Root string // CID of its tree
	Path string // absolute path in the container
	// Private says that the blocks are encrypted: the customer brings the key to the leased host.
	Private bool
}

// localImages begins the name of an image that no registry has.
const localImages = "local/"

// LocalImage returns the image that a customer brought under a name from his own machine.
func LocalImage(name string) string { return localImages + name }

// IsLocalImage reports whether no registry has an image: its blocks came from its customer's machine, and hosts need
// its root to ask for them.
func IsLocalImage(image string) bool { return strings.HasPrefix(image, localImages) }

// JobSpec is what a customer signs. Nobody but the customer can change what runs: a host takes the image's files
// from Root, for which the customer vouches, or from an import of the layers that Digest names.
type JobSpec struct {
	Image       string            // reference with registry, as the customer wrote it, or a local image
	Digest      string            // digest of the OCI manifest or index that Image resolved to
	Root        string            // CID of the image's root that the customer vouches for; empty: hosts import it from its registry
	Command     []string          // replaces the image's entrypoint and command when not empty
	Env         map[string]string // added to the image's
	Workdir     string            // empty: the image's
	GPU         GPURequest
	MemoryMiB   uint64        // zero: what the offer grants
	CPUs        int           // zero: what the offer grants
	MaxRate     pricing.Rate  // highest rate per GPU-hour; zero: no limit but the hold
	MaxCost     pricing.Money // never bill more; also the hold
	MaxDuration time.Duration // the job is ended after this long ready
	Region      string        // empty: any
	Provider    PeerID        // empty: any
	Weights     []WeightsMount
	TunnelKey   tunnel.Key // the customer's end, fresh per job
	Customer    PeerID     // must equal the signer
	Broker      PeerID     // the broker that may accept it
	Created     time.Time
	Nonce       string // makes equal specs differ
	Where       string // what else the offer must satisfy, as [ParseFilter] reads it; empty: anything
	// Private says that the blocks of a local image are encrypted: the customer brings the key to the leased host. Digest
	// is the root's own then, so that nobody learns the OCI manifest's.
	Private  bool
	WaitRate pricing.Rate // what an hour of waiting costs the customer beside the GPUs themselves; see [Cost]
	// Firm asks for a firm quote: the provider holds GPUs and price for so long, and nothing starts until the customer
	// accepts it. Zero: the job starts as soon as it can. See [FirmQuote].
	Firm time.Duration
	// GoodUntil makes the job a standing limit order: it waits until then for an offer at MaxRate or less, also while there
	// is none. Zero: a job that no provider takes fails after the market's queue timeout.
	GoodUntil time.Time
	// Nodes asks for a gang: so many hosts at once, each with GPU.Count GPUs, or none. Zero: one host. MaxCost is for all
	// of them. See [Member].
	Nodes      int  `json:",omitzero"`
	SameRegion bool `json:",omitzero"` // all hosts of the gang are in one region
	// Reserve is the term, from ready on, that the customer commits to wherever that earns the offer's reserved rate. It is
	// at most MaxDuration. See [Offer.RateFor].
	Reserve time.Duration `json:",omitzero"`
	// Bid makes the job interruptible: it takes GPUs whose owner asks no higher bid, never pays more than this per
	// GPU-hour, and may be displaced by whoever pays more. Zero: on-demand. See the rules in spot.go.
	Bid pricing.Rate `json:",omitzero"`
	// DiskMiB is what the workload may write, 16 to [MaxDiskMiB]; zero: [UsualDiskMiB]. See [Tariff].
	DiskMiB uint64 `json:",omitzero"`
	// Traffic is how many bytes through its tunnel, each way, the customer pays for at most; zero: [UsualTraffic]. See
	// [Tariff].
	Traffic int64 `json:",omitzero"`
}

// PrivateRoots returns the roots that the job needs keys for, each once.
func (s *JobSpec) PrivateRoots() []string {
	var roots []string
	if s.Private {
		roots = append(roots, s.Root)
	}
	for _, w := range s.Weights {
		if w.Private && !slices.Contains(roots, w.Root) {
			roots = append(roots, w.Root)
		}
	}
	return roots
}

// GPULease is one leased GPU with its fencing epoch, which only grows.
type GPULease struct {
	UUID  string
	Epoch uint64
}

// BlockSource is a peer that holds blocks.
type BlockSource struct {
	Peer  PeerID
	Addrs []string
}

// Hold asks a provider to keep GPUs for a job and to start preparing. A hold that is not confirmed
// within TTL lapses.
type Hold struct {
	Lease   LeaseID
	Job     JobID
	Offer   OfferID
	Rate    pricing.Rate // per GPU-hour, as offered
	Spec    []byte       // envelope signed by the customer
	Bid     []byte       // envelope of the newest [BidChange], by the same; empty: the spec's bid
	TTL     time.Duration
	Sources []BlockSource    // peers that hold blocks of image or weights
	Rank    int              // of the job in its gang
	Tariff  Tariff           // as offered
	Trace   blockstore.Trace // what runs like this one read first of the image, as far as providers told; a hint
}

// Grant is a provider's acceptance of a hold. The customer verifies its signature.
type Grant struct {
	Lease     LeaseID
	Job       JobID
	GPUs      []GPULease
	TunnelKey tunnel.Key // the provider's end
	Endpoints []string   // UDP host:port of the provider's end, best first

	// Of a firm quote:
	Rate   pricing.Rate  // per GPU-hour: the provider's word for the price
	Firm   time.Duration // for so long after its answer the provider stands by it
	Tariff Tariff
}

// Answer is a provider's reply to a hold: a grant, or the reason of a refusal.
type Answer struct {
	Lease   LeaseID
	Grant   *Grant
	Refusal string
}

// Confirm turns a hold into a lease. The container starts when image and tunnel are prepared.
type Confirm struct {
	Lease       LeaseID
	TTL         time.Duration // the lease ends unless renewed within this time
	MaxDuration time.Duration // the workload ends after this long ready
}

// Release ends a hold or lease.
type Release struct {
	Lease  LeaseID
	Reason string
}

// Phase is where a workload stands on its provider.
type Phase uint8

// Phases in order. Exited and Broken are final.
const (
	PhasePreparing Phase = iota + 1 // fetching blocks, building the sandbox
	PhaseReady                      // the workload's process runs and its probe passed; the meter runs
	PhaseExited                     // the workload ended by itself or by request
	PhaseBroken                     // it never became ready, or its sandbox was lost
)

// Fetched counts the bytes of image and weights by where they came from.
type Fetched struct {
	Local    int64 // already on the host
	Peers    int64
	Registry int64
	Total    int64       // zero: not known yet
	From     []PeerBytes // who served what of Peers, as [TopPeers] leaves it
}

// Report is a provider's signed word about a lease. It renews the lease, and its usage is the meter.
type Report struct {
	Lease    LeaseID
	GPUs     []GPULease
	Seq      uint64 // grows with each new report of the lease
	Phase    Phase
	ExitCode int           // with PhaseExited
	Message  string        // with PhaseBroken, why a workload was ended that did not end by itself, and while it runs what is not as its customer expects
	Used     time.Duration // ready time so far, by the provider's monotonic clock
	Fetched  Fetched
	Steps    []Step      // the provider's part of the start-up timeline
	Held     []ImageHeld // images that became whole on the host
	// HostFault, with PhaseBroken, says that the workload never became ready through no fault of its image or
	// spec: another host may well run it.
	HostFault bool
	Traffic   Traffic // so far; it never shrinks
}

// TraceReport is a provider's signed word about which blocks of its image a lease's workload read first. It is a hint for
// later runs, sent once and apart from a [Report]: nothing depends on its arrival, and no bill keeps it.
type TraceReport struct {
	Lease LeaseID
	Root  string // CID of the image's root, whose blocks the trace numbers
	Trace blockstore.Trace
}

// PoisonReport is a provider's signed word that a peer sent it bytes that do not hash to the block that it asked for.
// Nothing that costs or earns anything depends on it; see rialto/broker/service for what it is good for.
type PoisonReport struct {
	Lease   LeaseID // a lease of the reporter whose hold named the peer; empty: none
	Accused PeerID
	Want    string // CID of the block that was asked for; empty: not known, because Bitswap's answers do not say
	Got     string // digest of what came
	Size    int64  // bytes of what came
	Time    time.Time
}

// Advice answers an [OfferSet]: what a broker knows that should decide what its provider keeps, and what others say of
// the provider. It is a hint, and holds for TTL.
type Advice struct {
	Boot       string // of the set that it answers
	Seq        uint64
	TTL        time.Duration
	Roots      []RootAdvice
	Accusers   int           // hosts that lately said that the provider sent them wrong blocks
	Distrusted time.Duration // for so long it is not named as a source of blocks; zero: it is
}

// RootAdvice is about one image or weights that a provider holds.
type RootAdvice struct {
	Root         string // CID
	Replicas     int    // other providers that hold it
	LastInRegion bool   // none of them is in the provider's region
	Keeper       bool   // the provider is one of those in its region that keep it longest; see blockstore.Keeper
}

// Step is one part of a job's start-up timeline.
type Step struct {
	Name  string        // such as "image"
	Start time.Duration // since the hold arrived
	Took  time.Duration
}

// Renewal is the broker's answer to a report.
type Renewal struct {
	Lease LeaseID
	TTL   time.Duration // zero: the lease is over, tear it down
	Seq   uint64        // the report that this acknowledges; it is durable
	// Preempt is how long the workload may still run, because another displaces it; zero: none does.
	Preempt time.Duration
}

// Receipt is the final bill of a lease, signed by the broker over the provider's last report.
type Receipt struct {
	Job      JobID
	Lease    LeaseID
	Customer PeerID
	Provider PeerID
	GPUs     []GPULease
	Model    string
	Rate     pricing.Rate // per GPU-hour
	Ready    time.Time    // by the broker's clock; zero: never
	Ended    time.Time
	Used     time.Duration // by the provider's meter
	Billed   time.Duration // corroborated, at most Used
	Cost     pricing.Money // what the customer paid
	Fee      pricing.Money // the broker's part of Cost
	Fetched  Fetched
	ExitCode int
	Report   []byte // envelope of the provider's last report

	// Of a reservation that ended before its term: what was left of it, and what of Cost that is. Cost is that of Billed
	// and Unused together, rounded once.
	Unused     time.Duration
	UnusedCost pricing.Money

	Tariff      Tariff
	DiskMiB     uint64        // that the tariff was applied to; zero: it has no price
	Traffic     Traffic       // by the host's count
	DiskCost    pricing.Money // what of Cost is for the disk
	TrafficCost pricing.Money // what of Cost is for the traffic that the customer pays for
}
