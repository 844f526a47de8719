// Package simgpu pretends to have GPUs, for demos, tests and a first look on a laptop. A simulated GPU
// says so everywhere: its UUID begins with "SIM-", its description and every lease of it are marked
// simulated, its level never rises above claimed, and its container has RIALTO_SIMULATED_GPU=1 and no
// device. Brokers refuse it unless their operator allowed it.
package simgpu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"rialto/broker"
	"rialto/provider"
)

// MaxGPUs bounds how many GPUs a host may pretend to have.
const MaxGPUs = 16

// Spec asks for some GPUs of one model.
type Spec struct {
	Model string
	Count int
}

// Parse reads "MODEL" or "MODEL:COUNT", such as "RTX 4090:2".
func Parse(s string) (Spec, error) {
	name, count, counted := strings.Cut(s, ":")
	spec := Spec{Count: 1}
	if counted {
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil || n < 1 || n > MaxGPUs {
			return Spec{}, fmt.Errorf("simulated GPU %q: want a count from 1 to %d after the colon", s, MaxGPUs)
		}
		spec.Count = n
	}
	model, err := broker.ParseModel(strings.TrimSpace(name))
	if err != nil {
		return Spec{}, err
	}
	if model == broker.AnyModel {
		return Spec{}, fmt.Errorf("simulated GPU %q: name a model", s)
	}
	spec.Model = model
	return spec, nil
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
		models := broker.Models()
		i := slices.IndexFunc(models, func(m broker.Model) bool { return m.Name == spec.Model })
		if i < 0 {
			return nil, fmt.Errorf("simulated GPU %q: %w", spec.Model, broker.ErrNotFound)
		}
		for range spec.Count {
			n := len(inv.gpus)
			if n == MaxGPUs {
				return nil, fmt.Errorf("simulated GPUs: at most %d", MaxGPUs)
			}
			sum := sha256.Sum256(fmt.Appendf(nil, "rialto simulated gpu 1\x00%s\x00%d", host, n))
			h := hex.EncodeToString(sum[:16])
			inv.gpus = append(inv.gpus, broker.GPU{
				UUID:  fmt.Sprintf("SIM-%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:]),
				Model: spec.Model, MemoryMiB: models[i].MemoryMiB, Level: broker.LevelClaimed, Simulated: true, DeviceMinor: -1,
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
