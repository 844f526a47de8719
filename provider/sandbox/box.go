package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"rialto/provider"
	"rialto/provider/sandbox/internal/host"
	"rialto/provider/sandbox/internal/keeper"
	"rialto/provider/sandbox/internal/oci"
)

// box is one lease's sandbox. It holds no state: all of it is the supervisor's or on disk, so that it does
// not matter which agent process asks.
type box struct {
	r      *Runtime
	launch provider.Launch
}

var _ provider.Sandbox = (*box)(nil)

func (r *Runtime) box(l provider.Launch) *box { return &box{r: r, launch: l} }

func (b *box) dir() string { return b.r.dir(b.launch.Lease) }

func (b *box) err(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{op, b.launch.Lease, err}
}

func (b *box) Netns() string { return b.r.netns(b.launch.Lease) }

func (b *box) Start(ctx context.Context, p provider.Program) error {
	return b.err("start", b.start(ctx, p))
}

func (b *box) start(ctx context.Context, p provider.Program) error {
	if p.Deadline <= 0 {
		return errors.New("no deadline")
	}
	cgroup := b.r.cgroup(b.launch.Lease)
	spec, err := oci.Spec(b.launch, p, oci.Place{
		RootFS: filepath.Join(b.dir(), keeper.RootFSDir), Dir: b.dir(), Netns: b.Netns(), CgroupPath: cgroup,
	})
	if err != nil {
		return err
	}
	if err := oci.WriteFiles(b.dir(), b.launch.Hostname); err != nil {
		return err
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir(), keeper.ConfigFile), config, 0o600); err != nil {
		return err
	}
	_, err = keeper.Call(ctx, b.dir(), keeper.Request{Op: keeper.OpStart, Start: &keeper.Start{
		RuncPath: b.r.cfg.RuncPath, CgroupPath: cgroup, LowerDir: p.RootFS, Deadline: p.Deadline, LogLimit: b.r.cfg.LogLimit,
	}})
	return err
}

func (b *box) Started() bool { return keeper.Started(b.dir()) }

func (b *box) Logs(ctx context.Context, follow bool, sink provider.LogSink) error {
	return b.err("log of", keeper.Logs(ctx, b.dir(), follow, sink))
}

// Dial tries the two loopback addresses in turn, since a program may listen on one of them only.
func (b *box) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	var errs []error
	for _, address := range []string{"127.0.0.1", "::1"} {
		var c net.Conn
		err := host.InNetns(b.Netns(), func() error {
			var err error
			c, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
			return err
		})
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, b.err("dial", errors.Join(errs...))
}

func (b *box) Listen(ctx context.Context, address string) (net.Listener, error) {
	var l net.Listener
	err := host.InNetns(b.Netns(), func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return nil, b.err("listen in", err)
	}
	return l, nil
}

// Extend does nothing for a workload that has ended: Wait tells how.
func (b *box) Extend(ctx context.Context, d time.Duration) error {
	_, err := keeper.Call(ctx, b.dir(), keeper.Request{Op: keeper.OpExtend, Duration: d})
	if errors.Is(err, keeper.ErrGone) {
		err = b.exists()
	}
	return b.err("extend", err)
}

// Notify writes on the host what the workload sees through a mount.
func (b *box) Notify(_ context.Context, name string, content []byte) error {
	if name != filepath.Base(name) || name == "." || name == ".." {
		return b.err("notify", fmt.Errorf("name %q: want a plain one", name))
	}
	path := filepath.Join(b.dir(), oci.NoticeDir, name)
	half := filepath.Join(b.dir(), name+".new") // where the workload does not see it
	err := os.WriteFile(half, content, 0o644)
	if err == nil {
		err = os.Chmod(half, 0o644) // whatever the umask
	}
	if err == nil {
		err = os.Rename(half, path)
	}
	return b.err("notify", err)
}

// Stop returns when the workload has ended. The grace is the supervisor's: it goes on when ctx ends.
func (b *box) Stop(ctx context.Context, grace time.Duration, reason string) error {
	_, err := keeper.Call(ctx, b.dir(), keeper.Request{Op: keeper.OpStop, Duration: grace, Reason: reason})
	if errors.Is(err, keeper.ErrGone) {
		return nil // and the workload with it
	}
	return b.err("stop", err)
}

// Wait returns how the workload ended. A supervisor that died without a record took the workload with it,
// as if killed.
func (b *box) Wait(ctx context.Context) (provider.Exit, error) {
	if err := b.exists(); err != nil {
		return provider.Exit{}, b.err("wait for", err)
	}
	r, err := keeper.Call(ctx, b.dir(), keeper.Request{Op: keeper.OpWait})
	if err == nil && r.Exit != nil {
		return *r.Exit, nil
	}
	if err != nil && !errors.Is(err, keeper.ErrGone) {
		return provider.Exit{}, b.err("wait for", err)
	}
	exit, recorded, err := keeper.ReadExit(b.dir())
	if err != nil {
		return provider.Exit{}, b.err("wait for", err)
	}
	if !recorded {
		return provider.Exit{Code: 137, Reason: "supervisor was killed"}, nil
	}
	return exit, nil
}

func (b *box) exists() error {
	_, err := os.Stat(b.dir())
	if errors.Is(err, os.ErrNotExist) {
		return provider.ErrNoSandbox
	}
	return err
}

func (b *box) Delete(ctx context.Context) error { return b.r.Remove(ctx, b.launch.Lease) }

// process describes another process of the container: its program's user, rights and environment.
func (b *box) process(q provider.ExecRequest) ([]byte, error) {
	if len(q.Args) == 0 || q.Args[0] == "" {
		return nil, errors.New("no command")
	}
	raw, err := os.ReadFile(filepath.Join(b.dir(), keeper.ConfigFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("not started")
	}
	if err != nil {
		return nil, err
	}
	p, err := oci.ExecProcess(raw, q)
	if err != nil {
		return nil, fmt.Errorf("describe process: %w", err)
	}
	return p, nil
}
