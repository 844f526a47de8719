package simgpu

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"rialto/broker"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Spec{
		"RTX 4090":       {"RTX 4090", 1},
		"rtx 4090:2":     {"RTX 4090", 2},
		" h100-sxm : 16": {"H100 SXM", 16},
		"RTX 4090:0":     {},
		"RTX 4090:17":    {},
		"RTX 4090:":      {},
		"RTX 4091":       {},
		"any":            {},
		":3":             {},
		"RTX 4090:2:2":   {},
	} {
		got, err := Parse(text)
		if (err != nil) != (want == Spec{}) || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	if _, err := Parse("RTX 409"); err == nil || !strings.Contains(err.Error(), "RTX 4090") {
		t.Errorf("got %v, want the nearest model", err)
	}
}

func TestInventorySaysWhatItIs(t *testing.T) {
	t.Parallel()
	specs := []Spec{{"RTX 4090", 2}, {"L4", 1}}
	a, err := New("host-a", specs)
	if err != nil {
		t.Fatal(err)
	}
	gpus, err := a.GPUs(t.Context())
	if err != nil || len(gpus) != 3 {
		t.Fatalf("got %v, %v", gpus, err)
	}
	var uuids []string
	for _, g := range gpus {
		if !g.Simulated || g.Level != broker.LevelClaimed || !strings.HasPrefix(g.UUID, "SIM-") || g.DeviceMinor != -1 || g.Driver != "" {
			t.Errorf("%+v does not say that it is simulated", g)
		}
		uuids = append(uuids, g.UUID)
	}
	again, _ := New("host-a", specs)
	other, _ := New("host-b", specs)
	if !slices.Equal(again.gpus, a.gpus) {
		t.Error("UUIDs changed between two starts")
	}
	if other.gpus[0].UUID == a.gpus[0].UUID {
		t.Error("two hosts share a UUID")
	}
	in, err := a.Inject(t.Context(), uuids[:1])
	if err != nil || len(in.Devices)+len(in.Mounts) != 0 || !slices.Contains(in.Env, "RIALTO_SIMULATED_GPU=1") {
		t.Errorf("got %+v, %v", in, err)
	}
	if _, err := a.Inject(t.Context(), []string{"GPU-1"}); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("foreign GPU: got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("RTX 4090:2")
	f.Add("H100")
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := Parse(s)
		if err == nil && (!slices.ContainsFunc(broker.Models(), func(m broker.Model) bool { return m.Name == spec.Model }) || spec.Count < 1 || spec.Count > MaxGPUs) {
			t.Fatalf("%q: got %+v", s, spec)
		}
	})
}
