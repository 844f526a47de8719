package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Market is a broker on a host of the lab.
type Market struct {
	URL  string // of the HTTP API
	Host *Host
	Proc *Proc
	args []string
}

// Broker starts a broker that accepts simulated GPUs.
func (l *Lab) Broker(ctx context.Context, h *Host, extra ...string) (*Market, error) {
	m := &Market{URL: "http://" + h.Addr.String() + ":7070", Host: h}
	m.args = append([]string{
		"run", "--state", l.Path("broker"), "--http", h.Addr.String() + ":7070", "--insecure-http",
		"--p2p-listen", "/ip4/" + h.Addr.String() + "/udp/7071/quic-v1",
		"--p2p-listen", "/ip4/" + h.Addr.String() + "/tcp/7071", "--allow-simulated",
		"--allow-registry", "10.77.0.0/24", "--allow-registry", "127.0.0.0/8",
	}, extra...)
	return m, m.Start(ctx)
}

// Start starts the broker, again after its process ended, and waits until it serves.
func (m *Market) Start(ctx context.Context) error {
	p, err := m.Host.Start("broker", m.Host.lab.Bin("rialto-broker"), m.args...)
	if err != nil {
		return err
	}
	m.Proc = p
	return p.await(ctx, "readiness", func(ctx context.Context) error {
		_, err := m.Host.get(ctx, m.URL+"/readyz")
		return err
	})
}

// Agent is a provider on a host of the lab.
type Agent struct {
	Host *Host
	Proc *Proc
	args []string
}

// AgentConfig says what an agent offers.
type AgentConfig struct {
	GPU   string // simulated, such as "RTX 4090:2"
	Price string // such as "0.40/h"
	Extra []string
}

// Agent starts an agent and waits until its offer is on the market.
func (l *Lab) Agent(ctx context.Context, h *Host, m *Market, cfg AgentConfig) (*Agent, error) {
	a := &Agent{Host: h}
	a.args = append([]string{
		"run", "--broker", m.URL, "--name", h.Name, "--price", cfg.Price, "--simulate-gpu", cfg.GPU,
		"--state", l.Path(h.Name), "--advertise-ip", h.Addr.String(), "--runc", l.Bin("runc"),
		"--allow-registry", "10.77.0.0/24", "--stop-jobs-on-exit",
	}, cfg.Extra...)
	return a, a.Start(ctx, m)
}

// Start starts the agent, again after its process ended, and waits until its offer is on the market. The flags are for this
// time.
func (a *Agent) Start(ctx context.Context, m *Market, flags ...string) error {
	p, err := a.Host.Start(a.Host.Name, a.Host.lab.Bin("rialto-provider"), slices.Concat(a.args, flags)...)
	if err != nil {
		return err
	}
	a.Proc = p
	return p.await(ctx, "its offer", func(ctx context.Context) error {
		offers, err := m.Host.get(ctx, m.URL+"/v1/offers")
		if err != nil {
			return err
		}
		if !strings.Contains(offers, fmt.Sprintf("%q", a.Host.Name)) {
			return fmt.Errorf("no offer of %s", a.Host.Name)
		}
		return nil
	})
}

// Owner prepares a run of the owner's command that asks the agent, such as status.
func (a *Agent) Owner(ctx context.Context, args ...string) *exec.Cmd {
	l := a.Host.lab
	return a.Host.Command(ctx, l.Bin("rialto-provider"), append(slices.Clone(args), "--state", l.Path(a.Host.Name))...)
}

// Customer is a person at a host of the lab who has the rialto command and an account.
type Customer struct {
	Host *Host
	home string
}

// Customer opens an account with a deposit in dollars and logs in.
func (l *Lab) Customer(ctx context.Context, h *Host, m *Market, name, deposit string) (*Customer, error) {
	cmd := m.Host.Command(ctx, l.Bin("rialto-broker"), "account", "create", name, "--deposit", deposit,
		"--state", l.Path("broker"), "--json")
	out, err := Output(cmd)
	if err != nil {
		return nil, fmt.Errorf("open account: %w", err)
	}
	var created struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(out, &created); err != nil {
		return nil, fmt.Errorf("open account: %w: %s", err, out)
	}
	c := &Customer{Host: h, home: l.Path("home-" + name)}
	if err := os.MkdirAll(c.home, 0o700); err != nil {
		return nil, err
	}
	if _, err := Output(c.Rialto(ctx, "account", "login", m.URL, created.Token)); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return c, nil
}

// Home is the customer's RIALTO_HOME.
func (c *Customer) Home() string { return c.home }

// Rialto prepares a run of the rialto command as this customer.
func (c *Customer) Rialto(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.Host.Command(ctx, c.Host.lab.Bin("rialto"), args...)
	cmd.Env = append(os.Environ(), "RIALTO_HOME="+c.home)
	return cmd
}

// Output runs cmd and returns its standard output; an error carries its standard error.
func Output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, lastLines(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
