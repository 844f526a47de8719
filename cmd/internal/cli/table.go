package cli

import (
	"encoding/json"
	"fmt"
	"io"
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
	paint := newTones(w)
	rows := t.aligned()
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
			s = s.PaddingRight(2)
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
		longest := 0
		for _, row := range rows {
			longest = max(longest, behindPoint(row[j]))
		}
		for _, row := range rows {
			row[j] += strings.Repeat(" ", longest-behindPoint(row[j]))
		}
	}
	return rows
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
