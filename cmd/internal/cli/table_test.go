package cli

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := Table{Columns: []Column{
		{Title: "MODEL"}, {Title: "FREE", Align: Right}, {Title: "$/h", Align: Decimal}, {Title: "HOST"},
	}}
	table.Add("RTX 4090", "2", "0.4", "attic")
	table.Add("H100 SXM", "16", "1.875", "evil\x1b[31mred\nname")
	table.Add("L4", "1", "12", "")
	var out strings.Builder
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `
MODEL     FREE     $/h  HOST
─────────────────────────────────────────
RTX 4090     2   0.4    attic
H100 SXM    16   1.875  evil�[31mred�name
L4           1  12
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}

// TestTableThatIsTooWide leaves columns out, the last first, and only then cuts cells.
func TestTableThatIsTooWide(t *testing.T) {
	table := Table{Columns: []Column{{Title: "IMAGE", Shrink: true}, {Title: "FREE", Align: Right, Drop: true}, {Title: "HOST"}, {Title: "TRADES", Align: Right, Drop: true}}}
	table.Add("registry/python", "2", "attic", "7")
	for width, want := range map[int]string{
		36: `
IMAGE            FREE  HOST   TRADES
────────────────────────────────────
registry/python     2  attic       7
`,
		35: `
IMAGE            FREE  HOST
────────────────────────────
registry/python     2  attic
No room for TRADES.
`,
		27: `
IMAGE            HOST
──────────────────────
registry/python  attic
No room for FREE, TRADES.
`,
		16: `
IMAGE      HOST
────────────────
…y/python  attic
No room for FREE, TRADES.
`,
	} {
		var out strings.Builder
		if err := table.fit(&out, width); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + out.String(); got != want {
			t.Errorf("at %d got:%s\nwant:%s", width, got, want)
		}
	}
	if got := len(table.Columns); got != 4 {
		t.Errorf("the table has %d columns left", got)
	}
}

func TestPrinterJSON(t *testing.T) {
	var out strings.Builder
	v := map[string]int{"free": 2}
	if err := (Printer{Out: &out, JSON: true}).Table(v, &Table{}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "{\n  \"free\": 2\n}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressLines(t *testing.T) {
	var out strings.Builder
	p := NewProgress(&out)
	b := p.Bar("image", 0)
	b.Set(100<<20, 212<<20, "1 peer")
	b.Set(212<<20, 212<<20, "1 peer")
	b.End()
	b.End()
	p.Close()
	if got, want := out.String(), "image: 212 MiB 1 peer\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
