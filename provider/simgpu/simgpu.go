// Package simgpu pretends to have GPUs, for demos, tests and a first look on a laptop. A simulated GPU
// says so everywhere: its UUID begins with "SIM-", its description and every lease of it are marked
// simulated, its level never rises above claimed, and its container has RIALTO_SIMULATED_GPU=1 and no
// device. Brokers refuse it unless their operator allowed it.
package simgpu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"rialto/broker"
	"rialto/provider"
)

// MaxGPUs bounds how many GPUs a host may pretend to have.
const MaxGPUs = 16

// ErrModel reports a model that is not in the table.
var ErrModel = errors.New("unknown GPU model")

// Spec asks for some GPUs of one model.
type Spec struct {
	Model string
	Count int
}

// model is a row of the table.
type model struct {
	name         string
	memoryMiB    uint64
	major, minor int // CUDA compute capability
	powerMW      uint64
}

// table holds the models that can be simulated, with the figures of their data sheets.
func table() []model {
	return []model{
		{"RTX 3060", 12288, 8, 6, 170_000},
		{"RTX 3080", 10240, 8, 6, 320_000},
		{"RTX 3090", 24576, 8, 6, 350_000},
		{"RTX 4060 Ti", 16384, 8, 9, 165_000},
		{"RTX 4070", 12288, 8, 9, 200_000},
		{"RTX 4080", 16376, 8, 9, 320_000},
		{"RTX 4090", 24564, 8, 9, 450_000},
		{"RTX 5080", 16303, 12, 0, 360_000},
		{"RTX 5090", 32607, 12, 0, 575_000},
		{"RTX A6000", 49140, 8, 6, 300_000},
		{"T4", 15360, 7, 5, 70_000},
		{"L4", 23034, 8, 9, 72_000},
		{"L40S", 46068, 8, 9, 350_000},
		{"A10", 23028, 8, 6, 150_000},
		{"A100 40GB", 40960, 8, 0, 400_000},
		{"A100 80GB", 81920, 8, 0, 400_000},
		{"H100", 81559, 9, 0, 700_000},
		{"H200", 143771, 9, 0, 700_000},
		{"B200", 183359, 10, 0, 1_000_000},
	}
}

// Models returns the names that can be simulated.
func Models() []string {
	var names []string
	for _, m := range table() {
		names = append(names, m.name)
	}
	return names
}

// Parse reads "MODEL" or "MODEL:COUNT", such as "RTX 4090:2".
func Parse(s string) (Spec, error) {
	name, count, counted := strings.Cut(s, ":")
	spec := Spec{Model: strings.TrimSpace(name), Count: 1}
	if counted {
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil || n < 1 || n > MaxGPUs {
			return Spec{}, fmt.Errorf("simulated GPU %q: want a count from 1 to %d after the colon", s, MaxGPUs)
		}
		spec.Count = n
	}
	for _, m := range table() {
		if strings.EqualFold(m.name, spec.Model) {
			spec.Model = m.name
			return spec, nil
		}
	}
	return Spec{}, fmt.Errorf("simulated GPU %q: %w", spec.Model, ErrModel)
}

// Inventory is a host's simulated GPUs. It implements [provider.Inventory].
type Inventory struct {
	gpus []broker.GPU
}

var _ provider.Inventory = (*Inventory)(nil)

// New returns an inventory whose UUIDs follow from the host's peer id, so that they are the same at
// every start and differ between hosts.
func New(host broker.PeerID, specs []Spec) (*Inventory, error) {
	inv := &Inventory{}
	for _, spec := range specs {
		i := slices.IndexFunc(table(), func(m model) bool { return m.name == spec.Model })
		if i < 0 {
			return nil, fmt.Errorf("simulated GPU %q: %w", spec.Model, ErrModel)
		}
		m := table()[i]
		for range spec.Count {
			n := len(inv.gpus)
			if n == MaxGPUs {
				return nil, fmt.Errorf("simulated GPUs: at most %d", MaxGPUs)
			}
			sum := sha256.Sum256(fmt.Appendf(nil, "rialto simulated gpu 1\x00%s\x00%d", host, n))
			h := hex.EncodeToString(sum[:16])
			inv.gpus = append(inv.gpus, broker.GPU{
				UUID:  fmt.Sprintf("SIM-%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:]),
				Model: m.name, MemoryMiB: m.memoryMiB, ComputeMajor: m.major, ComputeMinor: m.minor,
				PowerLimitMW: m.powerMW, Level: broker.LevelClaimed, Simulated: true, DeviceMinor: -1,
			})
		}
	}
	return inv, nil
}

// GPUs implements [provider.Inventory].
func (inv *Inventory) GPUs(context.Context) ([]broker.GPU, error) { return slices.Clone(inv.gpus), nil }

// Inject implements [provider.Inventory].
func (inv *Inventory) Inject(_ context.Context, uuids []string) (provider.Injection, error) {
	for _, uuid := range uuids {
		if !slices.ContainsFunc(inv.gpus, func(g broker.GPU) bool { return g.UUID == uuid }) {
			return provider.Injection{}, fmt.Errorf("inject %s: %w", uuid, broker.ErrNotFound)
		}
	}
	return provider.Injection{Env: []string{"NVIDIA_VISIBLE_DEVICES=void", "RIALTO_SIMULATED_GPU=1"}}, nil
}
