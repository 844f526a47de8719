package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"rialto/broker/ledger"
)

const childDir = "RIALTO_LEDGER_CHILD"

// TestMain lets the test binary be its own victim.
func TestMain(m *testing.M) {
	for name, write := range map[string]func(string, io.Writer) error{childDir: writeForever, fullDir: writeUntilRefused} {
		if dir := os.Getenv(name); dir != "" {
			if err := write(dir, os.Stdout); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// writeForever writes batches and acknowledges each on w after it is durable.
func writeForever(dir string, w io.Writer) error {
	ctx := context.Background()
	s, err := ledger.Open(ctx, ledger.Config{Dir: dir, Free: plenty, Checkpoint: 4 << 10}) // of some ten batches
	if err != nil {
		return err
	}
	epoch, err := s.Campaign(ctx)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprint(epoch, "-", i)
		batch := []ledger.Mutation{
			{Key: "last", Value: []byte(id)},
			{Key: "new/" + id, Value: []byte(strings.Repeat(id, 1+i%50)), New: true},
		}
		seq, err := s.Apply(ctx, epoch, id, batch)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, seq, id); err != nil {
			return err
		}
	}
}

// TestKill kills a writer at random moments: what it acknowledged is there after the next open, the chain
// holds, and nothing half-written is seen.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[uint64]string{}
	for range 20 {
		killOnce(t, dir, rand.IntN(150), acked)
		s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
		if err != nil {
			t.Fatalf("open after kill: %v", err)
		}
		if _, err := ledger.Audit(t.Context(), s); err != nil {
			t.Fatalf("audit after kill: %v", err)
		}
		ids := map[uint64]string{}
		for b, err := range s.Tail(t.Context(), 1) {
			if err != nil {
				t.Fatal(err)
			}
			ids[b.Seq] = b.ID
		}
		for seq, id := range acked {
			if ids[seq] != id {
				t.Errorf("batch %d was acknowledged as %q, the journal has %q", seq, id, ids[seq])
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acked) < 20 {
		t.Errorf("only %d batches were acknowledged: the test tests nothing", len(acked))
	}
}

// killOnce starts a writer, reads some acknowledgements, kills it, and reads the rest.
func killOnce(t *testing.T, dir string, after int, acked map[uint64]string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		var seq uint64
		var id string
		if _, err := fmt.Sscan(lines.Text(), &seq, &id); err == nil {
			acked[seq] = id
		}
		if n == after {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); child.ProcessState.Exited() {
		t.Fatalf("the writer ended by itself: %v: %s", err, stderr.String())
	}
}
