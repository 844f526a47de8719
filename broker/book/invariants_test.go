package book

// fataler is a test of either kind.
type fataler interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// checkInvariants verifies the invariants of the package comment.
func checkInvariants(t fataler, x *Index) {
	var inWide, inNarrow int
	for _, m := range x.cells.models {
		for _, c := range m {
			inWide += checkLadder(t, x, &x.wide, &c.all)
			if c.regions == nil {
				inNarrow += c.live
				continue
			}
			for i := range c.regions {
				inNarrow += checkLadder(t, x, &x.narrow, &c.regions[i])
			}
		}
	}
	if live := int(x.census.live); inWide != live || inNarrow != live {
		t.Fatalf("%d live slots, %d and %d in ladders", live, inWide, inNarrow)
	}
	for i := range x.sites {
		st := &x.sites[i]
		var n uint32
		for j := st.first; j != 0; n++ {
			pg, k := x.pages.at(j)
			if pg.status[k] != live || pg.records[k].Site != uint32(i) {
				t.Fatalf("slot %d is not on site %d", j, i)
			}
			j = pg.next[k]
		}
		if l := siteLevel(st.live); n != st.live || st.level < l || st.level > l+1 && n > 0 {
			t.Fatalf("site %d: %d slots, says %d and level %d", i, n, st.live, st.level)
		}
	}
}

func checkLadder[T any, L leaf[T]](t fataler, x *Index, tr *tree[T, L], l *ladder) (n int) {
	var last key
	for _, e := range l.dir {
		lf := tr.at(e.leaf)
		slots, codes := L(lf).arrays()
		if e.n == 0 {
			t.Fatal("an empty leaf")
		}
		for i, s := range slots[:e.n] {
			r := x.pages.record(s)
			k := key{r.Price, s}
			if x.pages.status(s) != live || n+i > 0 && !last.less(k) || i == 0 && k != e.first || codes[i] != code(r.Price) {
				t.Fatalf("slot %d is out of place", s)
			}
			last = k
			if got, want := column(lf, i), encode(r, x.levelOf(r)); !equalRows(got, want, lf) {
				t.Fatalf("slot %d: planes say %x, want %x", s, got, want)
			}
		}
		if got := column(lf, int(e.n)); int(e.n) < len(slots) && got != (row{}) {
			t.Fatal("bits past the last slot")
		}
		if got := L(lf).zone(int(e.n)); got != e.zone || got != zoneOf(x, slots[:e.n]) {
			t.Fatalf("zone %v, want %v", e.zone, zoneOf(x, slots[:e.n]))
		}
		n += int(e.n)
	}
	return n
}

// column reads a slot's row back from the planes.
func column(lf any, i int) (r row) {
	switch l := lf.(type) {
	case *wide:
		for p := range l.planes {
			r[p>>6] |= l.planes[p][i>>6&3] >> (i & 63) & 1 << (p & 63)
		}
	case *narrow:
		for p := range l.planes {
			r[p>>6] |= l.planes[p] >> (i & 63) & 1 << (p & 63)
		}
	}
	return r
}

func equalRows(a, b row, lf any) bool {
	if _, ok := lf.(*narrow); ok {
		for p := narrowRows; p < wideRows; p++ {
			b[p>>6] &^= 1 << (p & 63)
		}
	}
	return a == b
}

func zoneOf(x *Index, slots []Slot) (z zone) {
	z.downPrice, z.fetch = maxLevel, maxLevel
	for _, s := range slots {
		r := x.pages.record(s)
		level := func(a Attribute) uint8 { return uint8(scales[a].level(r.Value(a))) }
		z.down, z.disk = max(z.down, level(Down)), max(z.disk, level(DiskBandwidth))
		z.score, z.downPrice, z.fetch = max(z.score, level(Score)), min(z.downPrice, level(DownPrice)), min(z.fetch, level(Fetch))
	}
	return z
}
