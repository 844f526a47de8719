package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rialto/blockstore/mount"
	"rialto/cmd/internal/cli"
	"rialto/provider/nvml"
	"rialto/provider/sandbox"
	"rialto/tunnel/device"
)

// check is one line of the doctor's table.
type check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Found    string `json:"found"`
	Advice   string `json:"advice,omitempty"` // what to do when it is not ok
}

func doctorCommand() *cobra.Command {
	var state, runc string
	var simulated, asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host can run jobs",
		Long: "Check what the agent needs, and say what to do about what is missing. It changes nothing, and ends\n" +
			"with exit code 1 when something required is missing.",
		Example: "  sudo rialto-provider doctor\n  sudo rialto-provider doctor --simulated --json",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if runc == "" {
				runc = findRunc()
			}
			checks := examine(c.Context(), state, runc, !simulated)
			t := cli.Table{Columns: []cli.Column{{Title: "CHECK"}, {Title: "RESULT", Tone: resultTone}, {Title: "FOUND"}, {Title: "WHAT TO DO"}}}
			healthy := true
			for _, k := range checks {
				result := "ok"
				switch {
				case !k.OK && k.Required:
					result, healthy = "missing", false
				case !k.OK:
					result = "advised"
				}
				t.Add(k.Name, result, k.Found, k.Advice)
			}
			if err := (cli.Printer{Out: c.OutOrStdout(), JSON: asJSON}).Table(checks, &t); err != nil {
				return err
			}
			if !healthy {
				fmt.Fprintln(c.ErrOrStderr(), "this host cannot run jobs yet: see what is missing")
				return &cli.ExitError{Code: 1}
			}
			fmt.Fprintln(c.ErrOrStderr(), "this host can run jobs: see `rialto-provider run --help`")
			return nil
		},
	}
	c.Flags().StringVar(&state, "state", defaultState, "the agent's folder")
	c.Flags().StringVar(&runc, "runc", "", "the runc to use (default: beside this program, else in PATH)")
	c.Flags().BoolVar(&simulated, "simulated", false, "the GPUs will be simulated: ask for no driver")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func resultTone(text string) cli.Tone {
	switch text {
	case "ok":
		return cli.Good
	case "missing":
		return cli.Bad
	default:
		return cli.Plain
	}
}

// examine makes all checks.
func examine(ctx context.Context, state, runc string, driver bool) []check {
	checks := []check{
		checkRoot(), checkKernel(), checkTUN(), checkOverlay(), checkCgroups(), checkRunc(ctx, runc), checkNetns(),
		checkSeccomp(), checkWireGuard(), checkLimit(), checkMounts(ctx, state), checkJobDisk(ctx, state), checkDisk(state), checkDiskSpeed(ctx, state), checkDriver(ctx, driver),
	}
	for i := range checks {
		if checks[i].OK {
			checks[i].Advice = ""
		}
	}
	return checks
}

func checkRoot() check {
	uid := os.Geteuid()
	return check{Name: "root", Required: true, OK: uid == 0, Found: "user id " + strconv.Itoa(uid), Advice: "run it with sudo"}
}

// The oldest kernel that is tested: Debian 11's.
const kernelMajor, kernelMinor = 5, 10

func checkKernel() check {
	k := check{Name: "kernel", Required: true, Advice: fmt.Sprintf("upgrade to Linux %d.%d or newer: Debian 11, Ubuntu 22.04 or later", kernelMajor, kernelMinor)}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		k.Found = err.Error()
		return k
	}
	k.Found = unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(k.Found, "%d.%d", &major, &minor); err != nil {
		return k
	}
	k.OK = major > kernelMajor || major == kernelMajor && minor >= kernelMinor
	return k
}

func checkTUN() check {
	k := check{Name: "tun", Required: true, Found: "/dev/net/tun", Advice: "load the module: `modprobe tun`; in a container, pass it --device /dev/net/tun"}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		k.Found = err.Error()
		return k
	}
	f.Close()
	k.OK = true
	return k
}

func checkOverlay() check {
	k := check{Name: "overlayfs", Required: true, Found: "not in the kernel", Advice: "load the module: `modprobe overlay`"}
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		k.Found = err.Error()
		return k
	}
	if bytes.Contains(text, []byte("\toverlay\n")) {
		k.OK, k.Found = true, "in the kernel"
	}
	return k
}

// checkMounts tries how images can be shown.
func checkMounts(ctx context.Context, state string) check {
	k := check{Name: "image mounts", Required: true, Advice: "`modprobe fuse erofs`; in a container, run it privileged with /dev/fuse"}
	can, err := mount.Probe(ctx, existing(state), "rialto-provider", mountVerb)
	if err != nil {
		k.Found = err.Error()
		return k
	}
	tier, err := can.Lazy()
	if err != nil {
		k.Found = err.Error()
		return k
	}
	k.OK, k.Found = true, "tier "+string(tier)
	if can.FileBacked == nil {
		k.Found += ", sealed once whole"
	}
	return k
}

// checkJobDisk tries whether what a job writes can be limited.
func checkJobDisk(ctx context.Context, state string) check {
	k := check{Name: "disk limit", Required: true, Advice: "`modprobe loop` and e2fsprogs, or run with --disk-per-job unlimited"}
	if err := sandbox.CheckDisk(ctx, existing(state)); err != nil {
		k.Found = err.Error()
		return k
	}
	k.OK, k.Found = true, "loop devices and ext4"
	return k
}

