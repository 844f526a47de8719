package book

import (
	"errors"
	"fmt"

	"rialto/pricing"
)

// Slot names an offer in the index: 24 bits of index, above them a generation that tells it from earlier and later users
// of the same index. Zero is no slot.
type Slot uint32

const (
	indexBits = 24
	indexMask = 1<<indexBits - 1
)

func (s Slot) index() uint32 { return uint32(s) & indexMask }

// Limits of what the index holds. A record beyond one is refused.
const (
	MaxOffers = 1 << indexBits        // slots
	MaxPrice  = pricing.Rate(1 << 43) // nanodollars per GPU-hour, about $8,796
	MaxModel  = 1<<12 - 1             // models are numbered by the caller, densely
	MaxSite   = 1<<indexBits - 1      // likewise sites
)

// Flags are the yes-or-no properties of an offer. The caller gives each bit its meaning.
type Flags uint16

const flagCount = 16

// Attribute names a number of a record that queries can bound.
type Attribute uint8

// Attributes.
const (
	VRAM          Attribute = iota // MiB per GPU
	RAM                            // MiB
	Disk                           // MiB
	Cores                          // CPU cores
	DiskBandwidth                  // MB/s
	Down                           // Mbit/s from the internet
	Up                             // Mbit/s to the internet
	PCIe                           // MB/s between host and GPU
	Unreliability                  // millionths of the time that the host was away
	Capability                     // CUDA compute capability in tenths: 89 is 8.9
	CUDA                           // highest CUDA version of the driver in tenths: 130 is 13.0
	Ports                          // ports that can be opened
	Hours                          // whole hours that the offer will stand
	Score                          // benchmark, in the caller's unit
	DownPrice                      // as in the record
	Fetch                          // nanodollars to receive a GB: traffic, and the GPUs meanwhile. It follows from the others
	UpPrice                        // these as in the record
	StoragePrice
	Hazard
	attributes
)

// Record is what the index knows of an offer slot. What is too large for its field is given as the field's greatest
// value.
type Record struct {
	Price         pricing.Rate // nanodollars per GPU-hour
	Site          uint32       // where it stands; slots of one site can run one job together. Zero: unknown
	Host          uint32       // the machine, by the caller's numbers
	VRAM          uint32
	RAM           uint32
	Disk          uint32
	Unreliability uint32
	Model         uint16
	Flags         Flags
	Region        uint8 // by the caller's numbers; zero: unknown
	GPUs          uint8 // 1…255
	Capability    uint8
	CUDA          uint8
	Cores         uint16
	DiskBandwidth uint16
	Down          uint16
	Up            uint16
	PCIe          uint16
	Ports         uint16
	Hours         uint16
	Score         uint16
	Hazard        uint16 // failures per 100,000 hours
	StoragePrice  uint16 // units of 100 nanodollars per GiB-hour
	DownPrice     uint16 // units of 10 microdollars per GB that the offer receives
	UpPrice       uint16 // likewise per GB that it sends
}

// ErrRecord says that a record cannot be in the index.
var ErrRecord = errors.New("record out of range")

func (r *Record) check() error {
	switch {
	case r.Price < 0 || r.Price > MaxPrice:
		return fmt.Errorf("%w: price %d is not in 0…%d nanodollars per GPU-hour", ErrRecord, r.Price, MaxPrice)
	case r.Model > MaxModel:
		return fmt.Errorf("%w: model %d is over %d", ErrRecord, r.Model, MaxModel)
	case r.Site > MaxSite:
		return fmt.Errorf("%w: site %d is over %d", ErrRecord, r.Site, MaxSite)
	case r.GPUs == 0:
		return fmt.Errorf("%w: no GPUs", ErrRecord)
	}
	return nil
}

// Value returns an attribute, zero for one that there is not.
func (r *Record) Value(a Attribute) uint32 {
	switch a {
	case VRAM:
		return r.VRAM
	case RAM:
		return r.RAM
	case Disk:
		return r.Disk
	case Cores:
		return uint32(r.Cores)
	case DiskBandwidth:
		return uint32(r.DiskBandwidth)
	case Down:
		return uint32(r.Down)
	case Up:
		return uint32(r.Up)
	case PCIe:
		return uint32(r.PCIe)
	case Unreliability:
		return r.Unreliability
	case Capability:
		return uint32(r.Capability)
	case CUDA:
		return uint32(r.CUDA)
	case Ports:
		return uint32(r.Ports)
	case Hours:
		return uint32(r.Hours)
	case Score:
		return uint32(r.Score)
	case Fetch:
		return uint32(min(perGB(r.DownPrice)+r.rent()*1e9/r.rate(), Unbounded))
	case DownPrice:
		return uint32(r.DownPrice)
	case UpPrice:
		return uint32(r.UpPrice)
	case StoragePrice:
		return uint32(r.StoragePrice)
	case Hazard:
		return uint32(r.Hazard)
	case attributes:
	}
	return 0
}

// perGB returns a traffic price in nanodollars.
func perGB(price uint16) float64 { return 1e4 * float64(price) }

// rent returns what the slot costs per second, in nanodollars.
func (r *Record) rent() float64 { return float64(r.Price) * float64(r.GPUs) / hour }

// rate returns how many bytes per second the slot can receive and keep. What is not known counts as the least.
func (r *Record) rate() float64 {
	return min(mbit*float64(max(r.Down, 1)), megabyte*float64(max(r.DiskBandwidth, 1)))
}

// key orders offers: by price, then by slot, so that no two are equal.
type key struct {
	price pricing.Rate
	slot  Slot
}

func (k key) less(o key) bool {
	return k.price < o.price || k.price == o.price && k.slot < o.slot
}
