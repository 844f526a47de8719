package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"rialto/broker/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rialto-broker": main})
}

// TestScripts runs the manual. Beside testscript's commands, "await DIR" waits until the broker with that
// state directory is ready, and "deposit FILE DOLLARS …" makes a deposit into the account that FILE tells of.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(await(stateDir(ts.MkAbs(args[0]))))
			},
			"deposit": func(ts *testscript.TestScript, neg bool, args []string) {
				var opened api.OpenedAccount
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &opened))
				err := ts.Exec("rialto-broker", append([]string{"account", "deposit", opened.Account.ID}, args[1:]...)...)
				if (err != nil) != neg {
					ts.Fatalf("deposit: %v", err)
				}
			},
		},
	})
}

// await waits until a broker is ready.
func await(d stateDir) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := ready(ctx, d)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

func ready(ctx context.Context, d stateDir) error {
	a, err := d.readAdmin()
	if err != nil {
		return err
	}
	c, err := api.NewClient(a.URL, a.Token, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Accounts(ctx)
	return err
}

// TestEndsWithoutATrace runs a broker in this process and ends it.
func TestEndsWithoutATrace(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log safeBuffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{
			"run", "--state", dir, "--http", "127.0.0.1:0", "--min-free", "1MiB",
			"--p2p-listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--p2p-listen", "/ip4/127.0.0.1/tcp/0",
		}, io.Discard, &log)
	}()
	if err := await(stateDir(dir)); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	a, err := stateDir(dir).readAdmin()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/readyz": 200, "/metrics": 200, "/openapi.json": 200, "/v1/market": 200, "/v1/jobs": 401} {
		if got := status(t, a.URL+path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	for _, name := range []string{"admin.json", "key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info.Mode(), err)
		}
	}
	if bytes.Contains([]byte(log.String()), []byte(a.Token)) {
		t.Error("the admin's token is in the log")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func status(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	return resp.StatusCode
}

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
