package nvml

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"rialto/broker"
	"rialto/provider"
)

const (
	libraryDir = "/usr/local/nvidia/lib64"
	binaryDir  = "/usr/local/nvidia/bin"
)

// driverLibraries are the driver's files that compute needs, less their versions. Graphics, video and
// management of the host are left out.
func driverLibraries() []string {
	return []string{
		"libcuda.so", "libcudadebugger.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so", "libnvidia-nvvm.so",
		"libnvidia-nvvm70.so", "libnvidia-gpucomp.so", "libnvidia-allocator.so", "libnvidia-opencl.so", "libnvidia-cfg.so",
		"libnvidia-pkcs11.so", "libnvidia-pkcs11-openssl3.so",
	}
}

// Inject implements [provider.Inventory].
func (inv *Inventory) Inject(ctx context.Context, uuids []string) (provider.Injection, error) {
	in := provider.Injection{
		Devices: []string{"/dev/nvidiactl"},
		// The image's own idea of a visible GPU is for NVIDIA's hook, which does not run here.
		Env: []string{"NVIDIA_VISIBLE_DEVICES=void", "LD_LIBRARY_PATH=" + libraryDir},
	}
	for _, node := range []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"} {
		if exists(node) {
			in.Devices = append(in.Devices, node)
		}
	}
	inv.mu.Lock()
	for _, uuid := range uuids {
		minor, ok := inv.minors[uuid]
		if !ok || minor < 0 {
			inv.mu.Unlock()
			return provider.Injection{}, fmt.Errorf("inject %s: %w", uuid, broker.ErrNotFound)
		}
		in.Devices = append(in.Devices, "/dev/nvidia"+strconv.Itoa(minor))
	}
	inv.mu.Unlock()
	in.Mounts = libraryMounts(knownLibraries(ctx), filepath.EvalSymlinks)
	if !slices.ContainsFunc(in.Mounts, func(m provider.Mount) bool { return strings.HasPrefix(m.Target, libraryDir+"/libcuda.so") }) {
		return provider.Injection{}, fmt.Errorf("inject: the driver's libcuda.so is not found: %w", fs.ErrNotExist)
	}
	if smi, err := exec.LookPath("nvidia-smi"); err == nil {
		in.Mounts = append(in.Mounts, provider.Mount{Source: smi, Target: binaryDir + "/nvidia-smi", ReadOnly: true})
	}
	return in, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// knownLibraries returns the paths of the host's 64-bit libraries: the dynamic linker's cache, then the
// folders where distributions put the driver, for hosts that are containers without a fresh cache.
func knownLibraries(ctx context.Context) []string {
	var paths []string
	if out, err := exec.CommandContext(ctx, "/sbin/ldconfig", "-p").Output(); err == nil {
		paths = parseCache(string(out))
	}
	for _, dir := range []string{
		"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/x86_64-linux-gnu/nvidia/current",
		"/usr/local/nvidia/lib64", "/usr/lib",
	} {
		found, err := filepath.Glob(filepath.Join(dir, "lib*.so*"))
		if err == nil {
			paths = append(paths, found...)
		}
	}
	return paths
}

// parseCache reads the output of ldconfig -p: "\tNAME (libc6,x86-64) => PATH".
func parseCache(text string) []string {
	var paths []string
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		left, path, ok := strings.Cut(lines.Text(), " => ")
		path = strings.TrimSpace(path)
		if ok && strings.Contains(left, "64") && filepath.IsAbs(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// libraryMounts binds each driver library under the names by which programs open it. The first path of
// a name wins.
func libraryMounts(paths []string, resolve func(string) (string, error)) []provider.Mount {
	var mounts []provider.Mount
	wanted := driverLibraries()
	seen := make(map[string]bool)
	for _, path := range paths {
		name := filepath.Base(path)
		base, _, _ := strings.Cut(name, ".so")
		if !slices.Contains(wanted, base+".so") || seen[name] {
			continue
		}
		real, err := resolve(path)
		if err != nil {
			continue // a dangling link of an older driver
		}
		seen[name] = true
		mounts = append(mounts, provider.Mount{Source: real, Target: libraryDir + "/" + name, ReadOnly: true})
	}
	slices.SortFunc(mounts, func(a, b provider.Mount) int { return strings.Compare(a.Target, b.Target) })
	return mounts
}
