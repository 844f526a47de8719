package cli

import (
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"golang.org/x/term"
)

// Tone is what a piece of text says by its colour. The text says it too: colour is never alone.
type Tone uint8

// Tones.
const (
	Plain Tone = iota
	Dim
	Strong
	Good
	Warn
	Bad
)

// tones paints for one writer. Its renderer sees whether the writer is a terminal and honours
// NO_COLOR and CLICOLOR_FORCE.
type tones struct{ renderer *lipgloss.Renderer }

func newTones(w io.Writer) tones { return tones{lipgloss.NewRenderer(w)} }

func (t tones) style(tone Tone) lipgloss.Style {
	s := t.renderer.NewStyle()
	switch tone {
	case Plain:
	case Dim:
		s = s.Faint(true)
	case Strong:
		s = s.Bold(true)
	case Good:
		s = s.Foreground(lipgloss.ANSIColor(2))
	case Warn:
		s = s.Foreground(lipgloss.ANSIColor(3))
	case Bad:
		s = s.Foreground(lipgloss.ANSIColor(1)).Bold(true)
	}
	return s
}

func (t tones) paint(tone Tone, text string) string { return t.style(tone).Render(text) }

// Paint colours text for a writer, if the writer takes colours.
func Paint(w io.Writer, tone Tone, text string) string { return newTones(w).paint(tone, text) }

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Width is how many characters a line of w holds; zero when w is no terminal.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Wrap joins parts with sep into lines that w holds, breaking only between parts.
func Wrap(w io.Writer, parts []string, sep string) string {
	width := Width(w)
	var text strings.Builder
	column := 0
	for i, p := range parts {
		size := lipgloss.Width(p)
		switch {
		case i == 0:
		case width > 0 && column+lipgloss.Width(sep)+size > width:
			text.WriteString("\n")
			column = 0
		default:
			text.WriteString(sep)
			column += lipgloss.Width(sep)
		}
		text.WriteString(p)
		column += size
	}
	return text.String()
}
