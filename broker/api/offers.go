package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rialto/broker"
	"rialto/pricing"
)

// JSON shapes of what is on offer.
type (
	// Offer is GPUs of one model on one host at one price.
	Offer struct {
		ID                      string `json:"id"`
		Provider                string `json:"provider" doc:"peer id"`
		Host                    string `json:"host"`
		Region                  string `json:"region,omitempty"`
		Model                   string `json:"model"`
		GPUs                    int    `json:"gpus"`
		Free                    int    `json:"free" doc:"GPUs that can be leased now"`
		GPUMemoryMiB            uint64 `json:"gpu_memory_mib" doc:"of the smallest GPU of the offer, as its driver reports it"`
		GPUMemorySoldMiB        uint64 `json:"gpu_memory_sold_mib" doc:"as the card is sold: what gpu_ram in a query is compared with"`
		Driver                  string `json:"driver,omitempty"`
		CUDA                    string `json:"cuda,omitempty"`
		ComputeCapability       string `json:"compute_capability,omitempty" doc:"such as 8.9"`
		PowerLimitMW            uint64 `json:"power_limit_mw,omitempty" doc:"of each GPU"`
		Level                   string `json:"level" enum:"claimed,nvml" doc:"how far the description has been proved"`
		Simulated               bool   `json:"simulated" doc:"not a real GPU"`
		RateNanoUSDPerHour      int64  `json:"rate_nanousd_per_hour" doc:"per GPU, on demand"`
		TotalRateNanoUSDPerHour int64  `json:"total_rate_nanousd_per_hour" doc:"all GPUs of the query, without disk and traffic; with a bid, at the least bid: what clears may be more"`
		AllInNanoUSDPerHour     int64  `json:"all_in_nanousd_per_hour" doc:"one GPU of the query, with its disk, and with all the traffic spread over run_ms: what max_rate_nanousd_per_hour and all_in_price in a query are compared with"`
		MinBidNanoUSDPerHour    int64  `json:"min_bid_nanousd_per_hour,omitempty" doc:"least bid for one GPU of an interruptible job; missing: on-demand only"`
		CPUsPerGPU              int    `json:"cpus_per_gpu"`
		MemoryMiBPerGPU         uint64 `json:"memory_mib_per_gpu" doc:"host memory"`
		DiskMiB                 uint64 `json:"disk_mib"`
		HasImage                bool   `json:"has_image" doc:"the host holds the whole image of the query"`
		ReliabilityPPM          int64  `json:"reliability_ppm" doc:"chance that an hour passes without failure, in millionths: exp(-(1+failures)/(200+hours seen))"`
		SeenMS                  int64  `json:"seen_ms" doc:"ready leases of the host that this market saw, added up"`
		Failures                int    `json:"failures" doc:"of them, those that the host lost"`
		Expected                Cost   `json:"expected_cost" doc:"of the whole job; what offers are ranked by. It is no bill"`
		ReadyMS                 int64  `json:"ready_ms" doc:"expected time from the lease to ready; without what must be fetched while that is not known"`
		MissBytes               *int64 `json:"miss_bytes,omitempty" doc:"of the image and weights of the query, not on the host; missing: not known, or none were named"`
		HeldBytes               *int64 `json:"held_bytes,omitempty" doc:"of them, on the host"`
		FillRatePPM             int64  `json:"fill_rate_ppm" doc:"share of its last holds that the host honoured, in millionths: (20+honoured)/(20+asked) over the last 20 of the last hour"`
		HoldsAsked              int    `json:"holds_asked" doc:"of them, those that count"`
		HoldsHonoured           int    `json:"holds_honoured" doc:"of them, those that the host granted and did not take back"`

		ReservedRateNanoUSDPerHour int64 `json:"reserved_rate_nanousd_per_hour,omitempty" doc:"per GPU, for a job that commits to at least reserved_min_ms"`
		ReservedMinMS              int64 `json:"reserved_min_ms,omitempty"`
		Reserved                   bool  `json:"reserved,omitempty" doc:"the job of the query earns the reserved rate: total_rate_nanousd_per_hour and expected_cost are by it"`

		Tariff
	}
	// Cost is what a job is expected to cost, and what that is made of.
	Cost struct {
		RunNanoUSD     int64 `json:"run_nanousd" doc:"the rate for run_ms or, in a quote, its duration"`
		DiskNanoUSD    int64 `json:"disk_nanousd" doc:"what the job may write, for the same time"`
		TrafficNanoUSD int64 `json:"traffic_nanousd" doc:"all the traffic that the customer pays for, both ways"`
		StartNanoUSD   int64 `json:"start_nanousd" doc:"the rate, with the disk's, for ready_ms, and for the time that holds which the host does not honour are expected to cost. It is not billed: it is what the time without the GPUs is worth at least"`
		FailureNanoUSD int64 `json:"failure_nanousd" doc:"the same rates for the time that failures of the host are expected to throw away"`
		WaitingNanoUSD int64 `json:"waiting_nanousd" doc:"wait_rate_nanousd_per_hour for the same times"`
		TotalNanoUSD   int64 `json:"total_nanousd" doc:"the sum"`
	}
	// Elimination says how many offers one predicate removed.
	Elimination struct {
		Predicate string `json:"predicate"`
		Count     int    `json:"count" doc:"offers that all predicates before had left"`
		Nearest   string `json:"nearest,omitempty" doc:"the nearest miss"`
	}
	// NearMiss is an offer that fails exactly one predicate.
	NearMiss struct {
		Offer     Offer  `json:"offer"`
		Predicate string `json:"predicate" doc:"that it fails"`
		Has       string `json:"has" doc:"what it has instead, for people"`
		Admit     string `json:"admit,omitempty" doc:"the predicate that would admit it; missing: the one it fails would have to go"`
	}
	// Offers is an explained search: nothing is left out without being counted.
	Offers struct {
		Brief      bool          `json:"brief,omitempty" doc:"matched counts the offers of this answer, and waiting, eliminated, nearest and busy are left out"`
		AsOf       time.Time     `json:"as_of" doc:"by the broker's clock"`
		Total      int           `json:"total" doc:"live offers before any predicate"`
		Applied    []string      `json:"applied" doc:"predicates in order, in the query language's canonical form"`
		Eliminated []Elimination `json:"eliminated"`
		Nearest    []NearMiss    `json:"nearest" doc:"the offers nearest to matching, cheapest first; those that lack only free GPUs are in busy"`
		Matched    int           `json:"matched" doc:"offers that match"`
		Waiting    int           `json:"waiting" doc:"offers that would match if enough of their GPUs were free"`
		Offers     []Offer       `json:"offers" doc:"those that match: cheapest expected cost first, unless sorted otherwise"`
		Busy       []Offer       `json:"busy" doc:"those that would match if enough of their GPUs were free, on the first page"`
		Next       string        `json:"next_cursor,omitempty" doc:"cursor of the next page, if more offers match"`

		text []byte // all this as JSON, if it was written already
	}

	// Explained is what one predicate of a search does.
	Explained struct {
		Predicate  string    `json:"predicate"`
		Eliminated int       `json:"eliminated" doc:"offers that all predicates before had left"`
		Without    int       `json:"without" doc:"offers that match if it alone is dropped"`
		Cheapest   *NearMiss `json:"cheapest,omitempty" doc:"the cheapest of the offers that fail it and nothing else"`
	}
	// Explanation says what each predicate of a search does.
	Explanation struct {
		AsOf       time.Time   `json:"as_of" doc:"by the broker's clock"`
		Total      int         `json:"total" doc:"live offers before any predicate"`
		Matched    int         `json:"matched"`
		Waiting    int         `json:"waiting" doc:"offers that would match if enough of their GPUs were free"`
		Predicates []Explained `json:"predicates" doc:"in order; the last is that the GPUs are free now"`
	}

	// Query says which offers are wanted; zero fields match everything.
	Query struct {
		Q                      string   `json:"q,omitempty" query:"q" maxLength:"4096" doc:"query in the query language, such as: gpu_name in [RTX_4090,RTX_3090] num_gpus=2 gpu_ram>=24 price<=0.40/h region!=US"`
		Model                  string   `json:"model,omitempty" query:"model" doc:"canonical model or \"any\""`
		Count                  int      `json:"count,omitempty" query:"count" minimum:"0" maximum:"16" doc:"GPUs; unless given, what num_gpus in q says, or 1"`
		MinGPUMemoryMiB        uint64   `json:"min_gpu_memory_mib,omitempty" query:"min_gpu_memory_mib" doc:"as the card is sold"`
		MemoryMiB              uint64   `json:"memory_mib,omitempty" query:"memory_mib" doc:"host memory of the job"`
		CPUs                   int      `json:"cpus,omitempty" query:"cpus" minimum:"0" maximum:"1024"`
		MaxRateNanoUSDPerHour  int64    `json:"max_rate_nanousd_per_hour,omitempty" query:"max_rate_nanousd_per_hour" minimum:"0" doc:"per GPU, with the disk, and with all the traffic spread over run_ms"`
		BidNanoUSDPerHour      int64    `json:"bid_nanousd_per_hour,omitempty" query:"bid_nanousd_per_hour" minimum:"0" doc:"per GPU, of an interruptible job; unless given, on-demand"`
		Region                 string   `json:"region,omitempty" query:"region" maxLength:"2"`
		Provider               string   `json:"provider,omitempty" query:"provider" maxLength:"128"`
		ImageDigest            string   `json:"image_digest,omitempty" query:"image_digest" maxLength:"128"`
		WeightRoots            []string `json:"weight_roots,omitempty" query:"weight_roots,explode" maxItems:"16"`
		RunMS                  int64    `json:"run_ms,omitempty" query:"run_ms" minimum:"0" maximum:"2592000000" doc:"how long the job is expected to run; unless given, an hour. A quote's is its duration"`
		WaitRateNanoUSDPerHour int64    `json:"wait_rate_nanousd_per_hour,omitempty" query:"wait_rate_nanousd_per_hour" minimum:"0" doc:"what an hour of waiting costs beside the GPUs themselves"`
		ReserveMS              int64    `json:"reserve_ms,omitempty" query:"reserve_ms" minimum:"0" maximum:"2592000000" doc:"term that the job commits to: offers that it earns a reserved rate of have that price"`
		DiskMiB                uint64   `json:"disk_mib,omitempty" query:"disk_mib" minimum:"0" doc:"what the job may write, 16 to 16777215; unless given 10240, which is 10 GiB, and also of hosts that do not say how much they have"`
		TrafficBytes           int64    `json:"traffic_bytes,omitempty" query:"traffic_bytes" minimum:"0" doc:"what the customer pays for at most through the job's tunnel, each way, 1 to 1000000000000000; unless given 1000000000, which is 1 GB"`
	}
	// Page says in which order offers come, and which part of them.
	Page struct {
		Sort   string `query:"sort" maxLength:"4096" doc:"fields of the query language, - for descending: price,-gpu_ram; unless given, cheapest expected cost first"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"offers of one answer"`
		Cursor string `query:"cursor" maxLength:"4096" doc:"next_cursor of the answer before; empty: from the first"`
		Brief  bool   `query:"brief" doc:"only the offers: fast however large the market is. What does not match is not looked at unless nothing does or the order is another one"`
	}
)

