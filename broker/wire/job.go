package wire

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/p2p/identity"
)

// SealJobSpec signs what a customer wants to run. The key must be that of its Customer.
func SealJobSpec(k identity.Key, x broker.JobSpec) ([]byte, error) { return jobSpecs().seal(k, x) }

// OpenJobSpec checks and decodes what a customer wants to run. Its Customer is the signer.
func OpenJobSpec(envelope []byte) (broker.JobSpec, broker.PeerID, error) {
	return jobSpecs().open(envelope)
}

// ReopenJobSpec decodes a spec that [OpenJobSpec] took before and that was kept where nobody changes it unnoticed, such
// as a hash-chained ledger. The signature is not checked again.
func ReopenJobSpec(envelope []byte) (broker.JobSpec, broker.PeerID, error) {
	return jobSpecs().reopen(envelope)
}

func jobSpecs() codec[broker.JobSpec, *JobSpec] {
	return codec[broker.JobSpec, *JobSpec]{
		name: "jobspec", max: MaxJobSpec, fresh: func() *JobSpec { return new(JobSpec) },
		encode: encodeJobSpec, decode: decodeJobSpec, signer: jobSpecSigner,
	}
}

func jobSpecSigner(x broker.JobSpec, signer identity.ID) error {
	if x.Customer != broker.PeerID(signer) {
		return fmt.Errorf("customer %s, signed by %s: %w", x.Customer, signer, broker.ErrForbidden)
	}
	return nil
}

func encodeJobSpec(x broker.JobSpec) *JobSpec {
	m := &JobSpec{
		Image: x.Image, Digest: x.Digest, Command: x.Command, Workdir: x.Workdir,
		Gpu: &GPURequest{
			Model: x.GPU.Model, Count: narrow(x.GPU.Count), MinMemoryMib: x.GPU.MinMemoryMiB,
		},
		MemoryMib: x.MemoryMiB, Cpus: narrow(x.CPUs), MaxRateNanousdPerHour: int64(x.MaxRate),
		MaxCostNanousd: int64(x.MaxCost), MaxDurationNs: int64(x.MaxDuration), Region: x.Region,
		Provider: string(x.Provider), Weights: each(x.Weights, encodeWeightsMount), TunnelKey: x.TunnelKey[:],
		Customer: string(x.Customer), Broker: string(x.Broker), CreatedNs: nanos(x.Created), Nonce: x.Nonce,
		Root: x.Root, Where: x.Where, Private: x.Private, WaitRateNanousdPerHour: int64(x.WaitRate), FirmNs: int64(x.Firm),
		GoodUntilNs: nanos(x.GoodUntil), Nodes: narrow(x.Nodes), SameRegion: x.SameRegion,
		ReserveNs: int64(x.Reserve), BidNanousdPerHour: int64(x.Bid), DiskMib: x.DiskMiB, TrafficBytes: x.Traffic,
	}
	for _, name := range slices.Sorted(maps.Keys(x.Env)) {
		m.Env = append(m.Env, &EnvVar{Name: name, Value: x.Env[name]})
	}
	return m
}

