package broker

import (
	"slices"
	"strings"
)

// Kind says what a field's values are, and so which operators and units it takes.
type Kind uint8

// Kinds of fields. Those from KindCount on have an order.
const (
	KindName    Kind = iota + 1 // a name or id; compared without case, and _ is a space
	KindModel                   // a GPU model, canonical or as Vast calls it
	KindCountry                 // ISO 3166-1 alpha-2 code
	KindBool                    // true or false
	KindCount                   // whole number
	KindSize                    // bytes; units B, kB … TB of 1000, KiB … TiB of 1024
	KindRate                    // nanodollars an hour; units /h, /s and /month, of 720 h
	KindVersion                 // up to three numbers, such as 535.86.05; missing ones are zero
	KindCompute                 // CUDA compute capability, 8.9 or 890
	KindPower                   // milliwatts; units mW, W, kW
	KindShare                   // millionths, written 0.98 or 98%
	KindLevel                   // level of proof: claimed, nvml
	KindTime                    // milliseconds; units ms, s, min, h
	KindPerGB                   // nanodollars for 10^9 bytes; unit /GB
)

// Evidence says whose word a field is.
type Evidence string

// Evidence of fields.
const (
	EvidenceOffer  Evidence = "offer"  // the provider's offer; how far it is proved is the field level
	EvidenceMarket Evidence = "market" // the market's own books
	EvidenceQuery  Evidence = "query"  // follows from what is asked for
	EvidenceNone   Evidence = "none"   // nobody measures it yet: it cannot be asked for
)

// FieldName is another name of a field.
type FieldName struct {
	Name string
	Unit string // of a number without one; empty: the field's
}

// Field is what offers can be asked for.
type Field struct {
	Name     string // canonical
	Kind     Kind
	Unit     string // of a number without one; empty: the number must have one, or needs none
	Evidence Evidence
	Doc      string // what it is; with EvidenceNone, why it cannot be asked for
	Aliases  []FieldName

	id fieldID
	// nominal sizes are as cards are sold: 1 GB is 1 GiB, and 1 MB a thousandth of it.
	nominal bool
}

// Fields lists what offers can be asked for, and what they cannot be asked for yet, in the order of reading.
func Fields() []Field { return slices.Clone(fieldTable[:]) }

type fieldID uint8

const (
	fieldModel fieldID = iota
	fieldJobGPUs
	fieldGPUs
	fieldFree
	fieldGPURAM
	fieldGPURAMExact
	fieldGPUTotalRAM
	fieldPrice
	fieldBasePrice
	fieldTotalPrice
	fieldAllInPrice
	fieldDiskPrice
	fieldJobDiskPrice
	fieldIngressPrice
	fieldEgressPrice
	fieldReservedPrice
	fieldReservedMin
	fieldCPUs
	fieldCPUsPerGPU
	fieldMemory
	fieldMemoryPerGPU
	fieldDisk
	fieldRegion
	fieldProvider
	fieldHost
	fieldOffer
	fieldLevel
	fieldVerified
	fieldSimulated
	fieldRentable
	fieldRented
	fieldExternal
	fieldDriver
	fieldCUDA
	fieldCompute
	fieldArch
	fieldPower
	fieldHasImage
	fieldAgent
	fieldReliability
	fieldHoursSeen
	fieldFailures
	fieldReady
	fieldMiss
	fieldFillRate
	fieldMinBid
	fieldUnknown // and those after it in the table have no evidence
)

//nolint:gochecknoglobals // a constant table that the language cannot write as a constant
var fieldTable = makeFields()

