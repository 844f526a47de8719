package cli

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress shows how far transfers of bytes have come: moving bars on a terminal, one line at the
// start and one at the end otherwise. Methods are safe for concurrent use.
type Progress struct {
	out  io.Writer
	bars *mpb.Progress // nil: plain lines
}

// NewProgress shows progress on w. The caller calls Close.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{out: w}
	if IsTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(32))
	}
	return p
}

// Close draws the last state and ends all bars; those that are not complete disappear.
func (p *Progress) Close() {
	if p.bars != nil {
		p.bars.Shutdown()
	}
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
			return b.text
		}, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersKibiByte(" % .0f / % .0f"), decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.note
		})))
	return b
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
		b.note = "  " + note
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
