//go:build linux

package histories

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/p2p/identity"
)

const (
	brokerURL = "http://broker" // whichever serves
	agents    = 4
	customers = 3
	workers   = 3 // of a customer
	patience  = 10 * time.Second
	settling  = 40 * time.Second // for all jobs to end once nothing fails any more
	never     = math.MaxInt64    // when a call with an unknown outcome returns
)

// result is what a run found.
type result struct {
	Kills      int            `json:"kills"`
	Aims       map[aim]int    `json:"kills_by_aim"`
	Rounds     int            `json:"rounds"`
	Calls      int            `json:"calls"`
	Unknown    int            `json:"calls_unknown"`
	Jobs       int            `json:"jobs"`
	States     map[string]int `json:"jobs_by_state"`
	Deposits   int            `json:"deposits"`
	Leases     int            `json:"leases_compared"`
	Bills      int            `json:"bills_recomputed"`
	Extras     int            `json:"bills_with_disk_and_traffic"`
	Followed   int            `json:"event_histories"`
	Partitions int            `json:"histories"`
	CheckMS    int64          `json:"check_ms"`
	RestartMS  int64          `json:"restart_ms_max"`
	Seconds    int            `json:"seconds"`
	Problems   map[string]int `json:"problems"`
}

// world is a broker that is killed again and again, its customers and its providers.
type world struct {
	tb     testing.TB
	ctx    context.Context //nolint:containedctx // the life of what handlers start
	begun  time.Time
	broker *program
	id     identity.ID
	admin  *api.Client
	agents []*agent

	trigger   trigger
	followers sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
	result result
	jobs   []porcupine.Operation
	money  []porcupine.Operation
	owed   map[broker.JobID]string // jobs that somebody was promised, of this round
	past   []*customer             // of earlier rounds
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{
		tb: t, ctx: t.Context(), begun: time.Now(), broker: newProgram(build(t), filepath.Join(t.TempDir(), "state")),
		random: rand.New(rand.NewPCG(seed, 1)), //nolint:gosec // reproducible
		result: result{Aims: map[aim]int{}, States: map[string]int{}, Problems: map[string]int{}}, owed: map[broker.JobID]string{},
	}
	w.trigger.kill = w.broker.kill
	if err := w.broker.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.broker.kill()
		_ = w.broker.gone() // asked for
	})
	ctx, stop := context.WithTimeout(t.Context(), settling)
	defer stop()
	if _, err := w.broker.await(ctx); err != nil {
		t.Fatalf("the broker does not start: %v\n%s", err, w.broker.said())
	}
	var admin struct{ Token string }
	text, err := os.ReadFile(filepath.Join(w.broker.dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(text, &admin)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w.admin, err = api.NewClient(brokerURL, admin.Token, newLine(w.broker, w.rand(), 0.05)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.admin.Close)
	info, err := w.admin.Market(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if w.id, err = identity.ParseID(info.Broker); err != nil {
		t.Fatal(err)
	}
	run, end := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	for n := range agents {
		a := newAgent(run, t, w, n)
		w.agents = append(w.agents, a)
		serving.Go(func() { a.serve(run) }) // ends with the cleanup
	}
	t.Cleanup(func() { end(); serving.Wait() })
	return w
}

func (w *world) clock() int64 { return int64(time.Since(w.begun)) }

// rand returns a source of its own for somebody.
func (w *world) rand() *rand.Rand {
	w.mu.Lock()
	defer w.mu.Unlock()
	return rand.New(rand.NewPCG(w.random.Uint64(), 2)) //nolint:gosec // reproducible
}

func (w *world) count(f func(*result)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.result)
}

// problem notes what should not be, and says it the first times.
func (w *world) problem(kind, format string, args ...any) {
	w.mu.Lock()
	w.result.Problems[kind]++
	n, kills := w.result.Problems[kind], w.result.Kills
	w.mu.Unlock()
	if n <= 3 {
		w.tb.Errorf("after %d kills, %s: %s", kills, kind, fmt.Sprintf(format, args...))
	}
}

// record notes a call and what came of it. Nothing is known of when one with an unknown outcome happened.
func (w *world) record(history *[]porcupine.Operation, begun int64, in, out any, open bool) {
	op := porcupine.Operation{Input: in, Output: out, Call: begun, Return: w.clock()}
	if open {
		op.Return = never
	} else if j, ok := in.(jobInput); !ok || j.call == submit || j.call == cancel {
		w.trigger.hit(aimAnswer)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Calls++
	if open {
		w.result.Unknown++
	}
	*history = append(*history, op)
}

// promised notes that a job exists by what the broker let somebody see.
func (w *world) promised(id broker.JobID, by string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed[id] = by
}

// insist asks whichever broker serves until one answers.
func (w *world) insist(ctx context.Context, ask func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, settling)
	defer stop()
	for {
		if _, err := w.broker.await(ctx); err != nil {
			return err
		}
		err := ask(ctx)
		if err == nil || w.outcome(err) != unknown {
			return err
		}
	}
}