func makeFields() []Field {
	has := func(id fieldID, name string, kind Kind, unit string, from Evidence, doc string, aliases ...FieldName) Field {
		return Field{id: id, Name: name, Kind: kind, Unit: unit, Evidence: from, Doc: doc, Aliases: aliases}
	}
	as := func(name string) FieldName { return FieldName{Name: name} }
	in := func(name, unit string) FieldName { return FieldName{name, unit} }
	const offer, market, query = EvidenceOffer, EvidenceMarket, EvidenceQuery
	table := []Field{
		has(fieldModel, "gpu_name", KindModel, "", offer, "GPU model", as("gpu"), as("model")),
		has(fieldJobGPUs, "num_gpus", KindCount, "", query, "GPUs of the job, all on one host; an offer can be rented in parts", as("count")),
		has(fieldGPUs, "gpus", KindCount, "", offer, "GPUs of the offer"),
		has(fieldFree, "free", KindCount, "", market, "GPUs of the offer that can be leased now"),
		has(fieldGPURAM, "gpu_ram", KindSize, "GB", offer, "memory of each GPU as the card is sold: a 24 GB card that reports 24564 MiB has 24 GB", as("gpu_memory")),
		has(fieldGPURAMExact, "gpu_ram_mib", KindSize, "MiB", offer, "memory of each GPU as its driver reports it", in("gpu_memory_mib", "MiB")),
		has(fieldGPUTotalRAM, "gpu_total_ram", KindSize, "GB", offer, "memory of the job's GPUs together, as sold", as("gpu_totalram")),
		has(fieldPrice, "price", KindRate, "/h", offer, "price of one GPU: on demand, or the reserved one if the job commits to enough", in("price_usd_per_hour", "/h"), in("rate_nanousd_per_hour", "nanousd/h")),
		has(fieldBasePrice, "base_price", KindRate, "/h", offer, "price of all GPUs of the job", as("dph_base")),
		has(fieldTotalPrice, "total_price", KindRate, "/h", query, "price of all GPUs of the job and its disk", as("dph_total"), as("dphtotal"), as("dph")),
		has(fieldAllInPrice, "all_in_price", KindRate, "/h", query, "price of one GPU with the job's disk, and all the traffic that its customer pays for spread over the time that it may run"),
		has(fieldDiskPrice, "disk_price", KindRate, "/h", offer, "price of a GiB of a job's disk; storage_cost is by the month of 720 h", in("storage_cost", "/month")),
		has(fieldJobDiskPrice, "job_disk_price", KindRate, "/h", query, "price of the job's disk, of 10 GiB if it does not say", as("storage_total_cost")),
		has(fieldIngressPrice, "ingress_price", KindPerGB, "/GB", offer, "price of 10^9 bytes that reach a job through its tunnel; images and weights are never billed", as("inet_down_cost")),
		has(fieldEgressPrice, "egress_price", KindPerGB, "/GB", offer, "price of 10^9 bytes that leave a job through its tunnel", as("inet_up_cost")),
		has(fieldReservedPrice, "reserved_price", KindRate, "/h", offer, "price of one GPU for a job that commits to a term"),
		has(fieldReservedMin, "reserved_min_h", KindTime, "h", offer, "the least term that earns it"),
		has(fieldCPUs, "cpus", KindCount, "", offer, "CPU cores that the job gets", as("cpu_cores_effective")),
		has(fieldCPUsPerGPU, "cpus_per_gpu", KindCount, "", offer, "CPU cores with each GPU"),
		has(fieldMemory, "memory", KindSize, "", offer, "host memory that the job gets", in("cpu_ram", "GB"), in("memory_mib", "MiB")),
		has(fieldMemoryPerGPU, "memory_per_gpu", KindSize, "", offer, "host memory with each GPU", in("memory_mib_per_gpu", "MiB")),
		has(fieldDisk, "disk", KindSize, "", offer, "free disk of the host", in("disk_space", "GB"), in("disk_mib", "MiB")),
		has(fieldRegion, "region", KindCountry, "", offer, "country of the host", as("geolocation")),
		has(fieldProvider, "provider", KindName, "", offer, "the host's peer id", as("machine_id"), as("host_id")),
		has(fieldHost, "host", KindName, "", offer, "the host's name, which its owner chose", as("hostname")),
		has(fieldOffer, "id", KindName, "", offer, "the offer's id", as("ask_contract_id"), as("bundle_id")),
		has(fieldLevel, "level", KindLevel, "", offer, "how far the GPUs' description is proved: claimed < nvml"),
		has(fieldVerified, "verified", KindBool, "", offer, "whether the agent read the GPUs' description through NVML"),
		has(fieldSimulated, "simulated", KindBool, "", offer, "whether the GPUs are not real"),
		has(fieldRentable, "rentable", KindBool, "", market, "whether the job's GPUs are free now"),
		has(fieldRented, "rented", KindBool, "", market, "whether they are not"),
		has(fieldExternal, "external", KindBool, "", market, "whether another market makes the offer: none does"),
		has(fieldDriver, "driver", KindVersion, "", offer, "NVIDIA driver, such as 535.86.05", as("driver_version"), as("driver_vers")),
		has(fieldCUDA, "cuda", KindVersion, "", offer, "highest CUDA version of the driver", as("cuda_max_good"), as("cuda_vers")),
		has(fieldCompute, "compute_cap", KindCompute, "", offer, "CUDA compute capability, 8.9 or 890", as("compute_capability")),
		has(fieldArch, "gpu_arch", KindName, "", offer, "maker of the GPUs: nvidia is all that agents read"),
		has(fieldPower, "power_limit", KindPower, "W", offer, "power limit of each GPU", as("gpu_max_power")),
		has(fieldHasImage, "has_image", KindBool, "", offer, "whether the host holds the whole image that is asked with"),
		has(fieldAgent, "agent", KindName, "", offer, "version of the host's agent"),
		has(fieldReliability, "reliability", KindShare, "", market, "chance that an hour passes without failure: exp(-(1+failures)/(200+hours_seen))", as("reliability2")),
		has(fieldHoursSeen, "hours_seen", KindCount, "", market, "whole hours of ready leases that this market saw of the host"),
		has(fieldFailures, "failures", KindCount, "", market, "ready leases that the host lost"),
		has(fieldReady, "ready_s", KindTime, "s", market, "expected time from the lease to ready, with the image that is asked with"),
		has(fieldMiss, "miss_bytes", KindSize, "B", market, "bytes of the image and weights that are asked with and that the host does not hold"),
		has(fieldFillRate, "fill_rate", KindShare, "", market, "share of its last holds that the host honoured, (20 + honoured) / (20 + asked); below 90% offers are hidden unless the query names it"),
		has(fieldMinBid, "min_bid", KindRate, "/h", offer, "least bid for one GPU of an interruptible job; none of an offer that is on-demand only"),
	}
	for i := range table {
		id := table[i].id
		table[i].nominal = id == fieldGPURAM || id == fieldGPUTotalRAM
	}
	for why, names := range unmeasured() {
		for name := range strings.FieldsSeq(names) {
			table = append(table, Field{id: fieldUnknown, Name: name, Evidence: EvidenceNone, Doc: why})
		}
	}
	slices.SortFunc(table[fieldUnknown:], func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return table
}

// unmeasured lists the fields of Vast's offers that no offer here has, by why.
func unmeasured() map[string]string {
	return map[string]string{
		"no benchmark of this market measures it": "dlperf dlperf_usd dlperf_per_dphtotal total_flops flops_usd flops_per_dphtotal score gpu_mem_bw",
		"nobody measures the hosts' network yet": "inet_up inet_down direct_port_count static_ip public_ipaddr " +
			"nw_disk_min_bw nw_disk_avg_bw nw_disk_max_bw",
		"memory of GPUs is not priced by itself":         "vram_costperhour",
		"say how much disk the job needs instead":        "allocated_storage",
		"agents do not read it":                          "pci_gen pcie_bw gpu_lanes bw_nvlink gpu_max_temp gpu_display_active display_active disk_bw disk_name cpu_name cpu_arch cpu_cores cpu_ghz has_avx mobo_name os_version ubuntu_version gpu_frac gpu_ids",
		"offers last as long as their host is connected": "duration start_date end_date",
		"a job is interruptible, not an offer":           "is_bid type resource_type",
		"ask for reserved_price instead":                 "credit_discount_max discounted_dph_total",
		"this market rates hosts by reliability alone":   "reliability_mult expected_reliability vericode verification hosting_type datacenter",
		"this market has no such thing":                  "vms_enabled cluster_id avail_vol_ask_id avail_vol_dph avail_vol_size platform_fee webpage logo geolocode bundled_results",
	}
}

// fieldOf returns the field with a name and the unit of its bare numbers.
func fieldOf(name string) (f *Field, unit string, ok bool) {
	for i := range fieldTable {
		f := &fieldTable[i]
		if f.Name == name {
			return f, f.Unit, true
		}
		for _, a := range f.Aliases {
			if a.Name == name {
				if a.Unit != "" {
					return f, a.Unit, true
				}
				return f, f.Unit, true
			}
		}
	}
	return nil, "", false
}

// knownField is fieldOf with an error that helps.
func knownField(name string) (*Field, string, error) {
	f, unit, ok := fieldOf(name)
	switch {
	case !ok:
		return nil, "", &FieldError{Field: clipped(name), Problem: "no such field of an offer", Nearest: nearestField(name)}
	case f.Evidence == EvidenceNone:
		return nil, "", &FieldError{Field: name, Problem: "this market has no evidence for it: " + f.Doc}
	}
	return f, unit, nil
}

func nearestField(name string) string {
	var names []string
	for _, f := range fieldTable {
		if f.Evidence == EvidenceNone {
			continue
		}
		names = append(names, f.Name)
		for _, a := range f.Aliases {
			names = append(names, a.Name)
		}
	}
	return nearestWord(strings.ToLower(name), names)
}

// Nearest returns the word that a misspelt one may mean, or "" when none is near.
func Nearest(s string, words []string) string { return nearestWord(s, words) }

// nearestWord returns the word with the fewest edits from s, or "" when none is near: more than a third of the
// longer one would have to change, and neither begins with the other.
func nearestWord(s string, words []string) string {
	s = clipped(s)
	best, least := "", 0
	for _, w := range words {
		n := edits(s, w)
		if n*3 > max(len(s), len(w)) && (len(s) < 3 || !strings.HasPrefix(w, s) && !strings.HasPrefix(s, w)) {
			continue
		}
		if best == "" || n < least {
			best, least = w, n
		}
	}
	return best
}

// clipped keeps hostile input short in messages and printable.
func clipped(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if !printable(string(r)) {
			return '?'
		}
		return r
	}, s)
}
