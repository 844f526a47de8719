//go:build cgo && linux

package nvml

import (
	"strings"

	nv "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// open returns the host's library. Nothing but Init may be called when Init failed.
func open() (library, error) { return realLibrary{nv.New()}, nil }

type realLibrary struct{ nv nv.Interface }

func (l realLibrary) Init() code     { return code(l.nv.Init()) }
func (l realLibrary) Shutdown() code { return code(l.nv.Shutdown()) }

func (l realLibrary) Has(symbol string) bool { return l.nv.Extensions().LookupSymbol(symbol) == nil }

func (l realLibrary) Driver() (string, code) { return text(l.nv.SystemGetDriverVersion()) }

func (l realLibrary) CUDA() (int, code) {
	v, ret := l.nv.SystemGetCudaDriverVersion_v2()
	return v, code(ret)
}

func (l realLibrary) Count() (int, code) {
	n, ret := l.nv.DeviceGetCount()
	return n, code(ret)
}

func (l realLibrary) Device(index int) (device, code) {
	d, ret := l.nv.DeviceGetHandleByIndex(index)
	return realDevice{d}, code(ret)
}

type realDevice struct{ nv nv.Device }

func (d realDevice) UUID() (string, code) { return text(d.nv.GetUUID()) }
func (d realDevice) Name() (string, code) { return text(d.nv.GetName()) }

func (d realDevice) Memory() (uint64, code) {
	m, ret := d.nv.GetMemoryInfo()
	return m.Total, code(ret)
}

func (d realDevice) Minor() (int, code) {
	n, ret := d.nv.GetMinorNumber()
	return n, code(ret)
}

func (d realDevice) Compute() (major, minor int, c code) {
	major, minor, ret := d.nv.GetCudaComputeCapability()
	return major, minor, code(ret)
}

func (d realDevice) PCIBus() (string, code) {
	info, ret := d.nv.GetPciInfo()
	var b strings.Builder
	for _, c := range info.BusId {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String(), code(ret)
}

func (d realDevice) PowerLimit() (uint64, code) {
	mw, ret := d.nv.GetEnforcedPowerLimit()
	return uint64(mw), code(ret)
}

func (d realDevice) MIG() (bool, code) {
	now, _, ret := d.nv.GetMigMode()
	return now == nv.DEVICE_MIG_ENABLE, code(ret)
}

func (d realDevice) Processes() (int, code) {
	p, ret := d.nv.GetComputeRunningProcesses()
	return len(p), code(ret)
}

// text copies a string out of the library's memory.
func text(s string, ret nv.Return) (string, code) { return strings.Clone(s), code(ret) }