type (
	offersInput struct {
		Query
		Page
		IfNoneMatch string `header:"If-None-Match" maxLength:"1024" doc:"ETag of an earlier answer: 304 if it still holds"`
	}
)

func (s *Server) routeOffers() {
	huma.Register(s.api, huma.Operation{
		OperationID: "offers", Method: http.MethodGet, Path: "/v1/offers", Summary: "Live offers that match, explained",
	}, func(ctx context.Context, in *offersInput) (*taggedAnswer[Offers], error) {
		q, err := in.toBroker()
		if err == nil {
			q.Order, err = broker.ParseOrder(in.Sort)
		}
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		q.Limit, q.After, q.Brief = in.Limit, in.Cursor, in.Brief
		found, err := s.c.Market.Search(ctx, q)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return tagOffers(offersOf(found), in.IfNoneMatch)
	})
	huma.Register(s.api, huma.Operation{
		OperationID: "explain-offers", Method: http.MethodPost, Path: "/v1/offers:explain",
		Summary: "What each predicate of a search does: why so few offers match", MaxBodyBytes: maxSmallBody,
	}, func(ctx context.Context, in *struct{ Body Query }) (*answer[Explanation], error) {
		q, err := in.Body.toBroker()
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		found, err := s.c.Market.Search(ctx, q)
		if err != nil {
			return nil, s.failQuery(ctx, err)
		}
		return &answer[Explanation]{explanationOf(found)}, nil
	})
}

