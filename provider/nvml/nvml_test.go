package nvml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rialto/broker"
)

// fakeVerb makes the test binary a child that fails in the way that its second argument names.
const fakeVerb = "fake-nvml-child"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == fakeVerb {
		os.Exit(fakeChild(os.Args[2]))
	}
	os.Exit(m.Run())
}

func fakeChild(scenario string) int {
	switch scenario {
	case "good":
		return child(os.Stdout, os.Stderr, func() (library, error) { return twoGPUs(), nil })
	case "nodriver":
		return child(os.Stdout, os.Stderr, func() (library, error) { return &fakeLibrary{init: libraryNotFound}, nil })
	case "symbol":
		fmt.Fprintln(os.Stderr, "symbol lookup error: undefined symbol: nvmlNewThing")
		return 127
	case "segv":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		select {}
	case "hang":
		time.Sleep(time.Hour)
	case "garbage":
		fmt.Println("hello")
	case "unknown":
		fmt.Println(`{"driver":"1","cuda":1,"gpus":[],"more":1}`)
	case "huge":
		fmt.Println(strings.Repeat("x", maxReading+1))
	case "env":
		for _, kv := range os.Environ() {
			if strings.HasPrefix(kv, "LD_") {
				return 1
			}
		}
		fmt.Println(`{"driver":"1","cuda":13000,"gpus":[]}`)
	}
	return 0
}

