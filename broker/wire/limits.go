package wire

import "rialto/blockstore"

// Limits of envelopes in bytes, enforced when sealing and opening, and the bounds to give to the streams that carry
// them. Together with the limits on lists they bound the work that a stranger's message can cause.
const (
	// MaxOfferSet is what an envelope may have at most. A host with 16 GPUs and 500 images takes about 100 KiB.
	MaxOfferSet = 1 << 20
	// MaxJobSpec fits a command with an inlined script; bigger inputs belong in the image or in weights.
	MaxJobSpec = 256 << 10
	// MaxBidChange fits six short fields.
	MaxBidChange = 1 << 10
	// MaxHold fits a job spec with its newest bid, the addresses of its block sources and a trace.
	MaxHold = MaxJobSpec + 256<<10 + maxTrace + MaxBidChange
	// MaxAnswer fits a grant of 16 GPUs with 32 endpoints many times.
	MaxAnswer = 16 << 10
	// MaxConfirm fits three short fields.
	MaxConfirm = 1 << 10
	// MaxRelease fits a reason for people.
	MaxRelease = 8 << 10
	// MaxReport fits all lists of a report at their limits. It is small because brokers keep the last report of
	// each lease for good.
	MaxReport = 32 << 10
	// MaxTrace fits the longest trace.
	MaxTrace = maxTrace + 1<<10
	// MaxPoison fits its few fields.
	MaxPoison = 2 << 10
	// MaxAdvice fits what there is to say of all that an offer may hold.
	MaxAdvice = 512 << 10
	// MaxRenewal fits three short fields.
	MaxRenewal = 1 << 10
	// MaxReceipt fits a bill and the report under it.
	MaxReceipt = MaxReport + 16<<10
)

// Limits of lists.
const (
	maxOffers    = 64   // one per GPU model of a host; real hosts mix one or two
	maxHostGPUs  = 64   // the largest hosts have 16; fewer than the bits of a free mask
	maxLeaseGPUs = 16   // the vocabulary's bound for a job
	maxImages    = 4096 // 4096 images of 150 bytes still fit an offer set
	maxWeights   = 1024
	maxMounts    = 64
	maxAddrs     = 32   // a host's interfaces times QUIC and TCP
	maxSources   = 64   // more peers than a fetch can use at once
	maxCommand   = 4096 // arguments
	maxEnv       = 1024
	maxSteps     = 64
	maxReplicas  = 1 << 20 // more hosts than a market has
	maxHeld      = 64      // images that became whole with one lease; usually one
)

// maxTrace bounds the bytes of a trace: five for each block, at most, and three for their number.
const maxTrace = 5*blockstore.MaxTrace + 3

// MaxAdvised is how many roots an advice may be about: all that an offer may name.
const MaxAdvised = maxImages + maxWeights

// Limits of strings, in bytes.
const (
	maxArgument = 128<<10 - 1 // Linux: MAX_ARG_STRLEN, with its NUL
	maxName     = 128         // names, models, versions, ids that are not ours
	maxAddr     = 256         // a DNS name has at most 253 bytes
	maxPath     = 4095        // Linux: PATH_MAX, with its NUL
	maxImageRef = 512         // registry, repository of at most 255, tag of at most 128
	maxMessage  = 4096        // text for people
	maxQuery    = 4096        // what broker.ParseFilter takes; whether it is a query, its users find out
	maxCID      = 128         // a CIDv1 of sha2-512 takes 109 in base32
)

// Limits of numbers.
const (
	maxMemoryMiB = 1 << 30 // a pebibyte
	maxDiskMiB   = 1 << 34
	maxCPUs      = 1 << 16
	maxCompute   = 999
	maxPowerMW   = 1e8     // 100 kW
	maxMinor     = 1 << 20 // Linux: 20 bits of minor device number
	minExitCode  = -1      // not known
	maxExitCode  = 255
)
