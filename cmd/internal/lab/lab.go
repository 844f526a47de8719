// Package lab builds a small world on one Linux machine to try, test and measure the whole of Rialto in:
// hosts that are network namespaces with an address of their own, a real OCI registry, a real image, one
// broker, several agents and a customer, all of them the real programs. Nothing of it outlives [Lab.Close];
// [Lab.Leftovers] proves that.
//
// The hosts hang on one bridge inside a namespace of its own, 10.77.0.0/24; nothing is connected to the
// machine's own network. All names start with "rl-".
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Config says where a lab finds its programs and keeps its files.
type Config struct {
	Bin   string    // directory with rialto, rialto-broker, rialto-provider and runc
	Work  string    // empty directory for state; removed by Close
	Cache string    // kept between runs: images; default: rialto-lab in the user's cache directory
	Name  string    // short; tells labs on one machine apart; default "lab"
	Log   io.Writer // what the programs print; default: discarded

	Broker []string // more arguments of the broker's
}

func (c Config) cache() (string, error) {
	if c.Cache != "" {
		return c.Cache, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("lab cache: %w", err)
	}
	return filepath.Join(dir, "rialto-lab"), nil
}

// Lab is a running world. Its methods are not safe for concurrent use.
type Lab struct {
	cfg    Config
	before snapshot
	hosts  []*Host
	wired  bool // the bridge's namespace exists

	mu    sync.Mutex
	procs []*Proc // in the order of their start
}

// New waits until no other process has a lab on this machine, remembers what the machine looks like and starts nothing.
func New(cfg Config) (*Lab, error) {
	if cfg.Name == "" {
		cfg.Name = "lab"
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	var err error
	if cfg.Cache, err = cfg.cache(); err != nil {
		return nil, err
	}
	for _, p := range []string{"rialto", "rialto-broker", "rialto-provider", "runc"} {
		if _, err := os.Stat(filepath.Join(cfg.Bin, p)); err != nil {
			return nil, fmt.Errorf("lab: %w; run make first", err)
		}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: network namespaces and containers need root")
	}
	if _, err := takeTurn(); err != nil {
		return nil, err
	}
	before, err := takeSnapshot(cfg)
	if err != nil {
		return nil, err
	}
	return &Lab{cfg: cfg, before: before}, nil
}

// CachePath returns a path below the directory that outlives the lab.
func (l *Lab) CachePath(elem ...string) string {
	return filepath.Join(append([]string{l.cfg.Cache}, elem...)...)
}

// Bin returns the path of one of our programs.
func (l *Lab) Bin(name string) string { return filepath.Join(l.cfg.Bin, name) }

// Path returns a path below the lab's working directory.
func (l *Lab) Path(elem ...string) string {
	return filepath.Join(append([]string{l.cfg.Work}, elem...)...)
}

// Close ends every process in reverse order of start, removes the hosts and the working directory.
func (l *Lab) Close() error {
	var errs []error
	l.mu.Lock()
	procs := slices.Clone(l.procs)
	l.procs = nil
	l.mu.Unlock()
	for _, p := range slices.Backward(procs) {
		if err := p.Stop(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, h := range slices.Backward(l.hosts) {
		errs = append(errs, ip(context.Background(), "netns", "delete", h.netns))
	}
	if l.wired {
		errs = append(errs, ip(context.Background(), "netns", "delete", l.switchNS()))
		l.wired = false
		errs = append(errs, l.unmountNamespaces())
	}
	l.hosts = nil
	errs = append(errs, os.RemoveAll(l.cfg.Work))
	return errors.Join(errs...)
}

// netnsDir is where "ip netns" keeps its namespaces. The first "ip netns add" on a machine mounts it.
const netnsDir = "/run/netns"

// unmountNamespaces undoes that mount if it is the lab's doing and nobody else uses it.
func (l *Lab) unmountNamespaces() error {
	names, err := os.ReadDir(netnsDir)
	if err != nil || len(names) > 0 || l.before["mount "+netnsDir] {
		return err
	}
	if err := unix.Unmount(netnsDir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", netnsDir, err)
	}
	return os.Remove(netnsDir)
}

// Leftovers lists what exists now and did not when the lab was made: processes of our programs, network
// namespaces, links, mounts and cgroups. It is empty after a clean Close.
func (l *Lab) Leftovers() ([]string, error) {
	after, err := takeSnapshot(l.cfg)
	if err != nil {
		return nil, err
	}
	var left []string
	for s := range after {
		if !l.before[s] {
			left = append(left, s)
		}
	}
	slices.SortFunc(left, strings.Compare)
	return left, nil
}