func decodeJobSpec(c checker, m *JobSpec) broker.JobSpec {
	x := broker.JobSpec{
		Image:   c.label("image", m.GetImage(), maxImageRef),
		Digest:  c.digest("digest", m.GetDigest()),
		Command: list(c, "command", m.GetCommand(), maxCommand, checker.argument),
		Env:     decodeEnv(c, m.GetEnv()),
		GPU: broker.GPURequest{
			Model:        c.name("gpu.model", m.GetGpu().GetModel()),
			Count:        c.integer("gpu.count", m.GetGpu().GetCount(), 1, maxLeaseGPUs),
			MinMemoryMiB: c.size("gpu.min_memory_mib", m.GetGpu().GetMinMemoryMib(), maxMemoryMiB),
		},
		MemoryMiB:   c.size("memory_mib", m.GetMemoryMib(), maxMemoryMiB),
		CPUs:        c.integer("cpus", m.GetCpus(), 0, maxCPUs),
		MaxRate:     c.rate("max_rate_nanousd_per_hour", m.GetMaxRateNanousdPerHour()),
		MaxCost:     c.money("max_cost_nanousd", m.GetMaxCostNanousd()),
		MaxDuration: c.duration("max_duration_ns", m.GetMaxDurationNs()),
		Region:      c.region("region", m.GetRegion()),
		Provider:    c.anyPeer("provider", m.GetProvider()),
		Weights:     messages(c, "weights", m.GetWeights(), maxMounts, decodeWeightsMount),
		TunnelKey:   c.tunnelKey("tunnel_key", m.GetTunnelKey()),
		Customer:    c.peer("customer", m.GetCustomer()),
		Broker:      c.peer("broker", m.GetBroker()),
		Created:     c.instant("created_ns", m.GetCreatedNs()),
		Nonce:       c.name("nonce", m.GetNonce()),
		Root:        c.anyCID("root", m.GetRoot()),
		Where:       c.label("where", m.GetWhere(), maxQuery),
		Private:     m.GetPrivate(),
		WaitRate:    c.rate("wait_rate_nanousd_per_hour", m.GetWaitRateNanousdPerHour()),
		Firm:        c.duration("firm_ns", m.GetFirmNs()),
		GoodUntil:   c.instant("good_until_ns", m.GetGoodUntilNs()),
		Nodes:       c.integer("nodes", m.GetNodes(), 0, broker.MaxNodes),
		SameRegion:  m.GetSameRegion(),
		Bid:         c.rate("bid_nanousd_per_hour", m.GetBidNanousdPerHour()),
		Reserve:     c.duration("reserve_ns", m.GetReserveNs()),
		DiskMiB:     c.size("disk_mib", m.GetDiskMib(), maxDiskMiB),
		Traffic:     c.count("traffic_bytes", m.GetTrafficBytes()),
	}
	if x.Reserve > x.MaxDuration {
		c.failf("reserve_ns", "%v, longer than the job's %v", x.Reserve, x.MaxDuration)
	}
	if x.Firm > broker.MaxFirm {
		c.failf("firm_ns", "%v, at most %v", x.Firm, broker.MaxFirm)
	}
	if x.Image == "" {
		c.failf("image", "missing")
	}
	if broker.IsLocalImage(x.Image) && x.Root == "" {
		c.failf("root", "missing, and no registry has the image")
	}
	if x.Private {
		c.private(x)
	}
	if m.GetWorkdir() != "" {
		x.Workdir = c.absolute("workdir", m.GetWorkdir())
	}
	unique(c, "weights", x.Weights, func(w broker.WeightsMount) string { return w.Path })
	return x
}

// private checks what a private image's spec says of it. A registry's is none, and nobody learns the digest of the
// manifest of one that is.
func (c checker) private(x broker.JobSpec) {
	root, err := blockstore.ParseCID(x.Root)
	switch {
	case err != nil || !broker.IsLocalImage(x.Image):
		c.failf("private", "of an image that is not local, or without a root that can be private")
	case x.Digest != root.Digest().String():
		c.failf("digest", "not that of the private image's root")
	}
}

func (c checker) argument(field, s string) string { return c.raw(field, s, maxArgument) }

// decodeEnv takes variables sorted by name: the order of a map is not ours to sign.
func decodeEnv(c checker, vars []*EnvVar) map[string]string {
	if len(vars) == 0 {
		return nil
	}
	if len(vars) > maxEnv {
		c.failf("env", "%d items, at most %d", len(vars), maxEnv)
		return nil
	}
	env := make(map[string]string, len(vars))
	last := ""
	for _, v := range vars {
		name, value := v.GetName(), v.GetValue()
		switch {
		case name == "" || strings.IndexByte(name, '=') >= 0:
			c.failf("env", "%.40q is not a name", name)
		case name <= last:
			c.failf("env", "%.40q is there twice or out of order", name)
		}
		c.label("env", name, maxName)
		env[name] = c.raw("env", value, maxArgument-len(name)-len("="))
		last = name
	}
	return env
}

func encodeWeightsMount(x broker.WeightsMount) *WeightsMount {
	return &WeightsMount{Name: x.Name, Root: x.Root, Path: x.Path, Private: x.Private}
}

func decodeWeightsMount(c checker, m *WeightsMount) broker.WeightsMount {
	x := broker.WeightsMount{
		Name: c.word("name", m.GetName()),
		Root: c.cid("root", m.GetRoot()),
		Path: c.absolute("path", m.GetPath()),

		Private: m.GetPrivate(),
	}
	if path.Clean(x.Path) != x.Path || x.Path == "/" {
		c.failf("path", "%.80q is not a clean path below /", x.Path)
	}
	return x
}
