//go:build linux

package histories

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// leaseTTL is short, so that what hangs on a lost lease is over soon.
const leaseTTL = 3 * time.Second

// program is a rialto-broker and its directory, killed and started again.
type program struct {
	bin, dir string

	mu      sync.Mutex
	cmd     *exec.Cmd
	n       int           // how many there were
	now     life          // zero while none serves
	changed chan struct{} // closed when now changes
	log     []string      // the last lines
	exited  chan struct{}
	asked   bool // for its end, by a signal
}

// life is a running broker.
type life struct {
	n         int
	http, p2p string // addresses
	open      bool   // the market is restored
}

// build returns the program to test: of RIALTO_BIN, or made now.
func build(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("RIALTO_BIN"); dir != "" {
		return filepath.Join(dir, "rialto-broker")
	}
	bin := filepath.Join(tb.TempDir(), "rialto-broker")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", bin, "rialto/cmd/rialto-broker").CombinedOutput(); err != nil {
		tb.Fatalf("build the broker: %v\n%s", err, out)
	}
	return bin
}

func newProgram(bin, dir string) *program {
	return &program{bin: bin, dir: dir, changed: make(chan struct{})}
}

// start starts a broker. Its market is open when [program.await] returns.
func (p *program) start() error {
	cmd := exec.Command(p.bin, "run", "--state", p.dir, "--http", "127.0.0.1:0", "--p2p-listen", "/ip4/127.0.0.1/tcp/0",
		"--allow-simulated", "--fee-ppm", "100000", "--build-images=false", "--dht=false", "--min-free", "1MiB",
		"--lease-ttl", leaseTTL.String(), "--log-format", "json")
	// It must not outlive a test that panics.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	lines, w := io.Pipe()
	cmd.Stderr = w
	exited := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.n++
	p.cmd, p.exited, p.asked = cmd, exited, false
	n := p.n
	read := make(chan struct{})
	go func() { // ends with the program
		defer close(read)
		p.follow(n, lines)
	}()
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		_ = w.Close()  // always nil
		<-read
		p.set(life{})
		close(exited)
	}()
	return nil
}

// follow reads what a broker logs: where it serves, and the rest for people.
func (p *program) follow(n int, r io.Reader) {
	var l life
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.log = append(p.log[max(0, len(p.log)-40):], lines.Text())
		p.mu.Unlock()
		var up struct {
			Msg  string
			HTTP string
			P2P  []string
		}
		if json.Unmarshal(lines.Bytes(), &up) != nil {
			continue
		}
		switch {
		case up.Msg == "broker is up" && len(up.P2P) > 0:
			l.n, l.http, l.p2p = n, strings.TrimPrefix(up.HTTP, "http://"), up.P2P[0]
		case up.Msg == "market is open":
			l.open = true // it may have been quicker than the line above
		default:
			continue
		}
		if l.n > 0 {
			p.set(l)
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line that was too long: the program must not block
}

func (p *program) set(l life) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = l
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *program) current() (life, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}

// await returns a broker whose market is open, as soon as there is one.
func (p *program) await(ctx context.Context) (life, error) {
	for {
		l, changed := p.current()
		if l.open {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return life{}, ctx.Err()
		}
	}
}

// kill ends the broker as a crash would, and does not wait.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.asked = true
		_ = p.cmd.Process.Kill() // it may be gone already
	}
}

// stop ends it as an operator would, and waits.
func (p *program) stop() error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.asked = true
	err := cmd.Process.Signal(syscall.SIGTERM)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-exited:
	case <-time.After(patience):
		p.kill()
		<-exited
		return errors.New("SIGTERM did not end it")
	}
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("after SIGTERM: %s", cmd.ProcessState)
	}
	return nil
}

// gone waits for the end of the broker, and returns an error if nobody asked for it.
func (p *program) gone() error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	<-exited
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.asked {
		return fmt.Errorf("the broker ended by itself: %s", p.cmd.ProcessState)
	}
	return nil
}

// said returns what it logged last.
func (p *program) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// line is the network between a customer and whichever broker serves. It loses some answers.
type line struct {
	*http.Transport
	lossy  float64 // the part of answers to what changes something that is lost
	mu     sync.Mutex
	random *rand.Rand
}

var (
	errDown = errors.New("no broker serves")
	errLost = errors.New("the answer got lost")
)

func newLine(p *program, random *rand.Rand, lossy float64) *line {
	return &line{lossy: lossy, random: random, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l, _ := p.current()
			if l.n == 0 {
				return nil, errDown
			}
			return new(net.Dialer).DialContext(ctx, "tcp", l.http)
		},
		MaxIdleConnsPerHost: 8,
	}}
}

// RoundTrip implements http.RoundTripper.
func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.Transport.RoundTrip(r)
	if err != nil || r.Method == http.MethodGet {
		return resp, err
	}
	l.mu.Lock()
	lost := l.random.Float64() < l.lossy
	l.mu.Unlock()
	if lost {
		resp.Body.Close()
		return nil, errLost
	}
	return resp, nil
}
