package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/provider"
	"rialto/tunnel"
)

// crashDir makes the test binary a writer that is killed; see TestSurvivesKill.
const crashDir = "JOURNAL_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func record1(n uint64) provider.Record {
	return provider.Record{
		Lease: broker.LeaseID(fmt.Sprintf("l-%04d", n)), Job: "j", Broker: "b", State: provider.StateRunning,
		GPUs: []broker.GPULease{{UUID: "SIM-1", Epoch: n}}, Spec: []byte("spec"), Bid: []byte("bid"),
		Sources:   []broker.BlockSource{{Peer: "p", Addrs: []string{"/ip4/10.0.0.1/udp/7072/quic-v1"}}},
		TunnelKey: tunnel.PrivateKey{1, 2, 3}, TunnelPort: 5000, Answer: []byte("answer"),
		Deadline: provider.Instant{Boot: "b", Since: 90 * time.Second}, TTL: time.Minute, MaxDuration: time.Hour, Rate: 400_000_000, Tariff: broker.Tariff{Disk: 1, Ingress: 2, Egress: 3},
		Report: broker.Report{Lease: "l", Seq: n, Phase: broker.PhaseReady, Used: time.Second, Steps: []broker.Step{{Name: "image", Took: 1}}},
		Acked:  3, Counted: true,
	}
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func TestSaveAndRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	want := record1(5)
	if err := j.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	lower := record1(6)
	lower.GPUs[0].Epoch = 2
	if err := j.Save(t.Context(), lower); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	got, err := j.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	epochs, err := j.Epochs(t.Context())
	if err != nil || epochs["SIM-1"] != 5 {
		t.Errorf("epochs: got %v, %v, want 5: an epoch never falls", epochs, err)
	}
}

func TestGoneIsAValue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	r := record1(1)
	r.State = provider.StateGone
	if err := j.Save(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := j.Records(t.Context())
		if err != nil || len(got) != 0 {
			t.Fatalf("got %v, %v, want none", got, err)
		}
		epochs, err := j.Epochs(t.Context())
		if err != nil || epochs["SIM-1"] != 1 {
			t.Fatalf("epochs: got %v, %v", epochs, err)
		}
		if err := j.Forget(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusesBadRecords(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	if err := j.Save(t.Context(), provider.Record{State: provider.StateHeld}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("no lease: got %v", err)
	}
	big := record1(1)
	big.Spec = make([]byte, maxRecord)
	if err := j.Save(t.Context(), big); !errors.Is(err, provider.ErrTooLarge) {
		t.Errorf("too large: got %v", err)
	}
}

// TestSurvivesKill kills a writer without warning, again and again in one directory, and wants every
// record whose Save had returned.
func TestSurvivesKill(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 5 {
		last := killWriter(t, exe, dir)
		j, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		records, err := j.Records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		epochs, err := j.Epochs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if uint64(len(records)) < last || epochs["SIM-1"] < last {
			t.Fatalf("acknowledged %d, found %d records and epoch %d", last, len(records), epochs["SIM-1"])
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killWriter lets a writer acknowledge some records, kills it and returns the last one it acknowledged.
func killWriter(t *testing.T, exe, dir string) uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last uint64
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatal(err)
		}
		if n == 40 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if last == 0 {
		t.Fatal("the writer acknowledged nothing")
	}
	return last
}

// writeUntilKilled saves one record after the other, and says each on stdout once Save returned.
func writeUntilKilled(dir string) {
	j, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	epochs, err := j.Epochs(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for n := epochs["SIM-1"] + 1; ; n++ {
		if err := j.Save(ctx, record1(n)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := encode(record1(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"lease":"l","state":"held"}`))
	f.Add([]byte(`{"lease":"l","state":"held","x":1}`))
	f.Add([]byte(strings.Repeat("[", 1000)))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decode(value)
		if err != nil {
			return
		}
		again, err := encode(r)
		if err != nil {
			return
		}
		back, err := decode(again)
		if err != nil || back.Lease != r.Lease || back.State != r.State || back.TunnelKey != r.TunnelKey {
			t.Fatalf("%s: did not survive: %v", value, err)
		}
	})
}
