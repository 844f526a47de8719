package vast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"rialto/broker"
	"rialto/pricing"
)

// maxRows is the most offers of an answer that names no limit; offers_found says how many there are.
const maxRows = 1000

// found is what a search found.
type found struct {
	rows   []row
	search broker.Search // of the smallest number of GPUs that was looked for: how offers were eliminated
}

// search answers POST /bundles/ and PUT /search/asks/.
func (s *Server) search(c *call) (any, error) {
	q, err := readQuery(c.body)
	if err != nil {
		return nil, err
	}
	got, err := s.find(c.Context(), q)
	if err != nil {
		return nil, err
	}
	eliminated := []row{}
	for _, e := range got.search.Eliminated {
		eliminated = append(eliminated, row{{"predicate", e.Predicate}, {"count", e.Count}, {"nearest", known(e.Nearest)}})
	}
	rows := make([]row, 0, len(got.rows))
	for _, r := range got.rows[:min(q.limit, len(got.rows))] {
		rows = append(rows, r.pick(q.columns))
	}
	return row{
		{"success", true},
		{"offers", rows},
		{"offers_found", len(got.rows)},
		{"offers_live", got.search.Offers},
		{"applied", append([]string{}, got.search.Applied...)},
		{"eliminated", eliminated},
	}, nil
}

// find lists the offers that match, each once for every number of GPUs that it is shown with.
func (s *Server) find(ctx context.Context, q query) (found, error) {
	var out found
	sizes := q.sizes()
	all := len(sizes) == 0
	if all {
		sizes = []int{1, 2, 4, 8, 16}
	}
	for i := 0; i < len(sizes); i++ {
		n := sizes[i]
		want := broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: n}, Where: q.where, DiskMiB: q.diskMiB}
		if q.bids {
			want.Bid = anyBid
		}
		got, err := s.c.Market.Search(ctx, want)
		if f, ok := errors.AsType[*broker.FieldError](err); ok && f.Field == "num_gpus" && q.where.Has("num_gpus") {
			continue // the query wants another number
		}
		if err != nil {
			return out, err
		}
		if out.search.Applied == nil {
			out.search = got
		}
		for _, rentable := range []bool{true, false} {
			matches := got.Matches
			if !rentable {
				matches = got.Busy
			}
			for j := range matches {
				m := &matches[j]
				whole := min(len(m.Offer.GPUs), maxGPUs)
				if all && whole > n && !slices.Contains(sizes, whole) {
					sizes = append(sizes, whole)
				}
				if r := offerRow(m, n, q.diskMiB, rentable, q.bids); q.shows(n, whole) && q.own(r) {
					out.rows = append(out.rows, r)
				}
			}
		}
	}
	order(out.rows, append(slices.Clone(q.order), sorting{key: "dph_total"}, sorting{key: "num_gpus"}, sorting{key: "id"}))
	return out, nil
}

// maxGPUs is the most GPUs of one job.
const maxGPUs = 16

// anyBid reaches every offer that takes bids.
const anyBid = pricing.MaxRate / 100

