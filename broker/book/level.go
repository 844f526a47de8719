package book

import "math/bits"

// scale says how an attribute becomes a level. A level is a float with sub bits of mantissa, so 2^sub levels per
// doubling, less base, within 0…2^bits-1.
type scale struct {
	plane uint8 // of its lowest bit
	bits  uint8
	sub   uint8
	base  uint32
}

// Planes of a leaf, in this order; [transpose] of a record's row.
const (
	siteBits    = 4
	regionBits  = 8
	numberRows  = 6 + 7 + 7 + 6 + 6 + 7 + 6 + 6 + 7 + 5 + 6 + 6 + 6 + 7 + 6 + 7 + 6 + 6
	siteRow     = numberRows
	flagRow     = siteRow + siteBits
	regionRow   = flagRow + flagCount
	narrowRows  = regionRow // all slots of a narrow leaf are of one region
	wideRows    = regionRow + regionBits
	maxLevel    = 1 << 7
	siteLevels  = 1 << siteBits
	histogramBy = 3 // levels are counted by eights
)

// scaleOf returns an attribute's scale. The ranges are those of hosts today with room at both ends; outside of them
// all values share the lowest or the highest level, which costs time and nothing else.
func scaleOf(a Attribute) scale {
	switch a {
	case VRAM: // 2 GiB to 512 GiB
		return scale{0, 6, 3, 71}
	case RAM: // 2 GiB to 128 TiB
		return scale{6, 7, 3, 71}
	case Disk: // 4 GiB to 256 TiB
		return scale{13, 7, 3, 79}
	case Cores:
		return scale{20, 6, 3, 0}
	case DiskBandwidth:
		return scale{26, 6, 2, 0}
	case Down:
		return scale{32, 7, 3, 0}
	case Up:
		return scale{39, 6, 2, 0}
	case PCIe:
		return scale{45, 6, 2, 0}
	case Unreliability:
		return scale{51, 7, 2, 0}
	case Capability: // 1.6 to 25.5
		return scale{58, 5, 3, 16}
	case CUDA: // 6.4 to 25.5
		return scale{63, 6, 5, 64}
	case Ports:
		return scale{69, 6, 2, 0}
	case Hours:
		return scale{75, 6, 2, 0}
	case Score:
		return scale{81, 7, 3, 0}
	case DownPrice:
		return scale{88, 6, 2, 0}
	case Fetch: // $0.000016 to $1.07 per GB
		return scale{94, 7, 3, 96}
	case UpPrice:
		return scale{101, 6, 2, 0}
	case StoragePrice:
		return scale{107, 6, 2, 0}
	case Hazard: // without planes: only records are asked
		return scale{plane: numberRows}
	case attributes:
	}
	return scale{}
}

// scales is scaleOf as a table, which the hot paths read.
//
//nolint:gochecknoglobals // a constant that Go cannot write as one
var scales = func() (t [attributes]scale) {
	for a := range attributes {
		t[a] = scaleOf(a)
	}
	return t
}()

// level returns the level of a value; it never falls when the value grows.
func (s scale) level(v uint32) uint32 {
	l := v
	if e := uint32(bits.Len32(v)); e > uint32(s.sub)+1 {
		shift := e - 1 - uint32(s.sub)
		l = shift<<s.sub + v>>shift
	}
	if l <= s.base {
		return 0
	}
	return min(l-s.base, 1<<s.bits-1)
}

// least returns the least value of a level, and most the greatest.
func (s scale) least(l uint8) uint32 {
	if l == 0 {
		return 0
	}
	v := uint32(l) + s.base
	if v < 2<<s.sub {
		return v
	}
	shift := v>>s.sub - 1
	return (v - shift<<s.sub) << shift
}

func (s scale) most(l uint8) uint32 {
	if uint32(l) >= 1<<s.bits-1 {
		return Unbounded
	}
	return s.least(l+1) - 1
}

// row is a record as the bits of the planes, without its site level.
type row [3]uint64

func (r *row) bit(plane int) uint64 { return r[plane>>6] >> (plane & 63) & 1 }

func (r *row) put(plane int, v uint64) {
	r[plane>>6] |= v << (plane & 63)
	if over := plane&63 + 8 - 64; over > 0 { // v has at most 8 bits
		r[plane>>6+1] |= v >> (8 - over)
	}
}

// encode returns the row of a record on a site of a level.
func encode(r *Record, site uint8) (out row) {
	for a := range attributes {
		s := &scales[a]
		out.put(int(s.plane), uint64(s.level(r.Value(a))))
	}
	out.put(siteRow, uint64(site))
	out.put(flagRow, uint64(r.Flags&0xff))
	out.put(flagRow+8, uint64(r.Flags>>8))
	out.put(regionRow, uint64(r.Region))
	return out
}

// siteLevel returns the level of a site with so many live slots.
func siteLevel(live uint32) uint8 { return uint8(min(bits.Len32(live), siteLevels-1)) }
