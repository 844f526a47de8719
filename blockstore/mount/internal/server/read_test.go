package server

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/erofs/erofstest"
	"rialto/blockstore/mount/internal/wire"
)

// FuzzPrivateRead reads a private tree's device anywhere and compares with the plain bytes.
func FuzzPrivateRead(f *testing.F) {
	var b erofstest.Builder
	for i, size := range []int{1, 4095, 4096, 5000, 70_000, blockstore.MaxBlock + 17} {
		b.Add(string(rune('a'+i)), blockstore.Node{Kind: blockstore.File, Mode: 0o644}, erofstest.Random(uint64(i), size))
	}
	files := b.Build()
	table := wire.NewTable(files.Tree, files.Tree.Layout())
	plain := make([]byte, table.Size)
	for _, s := range table.Slots {
		copy(plain[s.Addr:], files.Data[s.Block][s.Offset:s.Offset+s.Size])
	}
	store := newBlocks(slog.New(slog.DiscardHandler))
	path := filepath.Join(f.TempDir(), "pack")
	var pack []byte
	table.Blocks = nil
	offsets := make([]int64, len(files.Data))
	for i, p := range files.Data {
		k, c := blockstore.Salt{7}.Key(p), bytes.Clone(p)
		k.Crypt(c, 0)
		offsets[i] = int64(len(pack))
		pack = append(pack, c...)
		table.Keys = append(table.Keys, k)
		table.Blocks = append(table.Blocks, blockstore.Ref{CID: blockstore.Sum(c), Size: len(c)})
	}
	if err := os.WriteFile(path, pack, 0o600); err != nil {
		f.Fatal(err)
	}
	t := newTree(blockstore.Sum(nil), table, store, time.Minute)
	for i, r := range table.Blocks {
		if err := store.have(r.CID, path, offsets[i]); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(uint32(0), uint32(table.Size))
	f.Add(uint32(4097), uint32(3))
	f.Add(uint32(table.Size-1), uint32(1))
	f.Fuzz(func(tb *testing.T, at, n uint32) {
		addr := int64(at) % table.Size
		buf := bytes.Repeat([]byte{0xee}, int(min(int64(n), table.Size-addr)))
		if err := t.read(buf, addr, 0, nil); err != nil {
			tb.Fatal(err)
		}
		if !bytes.Equal(buf, plain[addr:addr+int64(len(buf))]) {
			tb.Errorf("%d bytes from %d on are wrong", len(buf), addr)
		}
	})
}
