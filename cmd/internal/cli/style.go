package cli

import (
	"io"
	"os"

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
