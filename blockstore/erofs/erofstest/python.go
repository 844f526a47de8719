package erofstest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"rialto/blockstore"
)

// Python returns a tree with the shape of an image with a Python installation, of about files files: of 100, 65 have
// less than 4 KiB, 31 less than 64 KiB, 3.8 less than 1 MiB, and the rest up to 3 MiB; 46,000 are about 650 MB.
// The seed decides all of it.
func Python(seed uint64, files int) *Files {
	var b Builder
	r := rand.New(rand.NewPCG(seed, 1))
	bytes := Random(seed, 64<<20)
	between := func(lo, hi float64) int { return int(lo * math.Pow(hi/lo, math.Pow(r.Float64(), 3))) }
	dir := ""
	for i := range files {
		if i%9 == 0 { // about nine files in a directory, three levels of them
			dir = fmt.Sprintf("usr/lib/python3/package%03d/module%02d/part%d", r.IntN(120), r.IntN(12), r.IntN(4))
		}
		var size int
		switch p := r.Float64(); {
		case p < 0.65:
			size = r.IntN(4096)
		case p < 0.96:
			size = between(4096, 64<<10)
		case p < 0.998:
			size = between(64<<10, 1<<20)
		default:
			size = between(1<<20, 3<<20)
		}
		at := r.IntN(len(bytes) - size)
		b.Add(fmt.Sprintf("%s/file%05d.py", dir, i), blockstore.Node{
			Kind: blockstore.File, Mode: 0o644, Sec: 1_700_000_000 + int64(i), Nsec: r.Uint32N(1e9),
		}, bytes[at:at+size])
	}
	return b.Build()
}
