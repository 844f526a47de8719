package broker_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

func TestModels(t *testing.T) {
	for driver, want := range map[string]string{
		"NVIDIA GeForce RTX 4090":                      "RTX 4090",
		"NVIDIA GeForce RTX 4070 Ti SUPER":             "RTX 4070 Ti SUPER",
		"NVIDIA H200":                                  "H200",
		"NVIDIA H100 80GB HBM3":                        "H100 SXM",
		"NVIDIA H100 PCIe":                             "H100 PCIe",
		"NVIDIA A100-SXM4-80GB":                        "A100 SXM 80GB",
		"NVIDIA A100-PCIE-40GB":                        "A100 PCIe 40GB",
		"NVIDIA RTX 6000 Ada Generation":               "RTX 6000 Ada",
		"NVIDIA RTX A6000":                             "RTX A6000",
		"Tesla T4":                                     "T4",
		"Tesla V100-SXM2-16GB":                         "V100 SXM2 16GB",
		"NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000 Blackwell",
		"NVIDIA Something New":                         "Something New",
	} {
		if got := broker.CanonicalModel(driver); got != want {
			t.Errorf("%s: got %q, want %q", driver, got, want)
		}
	}
	for in, want := range map[string]string{
		"rtx4090": "RTX 4090", "RTX-4090": "RTX 4090", "h100 sxm": "H100 SXM", "ANY": "any", "something new": "Something New",
	} {
		if got, err := broker.ParseModel(in, "Something New"); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
	for in, nearest := range map[string]string{"RTX 4900": "RTX 4090", "H20": "H200", "": "A2", "a100-sxm-80": "A100 SXM 80GB"} {
		_, err := broker.ParseModel(in)
		fe, ok := errors.AsType[*broker.FieldError](err)
		if !ok || fe.Field != "gpu.model" || fe.Nearest != nearest || !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%q: got %v, want nearest %s", in, err, nearest)
		}
	}
}

func TestJobStateText(t *testing.T) {
	for s := broker.JobQueued; s <= broker.JobCancelled; s++ {
		b, err := json.Marshal(s)
		var back broker.JobState
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back != s || strings.Contains(string(b), "(") {
			t.Errorf("%d: %s, %v, %v", s, b, back, err)
		}
	}
	var s broker.JobState
	if err := s.UnmarshalText([]byte("lost")); err == nil {
		t.Error("an unknown state was read")
	}
	if err := s.UnmarshalText(nil); err == nil {
		t.Error("an empty state was read")
	}
}

// TestSpecFieldsAreChecked spoils one field at a time and wants it named.
func TestSpecFieldsAreChecked(t *testing.T) {
	if s := markettest.Spec("ann", "n"); s.Validate() != nil {
		t.Fatalf("the valid spec: %v", s.Validate())
	}
	for field, spoil := range map[string]func(*broker.JobSpec){
		"image":          func(s *broker.JobSpec) { s.Image = "a\nb" },
		"digest":         func(s *broker.JobSpec) { s.Digest = "sha256:" + strings.Repeat("G", 64) },
		"root":           func(s *broker.JobSpec) { s.Root = "bafy" },
		"command":        func(s *broker.JobSpec) { s.Command = []string{"sh", "-c", strings.Repeat("x", 1<<20)} },
		"env":            func(s *broker.JobSpec) { s.Env = map[string]string{"A=B": "c"} },
		"workdir":        func(s *broker.JobSpec) { s.Workdir = "/a/../b" },
		"gpu.model":      func(s *broker.JobSpec) { s.GPU.Model = "" },
		"gpu.count":      func(s *broker.JobSpec) { s.GPU.Count = 17 },
		"gpu.min_memory": func(s *broker.JobSpec) { s.GPU.MinMemoryMiB = 1 << 40 },
		"memory":         func(s *broker.JobSpec) { s.MemoryMiB = 1 << 63 },
		"cpus":           func(s *broker.JobSpec) { s.CPUs = -1 },
		"max_rate":       func(s *broker.JobSpec) { s.MaxRate = -1 },
		"max_cost":       func(s *broker.JobSpec) { s.MaxCost = 1 << 62 },
		"max_duration":   func(s *broker.JobSpec) { s.MaxDuration = 0 },
		"disk":           func(s *broker.JobSpec) { s.DiskMiB = 15 },
		"traffic":        func(s *broker.JobSpec) { s.Traffic = -1 },
		"region":         func(s *broker.JobSpec) { s.Region = "de" },
		"provider":       func(s *broker.JobSpec) { s.Provider = broker.PeerID(strings.Repeat("x", 200)) },
		"weights.path": func(s *broker.JobSpec) {
			w := broker.WeightsMount{Name: "w", Root: "r", Path: "/w"}
			s.Weights = []broker.WeightsMount{w, w}
		},
		"tunnel_key": func(s *broker.JobSpec) { s.TunnelKey = [32]byte{} },
		"customer":   func(s *broker.JobSpec) { s.Customer = "" },
		"broker":     func(s *broker.JobSpec) { s.Broker = "" },
		"created":    func(s *broker.JobSpec) { s.Created = time.Time{} },
		"nonce":      func(s *broker.JobSpec) { s.Nonce = "" },
	} {
		s := markettest.Spec("ann", "n")
		spoil(&s)
		if fe, ok := errors.AsType[*broker.FieldError](s.Validate()); !ok || fe.Field != field {
			t.Errorf("%s: got %v", field, s.Validate())
		}
	}
}

