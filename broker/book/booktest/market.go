// Package booktest makes markets, queries and jobs to test and measure the order book with: equal seeds give equal ones.
//
// A market is synthetic. Models and regions are Zipf-distributed; numbers are log-normal about the model's or a usual
// host's; each machine has a quality that raises its numbers and its price, so cheap offers are worse and a search in
// order of price meets the bad ones first. Machines stand alone or in data centres of up to some hundreds that have one
// model. A slot is one to eight GPUs of a machine.
package booktest

import (
	"math"
	"math/rand/v2"
	"sort"

	"rialto/broker/book"
	"rialto/pricing"
)

// Numbers of what a market has.
const (
	Models  = 60
	Regions = 64
)

// Flags of a market's offers.
const (
	Verified book.Flags = 1 << iota
	DataCentre
	StaticIP
	DirectPorts
	Secure
	NVLink
	AVX512
	MIG
	ECC
)

// Model is a kind of GPU.
type Model struct {
	VRAM       uint32  // MiB
	Capability uint8   // tenths
	Price      float64 // dollars per GPU-hour, the median
	Speed      float64 // against the reference
	Score      float64 // the median
}

// Market makes offers.
type Market struct {
	Kinds   [Models]Model
	rng     *rand.Rand
	models  zipf
	regions zipf
	site    uint32
	host    uint32
	queue   []book.Record
}

// NewMarket returns a source of offers.
func NewMarket(seed uint64) *Market {
	m := &Market{
		rng:     rand.New(rand.NewPCG(seed, 1)),
		models:  newZipf(Models, 1),
		regions: newZipf(Regions, 1.1),
	}
	vram := []uint32{8, 10, 11, 12, 16, 20, 24, 24, 24, 32, 40, 48, 80, 80, 96, 141, 192}
	capability := []uint8{61, 70, 75, 75, 80, 86, 86, 89, 89, 90, 90, 100, 120}
	for i := range m.Kinds {
		k := &m.Kinds[i]
		v := vram[m.rng.IntN(len(vram))]
		k.VRAM = v << 10
		k.Capability = capability[m.rng.IntN(len(capability))]
		k.Speed = 0.004 * float64(v) * (0.4 + float64(k.Capability)/100) * math.Exp(0.2*m.rng.NormFloat64())
		k.Price = 1.6 * math.Pow(k.Speed, 0.9) * math.Exp(0.2*m.rng.NormFloat64())
		k.Score = 200 * k.Speed
	}
	return m
}

// Offers returns the next n offers.
func (m *Market) Offers(n int) []book.Record {
	out := make([]book.Record, 0, n)
	for len(out) < n {
		if len(m.queue) == 0 {
			m.place()
		}
		out = append(out, m.queue[0])
		m.queue = m.queue[1:]
	}
	return out
}

// place adds a site's offers to the queue.
func (m *Market) place() {
	r := m.rng
	m.site++
	machines, centre := 1, r.Float64() < 0.12
	if centre {
		machines = min(2+int(3/math.Pow(1-r.Float64(), 0.9)), 300)
	}
	model, region := m.models.draw(r), m.regions.draw(r)
	gpus := m.count()
	quality := r.NormFloat64()
	for range machines {
		m.host++
		if !centre || r.Float64() < 0.2 {
			gpus = m.count()
		}
		m.machine(uint16(model), uint8(region+1), gpus, centre, 0.7*quality+0.7*r.NormFloat64())
	}
	r.Shuffle(len(m.queue), func(i, j int) { m.queue[i], m.queue[j] = m.queue[j], m.queue[i] })
}

// count draws the GPUs of a machine's slots so that of all slots 60 % have one, 15 % two, 10 % four, 15 % eight.
func (m *Market) count() uint8 {
	switch f := m.rng.Float64() * (0.60/4.5 + 0.15/2.5 + 0.10/1.5 + 0.15); {
	case f < 0.60/4.5:
		return 1
	case f < 0.60/4.5+0.15/2.5:
		return 2
	case f < 0.60/4.5+0.15/2.5+0.10/1.5:
		return 4
	default:
		return 8
	}
}

func (m *Market) machine(model uint16, region, gpus uint8, centre bool, quality float64) {
	r, k := m.rng, &m.Kinds[model]
	flags := m.flags(centre, quality)
	about := func(median, sigma float64) float64 {
		return median * math.Exp(sigma*(0.5*quality+0.87*r.NormFloat64()))
	}
	cores := []float64{4, 6, 8, 12, 16, 24, 32}[min(max(int(3+quality+r.NormFloat64()), 0), 6)]
	ram := []float64{8, 16, 24, 32, 48, 64, 96, 128, 256}[min(max(int(3+1.5*quality+1.5*r.NormFloat64()), 0), 8)]
	one := book.Record{
		Site: m.site, Host: m.host, Model: model, Region: region, Flags: flags, GPUs: gpus,
		VRAM: k.VRAM, Capability: k.Capability,
		CUDA:          []uint8{115, 118, 121, 122, 124, 126, 128, 130}[min(max(int(5+quality+r.NormFloat64()), 0), 7)],
		Unreliability: uint32(min(about(8_000, -1.3), 500_000)),
		Down:          u16(about(600, 1)), Up: u16(about(400, 1)),
		DiskBandwidth: u16(about(1800, 0.7)), PCIe: u16(about(12_000, 0.5)),
		Ports: u16(about(60, 1.2)), Hours: u16(about(400, 1)), Hazard: u16(about(300, -1)),
		StoragePrice: u16(about(2000, 0.5)), DownPrice: u16(about(300, 0.8)), UpPrice: u16(about(500, 0.8)),
	}
	for range 1 + r.IntN(8/int(gpus)) {
		o := one
		o.Cores, o.RAM = u16(cores*float64(gpus)), uint32(ram*1024)*uint32(gpus)
		o.Disk = uint32(about(200*1024, 1)) * uint32(gpus)
		o.Score = u16(k.Score * (1 + 0.04*quality + 0.05*r.NormFloat64()))
		o.Price = pricing.Rate(about(k.Price, 0.25) * 1e9)
		m.queue = append(m.queue, o)
	}
}

func (m *Market) flags(centre bool, quality float64) (f book.Flags) {
	for i, rate := range []float64{0.6, 0, 0.3, 0.7, 0.05, 0.08, 0.5, 0.03, 0.4} {
		if m.rng.Float64() < rate+0.1*quality*rate {
			f |= 1 << i
		}
	}
	if centre {
		f |= DataCentre | StaticIP
	}
	return f
}

func u16(v float64) uint16 { return uint16(min(max(v, 0), math.MaxUint16)) }

// zipf draws 0…n-1, each less often than the one before it.
type zipf []float64

func newZipf(n int, s float64) zipf {
	z, sum := make(zipf, n), 0.0
	for i := range z {
		sum += math.Pow(float64(i+1), -s)
		z[i] = sum
	}
	for i := range z {
		z[i] /= sum
	}
	return z
}

func (z zipf) draw(r *rand.Rand) int { return min(sort.SearchFloat64s(z, r.Float64()), len(z)-1) }
