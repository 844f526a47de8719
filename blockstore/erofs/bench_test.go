package erofs_test

import (
	"io"
	"testing"

	"rialto/blockstore/erofs"
	"rialto/blockstore/erofs/erofstest"
)

// BenchmarkWrite writes the metadata of a tree of 46,000 files.
func BenchmarkWrite(b *testing.B) {
	files := erofstest.Python(1, 46_000)
	b.Logf("%d nodes, %d blocks, %d MB", len(files.Tree.Nodes), len(files.Tree.Blocks), files.Tree.Size()/1e6)
	for name, p := range placements(files.Tree) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := erofs.Write(io.Discard, files.Tree, p); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(image(b, files.Tree, p)))/1e6, "MB")
		})
	}
}