// A local image is nowhere but behind its root.
func TestLocalImagesNeedARoot(t *testing.T) {
	s := markettest.Spec("ann", "n")
	s.Image = broker.LocalImage("mine")
	if fe, ok := errors.AsType[*broker.FieldError](s.Validate()); !ok || fe.Field != "root" {
		t.Errorf("without a root: %v", s.Validate())
	}
	s.Root = markettest.Root("mine")
	if err := s.Validate(); err != nil {
		t.Errorf("with a root: %v", err)
	}
	if broker.IsLocalImage("localhost/x") || broker.IsLocalImage("registry.example/local/x") {
		t.Error("a registry's image is taken for a local one")
	}
}

// A private image is a local one, and named by nothing that its files decide.
func TestPrivateImages(t *testing.T) {
	root := blockstore.Sum([]byte("mine"))
	valid := func() broker.JobSpec {
		s := markettest.Spec("ann", "n")
		s.Image, s.Root, s.Digest, s.Private = broker.LocalImage("mine"), root.String(), root.Digest().String(), true
		return s
	}
	if s := valid(); s.Validate() != nil {
		t.Errorf("the valid spec: %v", s.Validate())
	}
	for field, spoil := range map[string]func(*broker.JobSpec){
		"digest":  func(s *broker.JobSpec) { s.Digest = blockstore.Sum(nil).Digest().String() },
		"root":    func(s *broker.JobSpec) { s.Root = "" },
		"private": func(s *broker.JobSpec) { s.Image = "registry.example/mine" },
	} {
		s := valid()
		spoil(&s)
		if fe, ok := errors.AsType[*broker.FieldError](s.Validate()); !ok || fe.Field != field {
			t.Errorf("%s: got %v", field, s.Validate())
		}
	}
	s := valid()
	s.Weights = []broker.WeightsMount{{Root: "a", Private: true}, {Root: "b"}, {Root: "a", Private: true}, {Root: s.Root, Private: true}}
	if got, want := s.PrivateRoots(), []string{s.Root, "a"}; !slices.Equal(got, want) {
		t.Errorf("roots that need keys: got %v, want %v", got, want)
	}
}

