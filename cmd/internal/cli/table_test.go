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