// offerRow is an offer rented with a number of GPUs and a disk, on demand or for a bid.
func offerRow(m *broker.Match, count int, diskMiB uint64, rentable, bids bool) row {
	o := &m.Offer
	gpu := &o.GPUs[0]
	memory, verified := gpu.MemoryMiB, true
	for _, g := range o.GPUs {
		memory = min(memory, g.MemoryMiB)
		verified = verified && g.Level >= broker.LevelNVML
	}
	n := int64(count)
	id, host := offerID(o, count), hostID(o.Provider)
	price, disk := dollars(int64(m.Rate)), diskRate(o.Tariff, diskMiB)
	least := price // nothing less rents it
	if o.MinBid > 0 {
		least = dollars(int64(o.MinBid) * n)
	}
	var discounted any // for who commits to a term; null: there is none
	if o.ReservedRate > 0 {
		discounted = dollars(int64(o.ReservedRate)*n + int64(disk))
	}
	return row{
		{"id", id},
		{"ask_contract_id", id},
		{"bundle_id", id},
		{"bundled_results", nil},
		{"machine_id", host},
		{"host_id", host},
		{"hostname", known(o.Host)},
		{"resource_type", "gpu"},
		{"num_gpus", n},
		{"gpu_name", vastModel(gpu.Model)},
		{"gpu_model", gpu.Model}, // ours: Vast has one name for several
		{"gpu_arch", "nvidia"},
		{"gpu_ram", int64(memory)},           //nolint:gosec // bounded by the market
		{"gpu_total_ram", n * int64(memory)}, //nolint:gosec // likewise
		{"gpu_frac", ratio(n, len(o.GPUs))},
		{"gpu_ids", nil},
		{"gpu_lanes", nil},
		{"gpu_mem_bw", nil},
		{"gpu_max_power", watts(gpu.PowerLimitMW)},
		{"gpu_max_temp", nil},
		{"gpu_display_active", nil},
		{"compute_cap", computeCap(gpu)},
		{"cuda_max_good", version(gpu.CUDA)},
		{"driver_version", known(gpu.Driver)},
		{"driver_vers", driverNumber(gpu.Driver)},
		{"bw_nvlink", nil},
		{"pci_gen", nil},
		{"pcie_bw", nil},
		{"dlperf", nil},
		{"dlperf_per_dphtotal", nil},
		{"total_flops", nil},
		{"flops_per_dphtotal", nil},
		{"score", nil},
		{"cpu_name", nil},
		{"cpu_arch", "amd64"},
		{"cpu_cores", n * int64(o.CPUs)}, // the part of the host that is offered: nobody knows the rest
		{"cpu_cores_effective", n * int64(o.CPUs)},
		{"cpu_ghz", nil},
		{"cpu_ram", n * int64(o.MemoryMiB)}, //nolint:gosec // bounded by the market
		{"has_avx", nil},
		{"mobo_name", nil},
		{"os_version", nil},
		{"disk_space", space(o.DiskMiB)},
		{"disk_bw", nil},
		{"disk_name", nil},
		{"storage_cost", monthly(o.Tariff.Disk)},
		{"storage_total_cost", dollars(int64(disk))},
		{"inet_up", nil},
		{"inet_down", nil},
		{"inet_up_cost", dollars(int64(o.Tariff.Egress))},
		{"inet_down_cost", dollars(int64(o.Tariff.Ingress))},
		{"direct_port_count", int64(0)}, // a job is reached through its tunnel alone
		{"static_ip", nil},
		{"public_ipaddr", nil},
		{"dph_base", price},
		{"dph_total", dollars(int64(m.Rate + disk))},
		{"min_bid", least},
		{"is_bid", bids},
		{"discounted_dph_total", discounted},
		{"credit_discount_max", nil},
		{"vram_costperhour", nil},
		{"search", costs(m.Rate, disk)},
		{"start_date", nil},
		{"end_date", nil},
		{"duration", nil},
		{"rentable", rentable},
		{"rented", !rentable},
		{"external", false},
		{"hosting_type", nil},
		{"datacenter", nil},
		{"verification", verification(verified)},
		{"verified", verified},
		{"reliability", share(m.Record.Reliability())}, // as filters read it: of a host that nobody knows, what is expected
		{"reliability2", share(m.Record.Reliability())},
		{"reliability_mult", nil},
		{"expected_reliability", nil},
		{"geolocation", place(o.Region)},
		{"geolocode", nil},
		{"vms_enabled", false},
		{"cluster_id", nil},
		{"webpage", nil},
		{"logo", nil},
		{"simulated", o.Simulated()}, // ours: not a real GPU
	}
}

func verification(verified bool) string {
	if verified {
		return "verified"
	}
	return "unverified"
}

// place is a country as Vast writes a place whose city it does not know.
func place(region string) any {
	if region == "" {
		return nil
	}
	return ", " + region
}

// version is up to two numbers of a version as one.
func version(s string) any {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil
	}
	return json.Number(strconv.FormatFloat(f, 'f', -1, 64))
}

// driverNumber is a driver's version with three digits for each part, as Vast writes it.
func driverNumber(s string) any {
	var a, b, c int64
	if n, err := fmt.Sscanf(s+".0.0", "%d.%d.%d", &a, &b, &c); n < 3 || err != nil || max(a, b, c) > 999 || min(a, b, c) < 0 {
		return nil
	}
	return a*1e6 + b*1e3 + c
}

func computeCap(g *broker.GPU) any {
	if g.ComputeMajor <= 0 {
		return nil
	}
	return int64(g.ComputeMajor)*100 + int64(g.ComputeMinor)*10
}

func watts(mw uint64) any {
	if mw == 0 {
		return nil
	}
	return json.Number(new(big.Rat).SetFrac64(int64(min(mw, 1e12)), 1000).FloatString(1)) //nolint:gosec // bounded
}

// share is a part of one, given in millionths.
func share(ppm int64) json.Number {
	return json.Number(new(big.Rat).SetFrac64(ppm, 1e6).FloatString(6))
}

func ratio(n int64, of int) json.Number {
	return json.Number(new(big.Rat).SetFrac64(n, int64(of)).FloatString(4))
}

// offer returns the live offer with an id, and whether it can be rented now.
func (s *Server) offer(ctx context.Context, id int64) (o broker.Offer, rentable bool, err error) {
	gone := &refusal{Status: 404, Code: "no_such_ask", Msg: fmt.Sprintf("there is no offer %d now: search again", id)}
	n := offerCount(id)
	if n < 1 || n > maxGPUs {
		return o, false, gone
	}
	got, err := s.c.Market.Search(ctx, broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: n}})
	if err != nil {
		return o, false, err
	}
	var hits []broker.Match
	for i, m := range slices.Concat(got.Matches, got.Busy) {
		if offerID(&m.Offer, n) == id {
			hits = append(hits, m)
			rentable = i < len(got.Matches)
		}
	}
	switch len(hits) {
	case 0:
		return o, false, gone
	case 1:
		return hits[0].Offer, rentable, nil
	}
	return o, false, &refusal{Status: 409, Code: "ambiguous_ask", Msg: fmt.Sprintf("%d offers have the id %d: take another", len(hits), id)}
}
