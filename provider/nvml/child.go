package nvml

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// code is a result of the library. Its own text is not used: it aliases memory of the library.
type code int

// Results that we tell apart.
const (
	success         code = 0
	notSupported    code = 3
	driverNotLoaded code = 9
	libraryNotFound code = 12
	noFunction      code = 13
	gpuIsLost       code = 15
	resetRequired   code = 16
)

func (c code) String() string {
	switch c {
	case success:
		return "success"
	case notSupported:
		return "not supported"
	case driverNotLoaded:
		return "driver not loaded"
	case libraryNotFound:
		return "library not found"
	case noFunction:
		return "function not found"
	case gpuIsLost:
		return "GPU is lost"
	case resetRequired:
		return "GPU needs a reset"
	default:
		return fmt.Sprintf("NVML error %d", int(c))
	}
}

// library is the part of NVML that we read.
type library interface {
	Init() code
	Shutdown() code
	Has(symbol string) bool // whether a function can be called at all
	Driver() (string, code)
	CUDA() (int, code)
	Count() (int, code)
	Device(index int) (device, code)
}

// device is the part of a GPU that we read.
type device interface {
	UUID() (string, code)
	Name() (string, code)
	Memory() (bytes uint64, c code)
	Minor() (int, code)
	Compute() (major, minor int, c code)
	PCIBus() (string, code)
	PowerLimit() (milliwatts uint64, c code)
	MIG() (on bool, c code)
	Processes() (int, code)
}

// ChildMain is the child's whole life: it prints a reading and returns its exit code. The main function
// of every program that uses an [Inventory] calls it before anything else when its first argument is
// [ChildVerb].
func ChildMain([]string) int { return child(os.Stdout, os.Stderr, open) }

func child(stdout, stderr io.Writer, open func() (library, error)) int {
	lib, err := open()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	if c := lib.Init(); c != success {
		fmt.Fprintln(stderr, c)
		if c == libraryNotFound || c == driverNotLoaded {
			return exitNoDriver
		}
		return exitFailed
	}
	defer func() { _ = lib.Shutdown() }() // the process ends either way
	r, err := readAll(lib)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return 0
}

// readAll reads every GPU. One that fails does not hide the others.
func readAll(lib library) (reading, error) {
	var r reading
	var c code
	if r.Driver, c = lib.Driver(); c != success {
		return r, fmt.Errorf("driver version: %v", c)
	}
	if lib.Has("nvmlSystemGetCudaDriverVersion_v2") {
		if r.CUDA, c = lib.CUDA(); c != success {
			return r, fmt.Errorf("CUDA version: %v", c)
		}
	}
	count, c := lib.Count()
	if c != success {
		return r, fmt.Errorf("count GPUs: %v", c)
	}
	for i := range min(count, maxGPUs) {
		card, err := readOne(lib, i)
		if err != nil {
			card.Cause = err.Error()
		}
		r.GPUs = append(r.GPUs, card)
	}
	return r, nil
}

// readOne reads a GPU. What its kind does not have is left at zero; every other failure is an error,
// and what was read before it stays.
func readOne(lib library, index int) (card, error) {
	g := card{Index: index, Minor: -1}
	d, c := lib.Device(index)
	if c != success {
		return g, fmt.Errorf("open: %v", c)
	}
	for _, part := range []struct {
		name     string
		symbol   string // the newest function of those behind the call; empty: every driver has it
		optional bool
		read     func() code
	}{
		{"UUID", "", false, func() (c code) { g.UUID, c = d.UUID(); return }},
		{"name", "", false, func() (c code) { g.Name, c = d.Name(); return }},
		{"memory", "", false, func() (c code) { g.MemoryBytes, c = d.Memory(); return }},
		{"minor", "", false, func() (c code) { g.Minor, c = d.Minor(); return }},
		{"PCI bus", "nvmlDeviceGetPciInfo_v3", false, func() (c code) { g.PCIBus, c = d.PCIBus(); return }},
		{"compute capability", "nvmlDeviceGetCudaComputeCapability", false, func() (c code) { g.ComputeMajor, g.ComputeMinor, c = d.Compute(); return }},
		{"power limit", "nvmlDeviceGetEnforcedPowerLimit", true, func() (c code) { g.PowerLimitMW, c = d.PowerLimit(); return }},
		{"MIG mode", "nvmlDeviceGetMigMode", true, func() (c code) { g.MIG, c = d.MIG(); return }},
		{"processes", "nvmlDeviceGetComputeRunningProcesses_v3", true, func() (c code) { g.Processes, c = d.Processes(); return }},
	} {
		if part.symbol != "" && !lib.Has(part.symbol) {
			continue
		}
		if c := part.read(); c != success && (!part.optional || c != notSupported) {
			return g, fmt.Errorf("%s: %v", part.name, c)
		}
	}
	return g, nil
}
