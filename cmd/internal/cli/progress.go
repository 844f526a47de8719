package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress shows how far transfers of bytes have come: moving bars on a terminal, one line at the
// start and one at the end otherwise. Methods are safe for concurrent use.
type Progress struct {
	out  io.Writer
	bars *mpb.Progress // nil: plain lines

	mu   sync.Mutex
	open []*mpb.Bar
}

// refresh is how often bars move; closing them takes as long, and the container's first output waits for it.
const refresh = 50 * time.Millisecond

// barWidth leaves room on a line of 80 characters for what the bar is about and how far it is.
const barWidth = 24

// NewProgress shows progress on w. The caller calls Close.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{out: w}
	if IsTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(barWidth), mpb.WithRefreshRate(refresh))
	}
	return p
}

// Close ends all bars; they disappear. It is idempotent.
func (p *Progress) Close() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, b := range p.open {
		b.Abort(true)
	}
	p.open = nil
	p.mu.Unlock()
	p.bars.Wait()
}

// Say prints a line above the bars.
func (p *Progress) Say(line string) {
	if p.bars == nil {
		fmt.Fprintln(p.out, line)
		return
	}
	_, _ = p.bars.Write([]byte(line + "\n")) // the bars have ended: there is nobody to read it
}

// Bar is one transfer.
type Bar struct {
	out  io.Writer
	name string
	bar  *mpb.Bar

	mu   sync.Mutex
	text string // name, as it was last renamed
	note string
	done int64
	end  bool
}

// Bar starts a transfer of total bytes; total zero means not known yet.
func (p *Progress) Bar(name string, total int64) *Bar {
	b := &Bar{out: p.out, name: name, text: name}
	if p.bars == nil {
		return b
	}
	b.bar = p.bars.New(total, mpb.BarStyle().Lbound("").Filler("━").Tip("━").Padding("─").Rbound(""),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.label()
		}, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s.Total == 0 {
				return b.note
			}
			return " " + FormatBytes(s.Current) + " / " + FormatBytes(s.Total) + b.note
		})))
	p.mu.Lock()
	p.open = append(p.open, b.bar)
	p.mu.Unlock()
	return b
}

// label is the text in front, cut so that the line does not break where nothing can take it back.
func (b *Bar) label() string {
	most := max(barWidth, Width(b.out)-barWidth-4)
	if text := []rune(b.text); len(text) > most {
		return string(text[:most-1]) + "…"
	}
	return b.text
}

// Rename changes what a moving bar says in front.
func (b *Bar) Rename(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = text
}

// Set moves the bar to done of total bytes with a note behind it, such as where the bytes come from.
func (b *Bar) Set(done, total int64, note string) {
	b.mu.Lock()
	b.done = done
	if b.note = ""; note != "" {
		b.note = " " + note
	}
	b.mu.Unlock()
	if b.bar != nil {
		b.bar.SetTotal(max(total, done+1), false) // only End completes a bar
		b.bar.SetCurrent(done)
	}
}

// End completes the bar. Without a terminal it prints the one line of the transfer.
func (b *Bar) End() {
	b.mu.Lock()
	done, note, first := b.done, b.note, !b.end
	b.end = true
	b.mu.Unlock()
	if !first {
		return
	}
	if b.bar == nil {
		fmt.Fprintf(b.out, "%s: %s%s\n", b.name, FormatBytes(done), note)
		return
	}
	b.bar.SetTotal(-1, true)
}
