// Package nvml reads NVIDIA GPUs and says what a container needs to use them.
//
// NVIDIA's library can end the process that calls it (a function that the driver lacks is a failed
// symbol lookup, exit 127; a broken driver is a SIGSEGV) and can hang for ever on a lost GPU. So it is
// called only in a child process: the running binary again, with [ChildVerb] as its first argument, an
// environment without LD_*, and a time limit after which it is killed. The child prints one JSON object:
//
//	{"driver": "580.95.05", "cuda": 13000, "gpus": [{
//	  "index": 0, "uuid": "GPU-…", "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85520809984,
//	  "minor": 0, "compute_major": 9, "compute_minor": 0, "pci_bus": "00000000:01:00.0",
//	  "power_limit_mw": 700000, "mig": false, "processes": 0, "cause": ""}]}
//
// A GPU that cannot be read has a cause and no uuid. What the library reports is a claim with better
// typing, not a proof: see broker.Level.
//
// Containers get device nodes of the leased GPUs only, and the host's driver libraries read-only. No
// hook, no tool of NVIDIA and nothing of the image takes part.
package nvml

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"rialto/broker"
	"rialto/provider"
)

// ChildVerb is the first argument of the process that [ChildMain] serves.
const ChildVerb = "nvml-child"

const (
	maxReading = 1 << 20 // bytes that the child may print
	maxGPUs    = 64
)

// Reasons why a reading did not come.
var (
	ErrNoDriver = errors.New("no NVIDIA driver on this host")
	ErrHung     = errors.New("the NVIDIA driver does not answer")
	ErrCrashed  = errors.New("the NVIDIA driver's library crashed")
	ErrTooOld   = errors.New("the NVIDIA driver lacks a function")
)

// Config says how to read. The zero Config reads this host.
type Config struct {
	// Command runs the child; empty: the running binary with ChildVerb.
	Command []string
	// Timeout bounds a reading; zero: 15 s. Persistence mode off makes the first call take seconds.
	Timeout time.Duration
}

// Inventory is the host's GPUs. It implements [provider.Inventory].
type Inventory struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	minors map[string]int
}

var _ provider.Inventory = (*Inventory)(nil)

// New returns an inventory. It reads nothing yet.
func New(cfg Config) (*Inventory, error) {
	if len(cfg.Command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("read GPUs: %w", err)
		}
		cfg.Command = []string{exe, ChildVerb}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	return &Inventory{cfg: cfg, minors: make(map[string]int)}, nil
}

// GPUs implements [provider.Inventory].
func (inv *Inventory) GPUs(ctx context.Context) ([]broker.GPU, error) {
	r, err := inv.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read GPUs: %w", err)
	}
	gpus := r.vocabulary()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, g := range gpus {
		inv.minors[g.UUID] = g.DeviceMinor
	}
	return gpus, nil
}

// read runs the child once.
func (inv *Inventory) read(ctx context.Context) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, inv.cfg.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, inv.cfg.Command[0], inv.cfg.Command[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	// A thread stuck in the driver cannot be killed; its process is abandoned then, and not waited for.
	cmd.WaitDelay = time.Second
	var out, complaint limited
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return reading{}, fmt.Errorf("%w within %v", ErrHung, inv.cfg.Timeout)
	case out.over:
		return reading{}, fmt.Errorf("the reading has more than %d bytes", maxReading)
	case err != nil:
		return reading{}, explain(err, strings.TrimSpace(complaint.String()))
	}
	return decode(out.Bytes())
}

// Exit codes of the child.
const (
	exitNoDriver = 3
	exitFailed   = 4
	exitSymbol   = 127 // the dynamic linker's own
)

// explain turns the child's end into an error that says what it means.
func explain(err error, complaint string) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if complaint != "" {
		complaint = ": " + complaint
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	switch code := exit.ExitCode(); {
	case ok && status.Signaled():
		return fmt.Errorf("%w (%v)%s", ErrCrashed, status.Signal(), complaint)
	case code == exitNoDriver:
		return fmt.Errorf("%w%s", ErrNoDriver, complaint)
	case code == exitSymbol:
		return fmt.Errorf("%w%s", ErrTooOld, complaint)
	case code == 2: // how a Go program ends after a fault in C code
		return fmt.Errorf("%w%s", ErrCrashed, complaint)
	default:
		return fmt.Errorf("child ended with code %d%s", code, complaint)
	}
}

// limited keeps the first bytes of an output and notes when there were more.
type limited struct {
	bytes.Buffer
	over bool
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	room := maxReading - l.Len()
	if len(p) > room {
		l.over = true
	}
	l.Buffer.Write(p[:min(len(p), room)])
	return len(p), nil
}

// reading is what the child prints.
type reading struct {
	Driver string `json:"driver"`
	CUDA   int    `json:"cuda"` // 1000 × major + 10 × minor
	GPUs   []card `json:"gpus"`
}

// card is one GPU of a reading.
type card struct {
	Index        int    `json:"index"`
	UUID         string `json:"uuid"`
	Name         string `json:"name"`
	MemoryBytes  uint64 `json:"memory_bytes"`
	Minor        int    `json:"minor"`
	ComputeMajor int    `json:"compute_major"`
	ComputeMinor int    `json:"compute_minor"`
	PCIBus       string `json:"pci_bus"`
	PowerLimitMW uint64 `json:"power_limit_mw"`
	MIG          bool   `json:"mig"`
	Processes    int    `json:"processes"`
	Cause        string `json:"cause"`
}

func decode(text []byte) (reading, error) {
	var r reading
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return reading{}, fmt.Errorf("reading: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return reading{}, errors.New("reading: text after the object")
	}
	if len(r.GPUs) > maxGPUs {
		return reading{}, fmt.Errorf("reading: %d GPUs, at most %d", len(r.GPUs), maxGPUs)
	}
	var seen []string
	for _, c := range r.GPUs {
		if c.UUID == "" && c.Cause == "" || c.UUID != "" && slices.Contains(seen, c.UUID) {
			return reading{}, fmt.Errorf("reading: GPU %d has no UUID of its own", c.Index)
		}
		if c.Minor < -1 || c.Minor >= 1<<20 {
			return reading{}, fmt.Errorf("reading: GPU %d has device minor %d", c.Index, c.Minor)
		}
		seen = append(seen, c.UUID)
	}
	return r, nil
}

// vocabulary turns a reading into the market's words. GPUs without a UUID cannot be named, let alone
// leased, and are left out.
func (r reading) vocabulary() []broker.GPU {
	var gpus []broker.GPU
	for _, c := range r.GPUs {
		if c.UUID == "" {
			continue
		}
		cause := c.Cause
		if cause == "" && c.MIG {
			cause = "it is divided by MIG"
		}
		if cause == "" && c.Minor < 0 {
			cause = "it has no device node"
		}
		gpus = append(gpus, broker.GPU{
			UUID: c.UUID, Model: broker.CanonicalModel(c.Name), MemoryMiB: c.MemoryBytes >> 20, Driver: r.Driver,
			CUDA:         fmt.Sprintf("%d.%d", r.CUDA/1000, r.CUDA%1000/10),
			ComputeMajor: c.ComputeMajor, ComputeMinor: c.ComputeMinor, PCIBus: c.PCIBus, PowerLimitMW: c.PowerLimitMW,
			Level: broker.LevelNVML, DeviceMinor: c.Minor, Busy: c.Processes > 0, UnusableCause: cause,
		})
	}
	return gpus
}
