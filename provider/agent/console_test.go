package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"rialto/provider"
	"rialto/tunnel/console"
)

// execBox is a sandbox in which processes run until they were resized twice.
type execBox struct {
	*fakeBox
	sizes []provider.Size
}

func (b *execBox) Exec(ctx context.Context, r provider.ExecRequest) (int, error) {
	for len(b.sizes) < 2 {
		select {
		case s, ok := <-r.Resize:
			if !ok {
				return 1, nil
			}
			b.sizes = append(b.sizes, s)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 42, nil
}

func TestConsoleBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		box := &execBox{fakeBox: &fakeBox{exited: make(chan struct{})}}
		b := backend{box, newKeyring(nil)}
		if s, err := b.Status(ctx); err != nil || s != (console.Status{}) {
			t.Errorf("before the start: got %+v, %v", s, err)
		}
		if _, err := b.Exec(ctx, console.Exec{Args: []string{"sh"}}); !errors.Is(err, console.ErrNotStarted) {
			t.Errorf("exec before the start: got %v", err)
		}
		if _, err := b.Dial(ctx, 80); !errors.Is(err, console.ErrNotStarted) {
			t.Errorf("dial before the start: got %v", err)
		}
		if err := box.Start(ctx, provider.Program{}); err != nil {
			t.Fatal(err)
		}
		if s, err := b.Status(ctx); err != nil || s != (console.Status{Started: true}) {
			t.Errorf("while it runs: got %+v, %v", s, err)
		}
		sizes := make(chan console.Size, 2)
		sizes <- console.Size{Rows: 24, Cols: 80}
		sizes <- console.Size{Rows: 50, Cols: 132}
		code, err := b.Exec(ctx, console.Exec{Args: []string{"sh"}, TTY: true, Resize: sizes})
		if err != nil || code != 42 || box.sizes[1] != (provider.Size{Rows: 50, Cols: 132}) {
			t.Errorf("exec: got %d, %v with sizes %v", code, err, box.sizes)
		}
		box.finish(provider.Exit{Code: 9, Reason: "deadline"})
		want := console.Status{Started: true, Ended: true, Code: 9, Reason: "deadline"}
		if s, err := b.Status(ctx); err != nil || s != want {
			t.Errorf("after the end: got %+v, %v, want %+v", s, err, want)
		}
	})
}