func inventory(t *testing.T, scenario string) *Inventory {
	t.Helper()
	inv, err := New(Config{Command: []string{os.Args[0], fakeVerb, scenario}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

type fakeLibrary struct {
	init    code
	lacks   []string // symbols
	devices []*fakeDevice
}

func (l *fakeLibrary) Init() code             { return l.init }
func (l *fakeLibrary) Shutdown() code         { return success }
func (l *fakeLibrary) Has(symbol string) bool { return !slices.Contains(l.lacks, symbol) }
func (l *fakeLibrary) Driver() (string, code) { return "580.95.05", success }
func (l *fakeLibrary) CUDA() (int, code)      { return 13020, success }
func (l *fakeLibrary) Count() (int, code)     { return len(l.devices), success }

func (l *fakeLibrary) Device(i int) (device, code) { return l.devices[i], l.devices[i].open }

type fakeDevice struct {
	open, identity, mig, power, processes code
	n                                     int
	busy                                  int
}

func (d *fakeDevice) UUID() (string, code)       { return fmt.Sprintf("GPU-%d", d.n), d.identity }
func (d *fakeDevice) Name() (string, code)       { return "NVIDIA GeForce RTX 4090", success }
func (d *fakeDevice) Memory() (uint64, code)     { return 24564 << 20, success }
func (d *fakeDevice) Minor() (int, code)         { return d.n, success }
func (d *fakeDevice) Compute() (int, int, code)  { return 8, 9, success }
func (d *fakeDevice) PCIBus() (string, code)     { return fmt.Sprintf("00000000:0%d:00.0", d.n), success }
func (d *fakeDevice) PowerLimit() (uint64, code) { return 450000, d.power }
func (d *fakeDevice) MIG() (bool, code)          { return d.mig == success && d.n == 9, d.mig }
func (d *fakeDevice) Processes() (int, code)     { return d.busy, d.processes }

func twoGPUs() *fakeLibrary {
	return &fakeLibrary{devices: []*fakeDevice{{n: 0, mig: notSupported, power: notSupported}, {n: 1, mig: notSupported, busy: 1}}}
}

func TestReading(t *testing.T) {
	t.Parallel()
	inv := inventory(t, "good")
	got, err := inv.GPUs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := broker.GPU{
		UUID: "GPU-0", Model: "RTX 4090", MemoryMiB: 24564, Driver: "580.95.05", CUDA: "13.2", ComputeMajor: 8, ComputeMinor: 9,
		PCIBus: "00000000:00:00.0", PowerLimitMW: 450000, Level: broker.LevelNVML,
	}
	if len(got) != 2 || got[0] != want || !got[1].Busy {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestChildFails(t *testing.T) {
	t.Parallel()
	for scenario, want := range map[string]error{
		"nodriver": ErrNoDriver, "symbol": ErrTooOld, "segv": ErrCrashed, "garbage": nil, "unknown": nil, "huge": nil,
	} {
		_, err := inventory(t, scenario).GPUs(t.Context())
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", scenario, err, want)
		}
	}
}

func TestHungChildIsKilled(t *testing.T) {
	t.Parallel()
	inv := inventory(t, "hang")
	inv.cfg.Timeout = 50 * time.Millisecond
	if _, err := inv.GPUs(t.Context()); !errors.Is(err, ErrHung) {
		t.Errorf("got %v, want %v", err, ErrHung)
	}
}

func TestChildHasNoLoaderVariables(t *testing.T) {
	t.Setenv("LD_PRELOAD", "")
	t.Setenv("LD_LIBRARY_PATH", "/tmp")
	if _, err := inventory(t, "env").GPUs(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOneBadGPUDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	lib := twoGPUs()
	lib.devices = append(lib.devices,
		&fakeDevice{n: 2, open: gpuIsLost}, &fakeDevice{n: 3, processes: gpuIsLost}, &fakeDevice{n: 9}, &fakeDevice{n: 5, identity: resetRequired})
	r, err := readAll(lib)
	if err != nil {
		t.Fatal(err)
	}
	var causes []string
	for _, g := range r.vocabulary() {
		causes = append(causes, g.UUID+": "+g.UnusableCause)
	}
	want := []string{"GPU-0: ", "GPU-1: ", "GPU-3: processes: GPU is lost", "GPU-9: it is divided by MIG", "GPU-5: UUID: GPU needs a reset"}
	if !slices.Equal(causes, want) {
		t.Errorf("got %q, want %q", causes, want)
	}
}

func TestMissingSymbolsAreNotCalled(t *testing.T) {
	t.Parallel()
	lib := twoGPUs()
	lib.lacks = []string{"nvmlDeviceGetMigMode", "nvmlDeviceGetEnforcedPowerLimit", "nvmlSystemGetCudaDriverVersion_v2"}
	for _, d := range lib.devices {
		d.mig, d.power = noFunction, noFunction
	}
	r, err := readAll(lib)
	if err != nil || r.CUDA != 0 || r.GPUs[0].Cause != "" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestLibraryMounts(t *testing.T) {
	t.Parallel()
	cache := "3 libs found in cache `/etc/ld.so.cache'\n" +
		"\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n" +
		"\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1\n" +
		"\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/dangling.so.1/libnvidia-ml.so.1\n" +
		"\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6\n"
	paths := append(parseCache(cache), "/usr/lib64/libcuda.so.1", "/usr/lib64/libnvidia-gpucomp.so.580.95.05", "/usr/lib64/libnvidia-glcore.so.580.95.05")
	mounts := libraryMounts(paths, func(p string) (string, error) {
		if strings.Contains(p, "dangling") {
			return "", os.ErrNotExist
		}
		return p + ".real", nil
	})
	var got []string
	for _, m := range mounts {
		if !m.ReadOnly {
			t.Errorf("%s can be written", m.Target)
		}
		got = append(got, m.Source+" "+m.Target)
	}
	want := []string{
		"/usr/lib/x86_64-linux-gnu/libcuda.so.1.real /usr/local/nvidia/lib64/libcuda.so.1",
		"/usr/lib64/libnvidia-gpucomp.so.580.95.05.real /usr/local/nvidia/lib64/libnvidia-gpucomp.so.580.95.05",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestInjectKnowsOnlyWhatWasRead(t *testing.T) {
	t.Parallel()
	inv := inventory(t, "good")
	if _, err := inv.Inject(t.Context(), []string{"GPU-0"}); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("got %v, want %v", err, broker.ErrNotFound)
	}
}

func FuzzDecode(f *testing.F) {
	r, _ := readAll(twoGPUs())
	good, _ := json.Marshal(r)
	f.Add(good)
	f.Add([]byte(`{"gpus":[{"cause":"lost"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decode(text)
		if err != nil {
			return
		}
		for _, g := range r.vocabulary() {
			if g.UUID == "" || g.DeviceMinor < 0 && g.UnusableCause == "" {
				t.Fatalf("%s: offers %+v", bytes.TrimSpace(text), g)
			}
		}
	})
}