// tagOffers names an answer by its content but for its time, so that a caller who has it need not read it again. It is
// written as JSON once, and the time put in afterwards.
func tagOffers(o Offers, has string) (*taggedAnswer[Offers], error) {
	const noTime = `"0001-01-01T00:00:00Z"` // nothing before it is a caller's text
	timeless := o
	timeless.AsOf = time.Time{}
	var b bytes.Buffer
	if err := huma.DefaultJSONFormat.Marshal(&b, timeless); err != nil {
		return nil, fmt.Errorf("tag offers: %w", err)
	}
	asOf, err := o.AsOf.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("tag offers: %w", err)
	}
	sum := sha256.Sum256(b.Bytes())
	return tag(hex.EncodeToString(sum[:12]), has, func() Offers {
		o.text = bytes.Replace(b.Bytes(), []byte(noTime), asOf, 1)
		return o
	})
}

func (o Offers) encoded() []byte { return o.text }

// failQuery is fail for what a caller asks of offers: it makes no sense in itself, so it is a bad request.
func (s *Server) failQuery(ctx context.Context, err error) error {
	p := problemOf(err)
	if p.Type == "rialto:invalid" {
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest)
		return p
	}
	return s.fail(ctx, err)
}

// toBroker fails with a [*broker.FieldError].
func (q Query) toBroker() (broker.Query, error) {
	where, err := broker.ParseFilter(q.Q)
	if err == nil {
		err = q.checkExtras()
	}
	return broker.Query{
		GPU:       broker.GPURequest{Model: q.Model, Count: q.Count, MinMemoryMiB: q.MinGPUMemoryMiB},
		MemoryMiB: q.MemoryMiB, CPUs: q.CPUs, MaxRate: pricing.Rate(q.MaxRateNanoUSDPerHour), Bid: pricing.Rate(q.BidNanoUSDPerHour),
		Region: q.Region, Provider: broker.PeerID(q.Provider), Image: q.ImageDigest, Weights: q.WeightRoots, Where: where,
		Run: time.Duration(q.RunMS) * time.Millisecond, WaitRate: pricing.Rate(q.WaitRateNanoUSDPerHour),
		Reserve: time.Duration(q.ReserveMS) * time.Millisecond, DiskMiB: q.DiskMiB, Traffic: q.TrafficBytes,
	}, err
}