func checkCgroups() check {
	k := check{Name: "cgroups", Required: true, Advice: "mount them: systemd does, else `mount -t cgroup2 cgroup2 /sys/fs/cgroup`; in a container, run it privileged"}
	const root = "/sys/fs/cgroup"
	switch {
	case isCgroup2(root):
		k.OK, k.Found = true, "v2"
	case exists(root + "/memory"):
		k.OK, k.Found = true, "v1"
		if isCgroup2(root + "/unified") {
			k.Found = "hybrid"
		}
	default:
		k.Found = "none at " + root
	}
	return k
}

func isCgroup2(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func checkRunc(ctx context.Context, path string) check {
	k := check{Name: "runc", Required: true, Advice: "build it with `make bin/runc`, and keep it beside this program or name it with --runc"}
	found, err := sandbox.CheckRunc(ctx, path)
	if err != nil {
		k.Found = err.Error()
		return k
	}
	k.OK, k.Found = true, found+" at "+path
	return k
}

func checkNetns() check {
	k := check{Name: "network namespaces", Required: true, Found: "can be made", Advice: "run it with sudo; in a container, run that privileged"}
	result := make(chan error, 1)
	go func() { // ends at once; its thread is thrown away, because it stays in the new namespace
		runtime.LockOSThread()
		result <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	if err := <-result; err != nil {
		k.Found = err.Error()
		return k
	}
	k.OK = true
	return k
}

func checkSeccomp() check {
	ok := exists("/proc/sys/kernel/seccomp/actions_avail")
	k := check{Name: "seccomp", Required: true, OK: ok, Found: "filters", Advice: "boot a kernel with CONFIG_SECCOMP_FILTER, as every distribution's is"}
	if !ok {
		k.Found = "no filters"
	}
	return k
}

func checkWireGuard() check {
	k := check{Name: "WireGuard", OK: true, Found: "in user space"}
	if exists("/sys/module/wireguard") {
		k.Found = "in the kernel"
	}
	return k
}

// checkLimit tries whether traffic beyond what a customer pays for can be slowed down.
func checkLimit() check {
	k := check{Name: "traffic limit", Found: "in the kernel", Advice: "`modprobe -a sch_tbf sch_ingress cls_u32 act_mirred ifb`, or ask no price for traffic"}
	if err := device.CheckLimit(); err != nil {
		k.Found = err.Error()
		return k
	}
	k.OK = true
	return k
}

// Least free disk: below the first no agent takes jobs, below the second few images fit.
const (
	diskNeededMiB  = 1 << 10
	diskAdvisedMiB = 50 << 10
)

func checkDisk(state string) check {
	k := check{Name: "disk space", Required: true, Advice: "free some, or put --state on a larger disk: images need 50 GiB or more"}
	free, err := diskFree(existing(state))
	if err != nil {
		k.Found = err.Error()
		return k
	}
	k.Found = cli.FormatMiB(free) + " free for " + state
	k.OK = free >= diskAdvisedMiB
	k.Required = free < diskNeededMiB
	return k
}

// existing returns the nearest folder above path that exists.
func existing(path string) string {
	for !exists(path) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
	}
	return path
}

const (
	probeSize = 64 << 20
	slowDisk  = 100 << 20 // bytes per second: an image of 10 GB then takes 100 s from the fastest peer
)

func checkDiskSpeed(ctx context.Context, state string) check {
	k := check{Name: "disk speed", Advice: "put --state on an SSD: an image starts no sooner than it is written"}
	f, err := os.CreateTemp(existing(state), ".doctor-*")
	if err != nil {
		k.Found, k.Advice = err.Error(), "let it write there: run it with sudo"
		return k
	}
	defer func() { f.Close(); _ = os.Remove(f.Name()) }()
	start, chunk := time.Now(), bytes.Repeat([]byte("rialto 1"), 128<<10)
	for written := 0; written < probeSize && err == nil && ctx.Err() == nil; written += len(chunk) {
		_, err = f.Write(chunk)
	}
	if err := errors.Join(err, ctx.Err(), f.Sync()); err != nil {
		k.Found = err.Error()
		return k
	}
	rate := int64(float64(probeSize) / time.Since(start).Seconds())
	k.OK, k.Found = rate >= slowDisk, cli.FormatBytes(rate)+"/s written and synced"
	return k
}

func checkDriver(ctx context.Context, required bool) check {
	k := check{Name: "NVIDIA driver", Required: required, Advice: "install the driver until `nvidia-smi -L` lists the GPUs; to try Rialto without, see doctor --simulated and run --simulate-gpu"}
	inventory, err := nvml.New(nvml.Config{})
	if err != nil {
		k.Found = err.Error()
		return k
	}
	gpus, err := inventory.GPUs(ctx)
	if err != nil {
		k.Found = err.Error()
		return k
	}
	var found []string
	for _, g := range gpus {
		found = append(found, g.Model)
		k.OK = k.OK || g.UnusableCause == ""
	}
	k.Found = fmt.Sprintf("%d GPUs: %s", len(gpus), strings.Join(found, ", "))
	return k
}
