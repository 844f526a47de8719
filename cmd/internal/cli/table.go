package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
)

// Align says how the cells of a column stand under each other.
type Align uint8

// Alignments.
const (
	Left    Align = iota
	Right         // counts and sizes
	Decimal       // amounts of different precision: the points stand under each other
)

// Column is one column of a [Table].
type Column struct {
	Title string
	Align Align
	// Tone colours a cell by its text; nil: plain.
	Tone func(text string) Tone
	// Shrink lets long cells be cut on a terminal that is too narrow for the table.
	Shrink bool
	// Drop lets the column be left out, and named below the table, on a terminal that is too narrow: the last such first.
	Drop bool
}

// Table is rows for a person. Cells are single lines; control characters in them are replaced,
// because names in a market are chosen by strangers.
type Table struct {
	Columns []Column
	Rows    [][]string
}

// Add appends a row with one cell per column.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Write prints the table. An empty table prints only its header.
func (t *Table) Write(w io.Writer) error {
	if width := Width(w); width > 0 {
		return t.fit(w, width)
	}
	return t.write(w, t.aligned())
}

// fit prints the table on a terminal of some width.
func (t *Table) fit(w io.Writer, width int) error {
	narrow := Table{Columns: slices.Clone(t.Columns)}
	rows := t.aligned()
	var dropped []string
	for j, c := range slices.Backward(t.Columns) {
		if _, total := narrow.widths(rows); total <= width || !c.Drop {
			continue
		}
		dropped = append(dropped, c.Title)
		narrow.Columns = slices.Delete(narrow.Columns, j, j+1)
		for i := range rows {
			rows[i] = slices.Delete(rows[i], j, j+1)
		}
	}
	narrow.shrink(rows, width)
	if err := narrow.write(w, rows); err != nil || len(dropped) == 0 {
		return err
	}
	slices.Reverse(dropped)
	_, err := fmt.Fprintln(w, Paint(w, Dim, "No room for "+strings.Join(dropped, ", ")+"."))
	return err
}

func (t *Table) write(w io.Writer, rows [][]string) error {
	paint := newTones(w)
	headers := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		headers[i] = c.Title
	}
	style := func(row, col int) lipgloss.Style {
		s := paint.style(Plain)
		switch {
		case col >= len(t.Columns):
			return s
		case row == table.HeaderRow:
			s = paint.style(Strong)
		case t.Columns[col].Tone != nil:
			s = paint.style(t.Columns[col].Tone(strings.TrimSpace(rows[row][col])))
		}
		if t.Columns[col].Align != Left {
			s = s.Align(lipgloss.Right)
		}
		if col < len(t.Columns)-1 {
			s = s.PaddingRight(gap)
		}
		return s
	}
	drawn := table.New().
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).
		BorderColumn(false).BorderRow(false).BorderHeader(true).BorderStyle(paint.style(Dim)).
		Headers(headers...).Rows(rows...).StyleFunc(style)
	var text strings.Builder
	for line := range strings.Lines(drawn.Render() + "\n") {
		text.WriteString(strings.TrimRight(line, " \n"))
		text.WriteByte('\n')
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// aligned returns the rows, one clean cell per column, decimal columns padded behind the point.
func (t *Table) aligned() [][]string {
	rows := make([][]string, len(t.Rows))
	for i, row := range t.Rows {
		rows[i] = make([]string, len(t.Columns))
		for j := range min(len(row), len(t.Columns)) {
			rows[i][j] = Clean(row[j])
		}
	}
	for j, c := range t.Columns {
		if c.Align != Decimal {
			continue
		}
		column := make([]string, len(rows))
		for i, row := range rows {
			column[i] = row[j]
		}
		for i, cell := range AlignPoints(column) {
			rows[i][j] = cell
		}
	}
	return rows
}

// AlignPoints pads numbers to one width so that their points stand under each other.
func AlignPoints(cells []string) []string {
	before, behind := 0, 0
	for _, c := range cells {
		n := behindPoint(c)
		before, behind = max(before, lipgloss.Width(c)-n), max(behind, n)
	}
	padded := make([]string, len(cells))
	for i, c := range cells {
		n := behindPoint(c)
		padded[i] = strings.Repeat(" ", before-(lipgloss.Width(c)-n)) + c + strings.Repeat(" ", behind-n)
	}
	return padded
}

// gap is the space between columns, and leastCell what shrinking leaves of a cell.
const (
	gap       = 2
	leastCell = 8
)

// widths returns how wide columns and table are.
func (t *Table) widths(rows [][]string) (widths []int, total int) {
	widths, total = make([]int, len(t.Columns)), gap*(len(t.Columns)-1)
	for j, c := range t.Columns {
		widths[j] = lipgloss.Width(c.Title)
		for _, row := range rows {
			widths[j] = max(widths[j], lipgloss.Width(row[j]))
		}
		total += widths[j]
	}
	return widths, total
}

// shrink cuts the cells of columns that allow it, from the left column on, until the table fits.
func (t *Table) shrink(rows [][]string, width int) {
	widths, total := t.widths(rows)
	for j, c := range t.Columns {
		if !c.Shrink || total <= width {
			continue
		}
		fit := max(leastCell, lipgloss.Width(c.Title), widths[j]-(total-width))
		total -= max(0, widths[j]-fit)
		for _, row := range rows {
			row[j] = cut(row[j], fit)
		}
	}
}

// cut keeps the end of a cell, which tells images and hosts apart better than their beginning.
func cut(cell string, width int) string {
	if lipgloss.Width(cell) <= width {
		return cell
	}
	runes := []rune(cell)
	for len(runes) > 0 && lipgloss.Width(string(runes)) > width-1 {
		runes = runes[1:]
	}
	return "…" + string(runes)
}

// behindPoint counts the digits behind a cell's point and the point itself.
func behindPoint(cell string) int {
	_, digits, ok := strings.Cut(cell, ".")
	if !ok {
		return 0
	}
	return 1 + len(digits)
}

// Clean makes a stranger's text safe for a terminal: one line, no control characters.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == '\u2028' || r == '\u2029' || (r >= '\u202a' && r <= '\u202e') {
			return '\uFFFD'
		}
		return r
	}, s)
}

// Printer prints results: JSON for programs or text for people.
type Printer struct {
	Out  io.Writer
	JSON bool
}

// Print writes v as indented JSON, or calls text.
func (p Printer) Print(v any, text func(w io.Writer) error) error {
	if !p.JSON {
		return text(p.Out)
	}
	e := json.NewEncoder(p.Out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print json: %w", err)
	}
	return nil
}

// Table writes v as indented JSON, or t for people.
func (p Printer) Table(v any, t *Table) error {
	return p.Print(v, t.Write)
}
