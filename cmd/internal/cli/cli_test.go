package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

func TestReport(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(&InterruptError{Signal: syscall.SIGINT})
	base := errors.New("no matching offer")
	for _, tt := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"nothing", nil, 0, ""},
		{"container", fmt.Errorf("wrapped: %w", &ExitError{Code: 7}), 7, ""},
		{"own", base, 125, "rialto: no matching offer\n"},
		{
			"hint", fmt.Errorf("match job j-1: %w", Hint(base, "see `rialto offers`")), 125,
			"rialto: match job j-1: no matching offer\n  → see `rialto offers`\n",
		},
		{"interrupt", context.Canceled, 130, "rialto: interrupted\n"},
		{"deadline", context.DeadlineExceeded, 125, "rialto: context deadline exceeded\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if code := Report(interrupted, &out, "rialto", tt.err); code != tt.code {
				t.Errorf("code: got %d, want %d", code, tt.code)
			}
			if out.String() != tt.text {
				t.Errorf("text: got %q, want %q", out.String(), tt.text)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	models := []string{"RTX 3090", "RTX 4090", "A100 80GB", "H100", "L4"}
	for word, want := range map[string]string{
		"RTX 409":   "RTX 4090",
		"rtx4090":   "RTX 4090",
		"4090":      "RTX 4090",
		"h10":       "H100",
		"H1O0":      "H100",
		"a100 80":   "A100 80GB",
		"MI300X":    "",
		"":          "",
		"banana":    "",
		"L40 is no": "",
	} {
		if got, ok := Nearest(word, models); got != want || ok != (want != "") {
			t.Errorf("Nearest(%q): got %q, %v; want %q", word, got, ok, want)
		}
	}
	if got, _ := Nearest(strings.Repeat("x", 1<<20), models); got != "" {
		t.Errorf("a huge word: got %q, want nothing", got)
	}
}

func TestUnknownWords(t *testing.T) {
	tree := func() *cobra.Command {
		root := &cobra.Command{Use: "rialto"}
		run := &cobra.Command{Use: "run IMAGE", Args: Args(1, 1), RunE: func(*cobra.Command, []string) error { return nil }}
		run.Flags().String("gpu-memory", "", "")
		run.Flags().Int("cpus", 0, "")
		weights := &cobra.Command{Use: "weights"}
		weights.AddCommand(&cobra.Command{Use: "add", Run: func(*cobra.Command, []string) {}})
		root.AddCommand(run, weights)
		return root
	}
	for _, tt := range []struct {
		args string
		want string
	}{
		{"rnu", "rialto: unknown command \"rialto rnu\"\n  → did you mean `rialto run`?\n"},
		{"weights ad", "rialto: unknown command \"rialto weights ad\"\n  → did you mean `rialto weights add`?\n"},
		{"frobnicate", "rialto: unknown command \"rialto frobnicate\"\n  → `rialto --help` lists the commands\n"},
		{"run --gpu-memroy 1 x", "rialto: unknown flag --gpu-memroy of `rialto run`\n  → did you mean --gpu-memory?\n"},
		{"run -z x", "rialto: unknown flag -z of `rialto run`\n  → `rialto run --help` lists the flags\n"},
		{"run --cpus many x", "rialto: --cpus: strconv.ParseInt: parsing \"many\": invalid syntax\n"},
		{"run", "rialto: `rialto run` needs more arguments: rialto run IMAGE\n  → `rialto run --help` shows examples\n"},
		{"run a b", "rialto: `rialto run` does not take \"b\": rialto run IMAGE\n  → `rialto run --help` shows examples\n"},
	} {
		var out strings.Builder
		err := Execute(t.Context(), tree(), strings.Fields(tt.args), io.Discard, &out)
		if code := Report(t.Context(), &out, "rialto", err); code != ExitOwn {
			t.Errorf("%s: code: got %d, want %d", tt.args, code, ExitOwn)
		}
		if out.String() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.args, out.String(), tt.want)
		}
	}
}
