//go:build linux

// Package histories shows that the broker loses nothing: the real program on a real disk, customers with the real client
// and providers with real envelopes, and SIGKILL again and again, at any time and at the worst: the moment that somebody
// has an answer.
//
// All that customers call and are answered is recorded. A call whose answer got lost may have happened, now or later, or
// never. Porcupine then looks for an order in which a sequential broker (the models) gives the same answers:
// a job once per idempotency key and once per signed spec, states and costs that never go back, an end that stays, a
// cancellation that holds, a deposit once per ref, and available + held + spent that are what was paid in, at every moment.
//
// Beside the histories: every job that a customer or a provider was told of is listed after every restart, and ends
// once nothing fails any more; events are never rewritten; each lease is what its provider granted, under an epoch of its
// own; what a provider was acknowledged is billed and not more; each bill is computed again from its receipt; the books are audited at
// the end.
//
// One provider's clock is 2 % fast, and all of them send reports twice and in the wrong order.
package histories

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// killsPerRound bounds a history, so that it is checked in no time.
const killsPerRound = 20

// TestHistories kills a broker a few times, or RIALTO_KILLS. RIALTO_SEED makes the same choices again, if not at the same
// moments; RIALTO_JSON names a file for the figures.
func TestHistories(t *testing.T) {
	kills, seed := 8, uint64(time.Now().UnixNano())
	if s := os.Getenv("RIALTO_KILLS"); s != "" {
		kills = int(number(t, s))
	}
	if s := os.Getenv("RIALTO_SEED"); s != "" {
		seed = number(t, s)
	}
	t.Logf("RIALTO_SEED=%d", seed)
	w := newWorld(t, seed)
	for left := kills; left > 0 && !t.Failed(); left -= killsPerRound {
		w.round(min(left, killsPerRound))
		t.Logf("%s", w.summary())
	}
	if t.Failed() {
		return
	}
	w.finish()
	t.Logf("%s", w.summary())
	if file := os.Getenv("RIALTO_JSON"); file != "" {
		if err := os.WriteFile(file, []byte(w.summary()+"\n"), 0o600); err != nil {
			t.Error(err)
		}
	}
	if r := w.result; r.Kills < kills || r.Jobs == 0 || r.Deposits == 0 || r.Leases == 0 || r.Bills >= 50 && r.Extras == 0 {
		t.Errorf("too little happened: %+v", r)
	}
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Seconds = int(time.Since(w.begun).Seconds())
	text, err := json.Marshal(w.result)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}