func offerOf(m broker.Match) Offer {
	o := m.Offer
	out := Offer{
		ID: string(o.ID), Provider: string(o.Provider), Host: o.Host, Region: o.Region,
		GPUs: len(o.GPUs), Free: m.Free, Simulated: o.Simulated(), RateNanoUSDPerHour: int64(o.Rate),
		TotalRateNanoUSDPerHour: int64(m.Rate), AllInNanoUSDPerHour: int64(m.AllIn), MinBidNanoUSDPerHour: int64(o.MinBid),
		CPUsPerGPU: o.CPUs, MemoryMiBPerGPU: o.MemoryMiB, DiskMiB: o.DiskMiB, HasImage: m.HasImage, Level: broker.LevelClaimed.String(),
		ReliabilityPPM: m.Record.Reliability(), SeenMS: m.Record.Seen.Milliseconds(), Failures: m.Record.Failures,
		Expected: costOf(m.Cost), ReadyMS: m.Cost.Ready.Milliseconds(),
		FillRatePPM: m.Record.FillRate(), HoldsAsked: m.Record.Asked, HoldsHonoured: m.Record.Honoured,
		ReservedRateNanoUSDPerHour: int64(o.ReservedRate), ReservedMinMS: o.ReservedMin.Milliseconds(), Reserved: m.Reserved,
		Tariff: TariffOf(o.Tariff),
	}
	if m.Cost.Sized {
		out.MissBytes, out.HeldBytes = &m.Cost.MissBytes, &m.Cost.HeldBytes
	}
	lowest := broker.LevelNVML
	for i, g := range o.GPUs {
		if i == 0 || g.MemoryMiB < out.GPUMemoryMiB {
			out.GPUMemoryMiB, out.GPUMemorySoldMiB = g.MemoryMiB, g.NominalMiB()
		}
		if i == 0 || g.PowerLimitMW < out.PowerLimitMW {
			out.PowerLimitMW = g.PowerLimitMW
		}
		if g.ComputeMajor > 0 {
			out.ComputeCapability = strconv.Itoa(g.ComputeMajor) + "." + strconv.Itoa(g.ComputeMinor)
		}
		out.Model, out.Driver, out.CUDA = g.Model, g.Driver, g.CUDA
		lowest = min(lowest, g.Level)
	}
	if len(o.GPUs) > 0 {
		out.Level = lowest.String()
	}
	return out
}