func TestOfferFieldsAreChecked(t *testing.T) {
	for field, spoil := range map[string]func(*broker.OfferSet){
		"boot":           func(s *broker.OfferSet) { s.Boot = "" },
		"offers":         func(s *broker.OfferSet) { s.Offers = make([]broker.Offer, 65) },
		"offer.provider": func(s *broker.OfferSet) { s.Offers[0].Provider = "beta" },
		"offer.id":       func(s *broker.OfferSet) { s.Offers = append(s.Offers, s.Offers[0]) },
		"offer.host":     func(s *broker.OfferSet) { s.Offers[0].Host = "\x1b[31m" },
		"offer.rate":     func(s *broker.OfferSet) { s.Offers[0].Rate = pricing.Rate(200_000 * pricing.USD) },
		"offer.gpus":     func(s *broker.OfferSet) { s.Offers[0].GPUs = nil },
		"gpu.uuid":       func(s *broker.OfferSet) { o := &s.Offers[0]; o.GPUs[1].UUID, o.Free = o.GPUs[0].UUID, nil },
		"gpu.model":      func(s *broker.OfferSet) { s.Offers[0].GPUs[1].Model = "other" },
		"gpu.memory":     func(s *broker.OfferSet) { s.Offers[0].GPUs[0].MemoryMiB = 0 },
		"gpu.simulated":  func(s *broker.OfferSet) { s.Offers[0].GPUs[0].Simulated = true },
		"gpu.level": func(s *broker.OfferSet) {
			s.Offers[0].GPUs = []broker.GPU{{UUID: "SIM-1", Model: "m", MemoryMiB: 1, Simulated: true, Level: broker.LevelNVML}}
			s.Offers[0].Free = nil
		},
		"offer.tariff.disk":    func(s *broker.OfferSet) { s.Offers[0].Tariff.Disk = pricing.Rate(pricing.USD) + 1 },
		"offer.tariff.ingress": func(s *broker.OfferSet) { s.Offers[0].Tariff.Ingress = -1 },
		"offer.tariff.egress":  func(s *broker.OfferSet) { s.Offers[0].Tariff.Egress = 10*pricing.USD + 1 },
		"offer.free":           func(s *broker.OfferSet) { s.Offers[0].Free = []string{"GPU-beta-0"} },
	} {
		s := broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{markettest.Offer("alpha", "RTX 4090", 2, 1)}}
		if err := s.Validate("alpha"); err != nil {
			t.Fatalf("the valid set: %v", err)
		}
		spoil(&s)
		err := s.Validate("alpha")
		if fe, ok := errors.AsType[*broker.FieldError](err); !ok || fe.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

// TestRestoreRefusesWhatDoesNotAddUp spoils saved state.
func TestRestoreRefusesWhatDoesNotAddUp(t *testing.T) {
	for name, spoil := range map[string]func(*markettest.World){
		"a balance":     func(w *markettest.World) { a := w.Accounts["ann"]; a.Available++; w.Accounts["ann"] = a },
		"a changed job": func(w *markettest.World) { j := w.Jobs["j1"]; j.Hold--; w.Jobs["j1"] = j },
		"a lost job":    func(w *markettest.World) { delete(w.Jobs, "j1") },
		"a lost lease":  func(w *markettest.World) { clear(w.Leases) },
	} {
		w, err := markettest.NewWorld(broker.MarketConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Open("ann", pricing.USD); err != nil {
			t.Fatal(err)
		}
		o := markettest.Offer("alpha", "RTX 4090", 1, 400_000_000)
		for _, ev := range []broker.Event{
			broker.OffersPosted{Provider: "alpha", Set: broker.OfferSet{Boot: "b", Seq: 1, Offers: []broker.Offer{o}}},
			broker.Submitted{Job: "j1", Account: "ann", Spec: markettest.Spec("ann", "n")},
		} {
			if _, err := w.Step(ev); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Restart(); err != nil {
			t.Fatalf("untouched: %v", err)
		}
		spoil(w)
		err = w.Restart()
		if _, ok := errors.AsType[*broker.InvariantError](err); !ok {
			t.Errorf("%s: got %v, want an InvariantError", name, err)
		}
	}
}

func FuzzParseModel(f *testing.F) {
	for _, s := range []string{"RTX 4090", "any", "", "h100", "\xff\xfe", "NVIDIA GeForce RTX 3060 Laptop GPU"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := broker.ParseModel(s)
		if err == nil {
			if again, err := broker.ParseModel(m); err != nil || again != m {
				t.Errorf("%q is %q, which is %q, %v", s, m, again, err)
			}
		} else if fe, ok := errors.AsType[*broker.FieldError](err); !ok || fe.Nearest == "" || len(err.Error()) > 500 {
			t.Errorf("%q: %v", s, err)
		}
		broker.CanonicalModel(s)
	})
}
