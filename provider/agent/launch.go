package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/provider"
)

// fetched is the outcome of bringing image and weights onto the host.
type fetched struct {
	image  provider.Image
	mounts []provider.Mount
	err    error
}

// uses are the images and weights that a workload uses, until it has ended.
type uses struct {
	mu       sync.Mutex
	ended    bool
	releases []func()
}

func (u *uses) add(release func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		release()
		return
	}
	u.releases = append(u.releases, release)
}

func (u *uses) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, release := range u.releases {
		release()
	}
	u.ended, u.releases = true, nil
}

// fetch brings the image and all weights at once, as far as a start needs them. For a workload that an earlier agent
// started it goes on with what was under way, so that what the workload has not read yet can be read.
func (w *workload) fetch(ctx context.Context) fetched {
	r := w.record()
	adopted := w.running()
	var (
		out    = fetched{mounts: make([]provider.Mount, len(w.spec.Weights))}
		errs   = make([]error, len(w.spec.Weights)+1)
		counts = make([]broker.Fetched, len(errs))
		mu     sync.Mutex // guards counts
		wg     sync.WaitGroup
	)
	progress := func(i int) func(broker.Fetched) {
		if adopted { // its report says what the earlier agent fetched
			return func(broker.Fetched) {}
		}
		return func(f broker.Fetched) {
			mu.Lock()
			counts[i] = f
			sum := sum(counts)
			mu.Unlock()
			w.note(func(d *broker.Report) { d.Fetched = sum })
		}
	}
	step := w.step
	if adopted {
		step = func(string) func() { return func() {} }
	}
	if len(w.keys.wanted) > 0 && !adopted {
		w.keys.expect(step("key"))
		w.log.Info("workload waits for the customer's keys", slog.Any("roots", w.keys.wanted))
	}
	wg.Go(func() {
		done := step("image")
		out.image, errs[0] = w.ensure(ctx, provider.Want{
			Image: w.spec.Image, Digest: w.spec.Digest, Root: w.spec.Root, Sources: r.Sources, Trace: w.hint,
			Private: w.spec.Private, Key: w.unlock(w.spec.Private, w.spec.Root),
		}, progress(0))
		if errs[0] != nil {
			return
		}
		done()
		w.note(func(d *broker.Report) {
			held := broker.ImageHeld{Digest: out.image.Digest, Root: out.image.Root}
			if !slices.Contains(d.Held, held) {
				d.Held = append(slices.Clone(d.Held), held)
			}
		})
		w.agent.Touch()
	})
	done := func() {}
	if len(w.spec.Weights) > 0 {
		done = step("weights")
	}
	var weights sync.WaitGroup
	for i, m := range w.spec.Weights {
		weights.Go(func() {
			dir, err := w.ensure(ctx, provider.Want{
				Root: m.Root, Sources: r.Sources, Private: m.Private, Key: w.unlock(m.Private, m.Root),
			}, progress(i+1))
			if err != nil {
				errs[i+1] = fmt.Errorf("weights %s: %w", m.Name, err)
				return
			}
			out.mounts[i] = provider.Mount{Source: dir.RootFS, Target: m.Path, ReadOnly: true}
		})
	}
	weights.Wait()
	done()
	wg.Wait()
	w.keys.forget()
	if out.err = errors.Join(errs...); out.err != nil && adopted && ctx.Err() == nil {
		w.log.Warn("what the workload has not read yet cannot be read", slog.Any("err", out.err))
	}
	if out.err == nil {
		w.refetched()
	}
	return out
}

// ensure is Images.Ensure for as long as the workload lives.
func (w *workload) ensure(ctx context.Context, want provider.Want, progress func(broker.Fetched)) (provider.Image, error) {
	img, err := w.agent.Images.Ensure(ctx, want, progress)
	if err == nil {
		w.uses.add(img.Release)
		progress(img.Fetched)
	}
	return img, err
}

func sum(counts []broker.Fetched) broker.Fetched {
	var s broker.Fetched
	from := make(map[broker.PeerID]int64)
	for _, c := range counts {
		for _, p := range c.From {
			from[p.Peer] += p.Bytes
		}
		s.Local += c.Local
		s.Peers += c.Peers
		s.Registry += c.Registry
		s.Total += c.Total
	}
	s.From = broker.TopPeers(from)
	return s
}

// taken waits until work for the workload may begin that costs the host much. That is at once, but a firm quote may come to
// nothing: its image is not fetched before its customer accepts it.
func (w *workload) taken(alive context.Context) bool {
	if w.spec.Firm == 0 {
		return true
	}
	select {
	case <-w.confirmed:
		return true
	case <-alive.Done():
		return false
	}
}

