package sandbox

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// CheckRunc returns the version of the runc at path, and an error if it is one with a known escape. Fixed
// are CVE-2025-31133, 2025-52565, 2025-52881 and 2026-41579 in 1.3.6 and in 1.4.3; Debian 12's 1.1.5 has
// none of these mends.
func CheckRunc(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(line, "runc version ")
	if !ok {
		return "", fmt.Errorf("%s does not say that it is runc", path)
	}
	if !safe(version) {
		return version, fmt.Errorf("%s is runc %s: need 1.3.6, 1.4.3 or newer (make bin/runc)", path, version)
	}
	return version, nil
}

func safe(version string) bool {
	release, pre, _ := strings.Cut(version, "-")
	parts := strings.SplitN(release, ".", 3)
	if len(parts) != 3 || strings.HasPrefix(pre, "rc") {
		return false
	}
	var n [3]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if err != nil {
			return false
		}
		n[i] = v
	}
	switch {
	case n[0] != 1:
		return n[0] > 1
	case n[1] == 3:
		return n[2] >= 6
	case n[1] == 4:
		return n[2] >= 3
	default:
		return n[1] > 4
	}
}

// check looks at runc's version once.
func (r *Runtime) check(ctx context.Context) error {
	r.mu.Lock()
	checked := r.checked
	r.mu.Unlock()
	if checked {
		return nil
	}
	if _, err := CheckRunc(ctx, r.cfg.RuncPath); err != nil {
		return err
	}
	r.mu.Lock()
	r.checked = true
	r.mu.Unlock()
	return nil
}
