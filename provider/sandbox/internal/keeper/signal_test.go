package keeper

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

func TestParseReaction(t *testing.T) {
	const none = "0000000000000000"
	const term = "0000000000004000" // bit 14
	status := func(blocked, ignore, caught string) string {
		return "Name:\tx\nSigPnd:\t" + term + "\nSigBlk:\t" + blocked + "\nSigIgn:\t" + ignore + "\nSigCgt:\t" + caught + "\n"
	}
	for _, tc := range []struct {
		name, status string
		want         reaction
		fails        bool
	}{
		{name: "nothing set", status: status(none, none, none), want: lost},
		{name: "others set", status: status("fffffffffffb0000", "ffffffffffff8fff", "ffffffffffffbfff"), want: lost},
		{name: "caught", status: status(none, none, term), want: heard},
		{name: "ignored", status: status(none, term, none), want: ignored},
		{name: "blocked", status: status(term, none, none), want: heard},
		{name: "blocked and ignored", status: status(term, term, none), want: heard},
		{name: "no masks", status: "Name:\tx\n", fails: true},
		{name: "not a mask", status: status("zz", none, none), fails: true},
		{name: "empty", fails: true},
	} {
		got, err := parseReaction([]byte(tc.status), syscall.SIGTERM)
		if got != tc.want || (err != nil) != tc.fails {
			t.Errorf("%s: got %v, %v, want %v", tc.name, got, err, tc.want)
		}
	}
}

// TestParseReactionOfThisProcess holds the parser to what the kernel writes.
func TestParseReactionOfThisProcess(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	defer signal.Stop(c)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc:", err)
	}
	if got, err := parseReaction(status, syscall.SIGUSR2); got != heard || err != nil {
		t.Errorf("a caught signal: got %v, %v", got, err)
	}
	if got, err := parseReaction(status, syscall.SIGSTOP); got != lost || err != nil {
		t.Errorf("a signal that cannot be caught: got %v, %v", got, err)
	}
}

func FuzzParseReaction(f *testing.F) {
	f.Add("SigBlk:\t0\nSigIgn:\t0\nSigCgt:\t4000\n")
	f.Add(strings.Repeat("SigCgt:", 3))
	f.Fuzz(func(t *testing.T, status string) {
		if r, err := parseReaction([]byte(status), syscall.SIGTERM); err != nil && r != heard {
			t.Errorf("reaction %v with error %v", r, err)
		}
	})
}
