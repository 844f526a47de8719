package book

import (
	"math/bits"
	"testing"
)

// Planes of different attributes must not overlap, levels must order as values do and be in range, and next to each
// other they must be next to each other: a skipped level is a plane wasted.
func TestScales(t *testing.T) {
	next := uint8(0)
	for a := range attributes {
		s := scaleOf(a)
		if s.plane != next {
			t.Errorf("attribute %d begins at plane %d, want %d", a, s.plane, next)
		}
		next += s.bits
		last := s.level(0)
		if last != 0 {
			t.Errorf("attribute %d: level(0) = %d", a, last)
		}
		step := func(v uint32) {
			l := s.level(v)
			if l < last || l > last+1 || l >= 1<<s.bits {
				t.Fatalf("attribute %d: level(%d) = %d after %d", a, v, l, last)
			}
			last = l
			if v < s.least(uint8(l)) || v > s.most(uint8(l)) {
				t.Fatalf("attribute %d: level %d is %d…%d, not of %d", a, l, s.least(uint8(l)), s.most(uint8(l)), v)
			}
		}
		for v := range uint32(1 << 12) {
			step(v)
		}
		for e := 12; e < 32; e++ { // each step of the mantissa from there on, and the value before it
			for m := range uint32(32) {
				v := (32 + m) << (e - 5)
				if m+uint32(e) > 12 {
					step(v - 1)
				}
				step(v)
			}
		}
		step(1<<32 - 1)
	}
	if next != numberRows {
		t.Errorf("%d planes of numbers, want %d", next, numberRows)
	}
}

func TestRow(t *testing.T) {
	ones := Record{
		VRAM: Unbounded, RAM: Unbounded, Disk: Unbounded, Unreliability: Unbounded, Flags: 0xffff, Region: 255, Capability: 255,
		CUDA: 255, Cores: 65535, DiskBandwidth: 65535, Down: 65535, Up: 65535, PCIe: 65535, Ports: 65535, Hours: 65535, Score: 65535,
		DownPrice: 65535, UpPrice: 65535, StoragePrice: 65535, Price: Unbounded, GPUs: 255,
	}
	var zeros int
	r := encode(&ones, siteLevels-1)
	for p := range wideRows {
		zeros += 1 - int(r.bit(p))
	}
	// Numbers of 16 bits do not reach the ends of their scales.
	if got := encode(&Record{}, 0); got != (row{}) || zeros > 22 || bits.Len64(r[2]) != wideRows-128 {
		t.Errorf("row of zeros %x, of ones %x with %d zeros", got, r, zeros)
	}
	one := encode(&Record{Region: 0xa5, Flags: 0x8001}, 9)
	want := row{}
	for _, p := range []int{regionRow, regionRow + 2, regionRow + 5, regionRow + 7, flagRow, flagRow + 15, siteRow, siteRow + 3} {
		want[p>>6] |= 1 << (p & 63)
	}
	if one != want {
		t.Errorf("row %x, want %x", one, want)
	}
}
