//go:build unix

package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"rialto/broker"
	"rialto/pricing"
	"rialto/provider/agent"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rialto": main})
}

// TestScripts runs the manual in testdata. A script has a market of its own with three hosts and a
// registry with an image, $IMAGE, one with $OTHER, and one with $BROKEN, whose layer is none; another image is in the OCI layout "layout" and the archive "both.tar", as app:1 beside
// app:2. A container is a process of this machine. Beside testscript's commands:
//
//	exit CODE rialto ARGS…   the command must end with this code
//	until TEXT rialto ARGS…  repeats a command until it prints TEXT
//	ready FILE               waits until a container has made a file
//	fetch URL TEXT           asks a web server until it answers, and the answer must hold TEXT
//	broker away|back|mute    makes the broker unreachable, or reachable again, or lose its next answers to submissions
//	broker lie               makes the broker lower the index in its receipts
//	broker holds TEXT        looks for TEXT in what customers uploaded
//	broker forget            makes the broker lose what customers uploaded
//	charge HOST GPUS RATE DISK IN OUT BID
//	                         adds a provider that charges for disk, by GiB-hour, and traffic, by GB, and takes bids
//	lose HOST                cuts a provider off from the broker
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: false,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": exitCommand, "until": untilCommand, "ready": readyCommand, "broker": brokerCommand, "lose": loseCommand, "charge": chargeCommand, "fetch": fetchCommand,
		},
	})
}

type (
	worldKey struct{}
	testKey  struct{}
)

func setup(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return os.ErrInvalid
	}
	w := newWorld(t)
	w.addAgent(t, "alpha", "RTX 4090:2", "0.40/h")
	w.addAgent(t, "bravo", "RTX 4090:1", "0.45/h")
	w.addAgent(t, "charlie", "H100 SXM:1", "1.87/h")
	w.offered(t, 3)
	env.Values[worldKey{}], env.Values[testKey{}] = w, t
	env.Setenv("RIALTO_HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("BROKER", w.api.URL)
	env.Setenv("TOKEN", w.token)
	env.Setenv("IMAGE", pushImage(t))
	env.Setenv("OTHER", pushImage(t))
	env.Setenv("BROKEN", pushBroken(t))
	if err := saveImages(env.WorkDir); err != nil {
		return err
	}
	for _, v := range []string{"SERVER", "PUBLISHED", "FORWARDED"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(v, port)
	}
	return nil
}

// freePort returns a port that nothing listened on a moment ago.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// pushImage starts a registry and returns a reference to an image in it.
func pushImage(tb testing.TB) string {
	tb.Helper()
	img, err := random.Image(1<<10, 1)
	if err != nil {
		tb.Fatal(err)
	}
	return push(tb, img)
}

// pushBroken is pushImage of an image whose layer is no archive.
func pushBroken(tb testing.TB) string {
	tb.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("no archive"), types.DockerUncompressedLayer))
	if err != nil {
		tb.Fatal(err)
	}
	return push(tb, img)
}

func push(tb testing.TB, img v1.Image) string {
	tb.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	tb.Cleanup(server.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/debian:12")
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		tb.Fatal(err)
	}
	return ref.Name()
}

// saveImages writes an OCI layout and an archive as `docker save` does.
func saveImages(dir string) error {
	one, err := random.Image(100<<10, 2)
	if err != nil {
		return err
	}
	two, err := random.Image(1<<10, 1)
	if err != nil {
		return err
	}
	index, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		return err
	}
	if err := index.AppendImage(one); err != nil {
		return err
	}
	images := map[name.Tag]v1.Image{}
	for text, img := range map[string]v1.Image{"app:1": one, "app:2": two} {
		tag, err := name.NewTag(text)
		if err != nil {
			return err
		}
		images[tag] = img
	}
	return tarball.MultiWriteToFile(filepath.Join(dir, "both.tar"), images)
}

func theWorld(ts *testscript.TestScript) *world {
	w, ok := ts.Value(worldKey{}).(*world)
	if !ok {
		ts.Fatalf("no world")
	}
	return w
}

func exitCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		got = -1
		if _, code, ok := strings.Cut(err.Error(), "exit status "); ok {
			got, err = strconv.Atoi(code)
			ts.Check(err)
		}
	}
	if got != want {
		ts.Fatalf("exit code: got %d, want %d", got, want)
	}
}

func untilCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT COMMAND ARGS…")
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q never came", args[0])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func readyCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready FILE")
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never came", args[0])
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func fetchCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fetch URL TEXT")
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		text, err := fetch(args[0])
		if err == nil && strings.Contains(text, args[1]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q, %v; want %q", text, err, args[1])
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func fetch(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func brokerCommand(ts *testscript.TestScript, neg bool, args []string) {
	switch w := theWorld(ts); {
	case len(args) == 2 && args[0] == "holds":
		if w.blocks.hold(args[1]) == neg {
			ts.Fatalf("the broker holds %q: %v", args[1], neg)
		}
	case neg || len(args) != 1:
		ts.Fatalf("usage: broker away|back|mute|forget|lie, or broker holds TEXT")
	case args[0] == "mute":
		w.loseAnswers()
	case args[0] == "forget":
		w.blocks.forget()
	case args[0] == "lie":
		w.setLie()
	default:
		w.setAway(args[0] == "away")
	}
}

func chargeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 7 {
		ts.Fatalf("usage: charge HOST GPUS RATE DISK IN OUT BID")
	}
	disk, err := pricing.ParseRate(args[3])
	ts.Check(err)
	in, err := pricing.ParseMoney(args[4])
	ts.Check(err)
	out, err := pricing.ParseMoney(args[5])
	ts.Check(err)
	bid, err := pricing.ParseRate(args[6])
	ts.Check(err)
	w := theWorld(ts)
	t, _ := ts.Value(testKey{}).(testing.TB)
	w.addAgent(t, args[0], args[1], args[2], func(c *agent.Config) {
		c.DiskFree = func() (uint64, error) { return 1 << 20, nil }
		c.Tariff, c.MinBid = broker.Tariff{Disk: disk, Ingress: in, Egress: out}, bid
	})
	w.offered(t, len(w.agents))
}

func loseCommand(ts *testscript.TestScript, neg bool, args []string) {
	w := theWorld(ts)
	if neg || len(args) != 1 || w.agents[args[0]] == nil {
		ts.Fatalf("usage: lose HOST")
	}
	w.lose(args[0])
}