// grant signs the answer to the hold and makes it durable. An adopted workload has it already.
func (w *workload) grant(ctx context.Context, port uint16) error {
	defer w.settle()
	r := w.record()
	if len(r.Answer) > 0 {
		return nil
	}
	key, err := r.TunnelKey.Public()
	if err != nil {
		return err
	}
	g := broker.Grant{Lease: w.lease, Job: r.Job, GPUs: r.GPUs, TunnelKey: key, Endpoints: w.agent.endpoints(port)}
	if w.spec.Firm > 0 {
		g.Rate, g.Tariff, g.Firm = r.Rate, r.Tariff, w.spec.Firm
		w.agent.Touch() // other brokers need not ask for these GPUs for a while
	}
	envelope, err := wire.SealAnswer(w.agent.Key, broker.Answer{Lease: w.lease, Grant: &g})
	if err != nil {
		return err
	}
	w.log.Info("hold granted", slog.Any("gpus", r.GPUs))
	return w.update(ctx, func(r *provider.Record) error { r.Answer, r.TunnelPort = envelope, port; return nil })
}

// launch starts the workload, unless an earlier agent did, and begins to meter it.
func (w *workload) launch(alive context.Context, s *site, images <-chan fetched) error {
	if !s.box.Started() {
		if w.record().State == provider.StateRunning {
			return hostError{errors.New("the sandbox was lost while no agent ran")}
		}
		var f fetched
		select {
		case f = <-images:
		case <-alive.Done():
			return alive.Err()
		}
		if f.err != nil {
			return f.err
		}
		uuids := make([]string, 0, len(w.record().GPUs))
		for _, g := range w.record().GPUs {
			uuids = append(uuids, g.UUID)
		}
		injection, err := w.agent.Inventory.Inject(alive, uuids)
		if err != nil {
			return hostError{fmt.Errorf("GPUs: %w", err)}
		}
		program := w.program(f, injection)
		if len(program.Args) == 0 {
			return errors.New("the image names no command and the job gives none")
		}
		done := w.step("create")
		if err := s.box.Start(alive, program); err != nil {
			return err
		}
		done()
		s.image = f.image
	} else if err := s.box.Extend(alive, w.watchdog()); err != nil {
		return hostError{err}
	}
	if err := w.ready(alive); err != nil {
		return hostError{err}
	}
	return nil
}

// program says what runs. The customer's words win over the image's, and the GPUs' over both.
func (w *workload) program(f fetched, injection provider.Injection) provider.Program {
	args := slices.Concat(f.image.Entrypoint, f.image.Cmd)
	if len(w.spec.Command) > 0 {
		args = w.spec.Command
	}
	own := make([]string, 0, len(w.spec.Env)+4)
	for _, k := range slices.Sorted(maps.Keys(w.spec.Env)) {
		own = append(own, k+"="+w.spec.Env[k])
	}
	own = append(own, "RIALTO_JOB="+string(w.record().Job), "RIALTO_LEASE="+string(w.lease))
	if w.spec.Nodes > 0 {
		own = append(own, fmt.Sprintf("RIALTO_NODES=%d", w.spec.Nodes), fmt.Sprintf("RIALTO_NODE_RANK=%d", w.record().Rank))
	}
	workdir := w.spec.Workdir
	if workdir == "" {
		workdir = f.image.Workdir
	}
	return provider.Program{
		RootFS: f.image.RootFS, Args: args, Env: mergeEnv(f.image.Env, own, injection.Env), Workdir: path.Join("/", workdir),
		User: f.image.User, Mounts: slices.Concat(injection.Mounts, f.mounts), Devices: injection.Devices,
		Deadline: w.watchdog(), Notices: w.spec.Bid > 0,
	}
}

// mergeEnv joins environments; a later value wins, except that library paths add up, the last in front.
func mergeEnv(layers ...[]string) []string {
	const libraries = "LD_LIBRARY_PATH"
	values := make(map[string]string)
	for _, layer := range layers {
		for _, kv := range layer {
			k, v, _ := strings.Cut(kv, "=")
			if old := values[k]; k == libraries && old != "" && v != "" {
				v += ":" + old
			}
			values[k] = v
		}
	}
	env := make([]string, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		env = append(env, k+"="+values[k])
	}
	return env
}

// watchdog returns how long the workload may go on if nobody renews it.
func (w *workload) watchdog() time.Duration {
	left := w.agent.left(w.lease)
	if limit := w.record().MaxDuration; limit > 0 {
		left = min(left, limit-w.used())
	}
	return max(left, time.Second)
}