func costOf(c broker.Cost) Cost {
	return Cost{
		RunNanoUSD: int64(c.Run), DiskNanoUSD: int64(c.Disk), TrafficNanoUSD: int64(c.Traffic), StartNanoUSD: int64(c.Start), FailureNanoUSD: int64(c.Failure),
		WaitingNanoUSD: int64(c.Waiting), TotalNanoUSD: int64(c.Total),
	}
}

func nearMissOf(n broker.NearMiss) NearMiss {
	return NearMiss{Offer: offerOf(n.Match), Predicate: n.Predicate, Has: n.Has, Admit: n.Admit}
}

func offersOf(s broker.Search) Offers {
	out := Offers{
		Brief: s.Brief, AsOf: s.AsOf, Total: s.Offers, Applied: append([]string{}, s.Applied...), Eliminated: []Elimination{}, Nearest: []NearMiss{},
		Matched: s.Matched, Waiting: s.Waiting, Offers: make([]Offer, 0, len(s.Matches)), Busy: make([]Offer, 0, len(s.Busy)), Next: s.Next,
	}
	for _, e := range s.Eliminated {
		out.Eliminated = append(out.Eliminated, Elimination{Predicate: e.Predicate, Count: e.Count, Nearest: e.Nearest})
	}
	for _, n := range s.Nearest {
		out.Nearest = append(out.Nearest, nearMissOf(n))
	}
	for _, m := range s.Matches {
		out.Offers = append(out.Offers, offerOf(m))
	}
	for _, m := range s.Busy {
		out.Busy = append(out.Busy, offerOf(m))
	}
	return out
}

func explanationOf(s broker.Search) Explanation {
	out := Explanation{AsOf: s.AsOf, Total: s.Offers, Matched: s.Matched, Waiting: s.Waiting, Predicates: []Explained{}}
	eliminated := map[string]int{}
	for _, e := range s.Eliminated {
		eliminated[e.Predicate] = e.Count
	}
	for _, a := range s.Alone {
		e := Explained{Predicate: a.Predicate, Eliminated: eliminated[a.Predicate], Without: a.Without}
		if a.Cheapest != nil {
			e.Cheapest = new(nearMissOf(*a.Cheapest))
		}
		out.Predicates = append(out.Predicates, e)
	}
	return out
}
