package wire_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/pricing"
	"rialto/tunnel"
)

// generators draws random values that keep every rule of the wire, for the party me.
type generators struct {
	*rapid.T

	me broker.PeerID
}

func draw[X any](g generators, name string, gen *rapid.Generator[X]) X { return gen.Draw(g.T, name) }

// some draws up to limit items, and nil for none.
func some[X any](g generators, name string, limit int, item func(i int) X) []X {
	var out []X
	for i := range draw(g, name, rapid.IntRange(0, limit)) {
		out = append(out, item(i))
	}
	return out
}

func (g generators) word(name string) string {
	return draw(g, name, rapid.StringMatching(`[ -~äß€😀]{0,24}`))
}

func (g generators) name(name string) string {
	return draw(g, name, rapid.StringMatching(`[ -~äß€😀]{1,24}`))
}

func (g generators) text(name string) string {
	return draw(g, name, rapid.StringMatching(`[ -~\n\täß€😀]{0,64}`))
}

func (g generators) raw(name string) string {
	return draw(g, name, rapid.StringMatching(`[^\x00]{0,64}`))
}
func (g generators) count(name string) int64 { return draw(g, name, rapid.Int64Min(0)) }
func (g generators) mib(name string) uint64  { return draw(g, name, rapid.Uint64Range(0, 1<<30)) }
func (g generators) cid() string             { return draw(g, "cid", rapid.StringMatching(`[a-z2-7]{1,60}`)) }
func (g generators) exit() int               { return draw(g, "exit", rapid.IntRange(-1, 255)) }
func (g generators) epoch() uint64           { return draw(g, "epoch", rapid.Uint64()) }
func (g generators) region() string {
	return draw(g, "region", rapid.StringMatching(`([A-Z]{2})?`))
}
func (g generators) duration(name string) time.Duration { return time.Duration(g.count(name)) }
func (g generators) ttl() time.Duration                 { return time.Duration(draw(g, "ttl", rapid.Int64Min(1))) }

func (g generators) lease() broker.LeaseID {
	return broker.LeaseID(draw(g, "lease", rapid.StringMatching(`l-[a-z2-7]{26}`)))
}

func (g generators) job() broker.JobID {
	return broker.JobID(draw(g, "job", rapid.StringMatching(`j-[a-z2-7]{26}`)))
}

func (g generators) digest() string {
	return draw(g, "digest", rapid.StringMatching(`sha256:[0-9a-f]{64}`))
}

func (g generators) time(name string) time.Time {
	if n := g.count(name); n > 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func (g generators) key() tunnel.Key {
	k := tunnel.Key(draw(g, "key", rapid.SliceOfN(rapid.Byte(), 32, 32)))
	k[0] |= 1 // not zero
	return k
}

func (g generators) addrs(name string) []string {
	return some(g, name, 4, func(int) string { return draw(g, name, rapid.StringMatching(`[!-~]{1,40}`)) })
}

func (g generators) bytes(name string, least int) []byte {
	b := draw(g, name, rapid.SliceOfN(rapid.Byte(), least, 64))
	if len(b) == 0 {
		return nil
	}
	return b
}

func (g generators) peer(name string) broker.PeerID {
	if draw(g, name, rapid.Bool()) {
		return g.me
	}
	return ""
}

func (g generators) image(int) broker.ImageHeld {
	return broker.ImageHeld{Digest: g.digest(), Root: g.cid()}
}

func (g generators) gpuLease(i int) broker.GPULease {
	return broker.GPULease{UUID: fmt.Sprintf("GPU-%d", i), Epoch: g.epoch()}
}

func (g generators) fetched() broker.Fetched {
	x := broker.Fetched{
		Local: g.count("local"), Peers: g.count("peers"), Registry: g.count("registry"), Total: g.count("total"),
	}
	if draw(g, "from", rapid.Bool()) {
		x.From = []broker.PeerBytes{{Peer: g.me, Bytes: draw(g, "bytes", rapid.Int64Min(1))}}
	}
	return x
}

func (g generators) poison() broker.PoisonReport {
	x := broker.PoisonReport{
		Accused: g.me, Got: g.digest(), Size: g.count("size"), Time: time.Unix(0, draw(g, "time", rapid.Int64Min(1))).UTC(),
	}
	if draw(g, "known", rapid.Bool()) {
		x.Lease, x.Want = g.lease(), g.cid()
	}
	return x
}

func (g generators) advice() broker.Advice {
	return broker.Advice{
		Boot: g.name("boot"), Seq: g.epoch(), TTL: g.ttl(), Accusers: draw(g, "accusers", rapid.IntRange(0, 1<<20)),
		Distrusted: g.duration("distrusted"), Roots: some(g, "roots", 3, func(i int) broker.RootAdvice {
			return broker.RootAdvice{
				Root: fmt.Sprint(g.cid(), i), Replicas: draw(g, "replicas", rapid.IntRange(0, 1<<20)),
				LastInRegion: draw(g, "last", rapid.Bool()), Keeper: draw(g, "keeper", rapid.Bool()),
			}
		}),
	}
}

func (g generators) offerSet() broker.OfferSet {
	return broker.OfferSet{Boot: g.name("boot"), Seq: g.epoch(), Offers: some(g, "offers", 3, g.offer)}
}

func (g generators) offer(i int) broker.Offer {
	model := g.name("model")
	o := broker.Offer{
		ID: broker.OfferID(fmt.Sprint("offer ", i)), Provider: g.me, Host: g.word("host"), Region: g.region(),
		GPUs: some(g, "gpus", 3, func(i int) broker.GPU { return g.gpu(i, model) }),
		Rate: pricing.Rate(g.count("rate")), CPUs: draw(g, "cpus", rapid.IntRange(0, 1<<16)),
		MemoryMiB: g.mib("memory"), DiskMiB: g.mib("disk"), Images: some(g, "images", 3, g.image),
		Weights: some(g, "weights", 3, func(int) string { return g.cid() }), Addrs: g.addrs("addrs"), Agent: g.word("agent"), MinBid: pricing.Rate(g.count("min bid")),
	}
	for _, gpu := range o.GPUs {
		if draw(g, "free", rapid.Bool()) {
			o.Free = append(o.Free, gpu.UUID)
		}
	}
	return o
}

func (g generators) gpu(i int, model string) broker.GPU {
	x := broker.GPU{
		UUID: fmt.Sprintf("GPU-%d", i), Model: model, MemoryMiB: g.mib("memory"), Driver: g.word("driver"), CUDA: g.word("cuda"),
		ComputeMajor: draw(g, "major", rapid.IntRange(0, 999)), ComputeMinor: draw(g, "minor", rapid.IntRange(0, 999)),
		PCIBus: g.word("pci"), PowerLimitMW: draw(g, "power", rapid.Uint64Range(0, 1e8)),
		Simulated:   draw(g, "simulated", rapid.Bool()),
		DeviceMinor: draw(g, "device", rapid.IntRange(-1, 1<<20-1)), Busy: draw(g, "busy", rapid.Bool()),
		UnusableCause: g.text("cause"),
	}
	if !x.Simulated {
		x.Level = draw(g, "level", rapid.SampledFrom([]broker.Level{broker.LevelClaimed, broker.LevelNVML}))
	}
	return x
}

func (g generators) jobSpec() broker.JobSpec {
	x := broker.JobSpec{
		Image: g.name("image"), Digest: g.digest(),
		Command: some(g, "command", 4, func(int) string { return g.raw("argument") }),
		GPU: broker.GPURequest{
			Model: g.name("model"), Count: draw(g, "count", rapid.IntRange(1, 16)), MinMemoryMiB: g.mib("gpu memory"),
		},
		MemoryMiB: g.mib("memory"), CPUs: draw(g, "cpus", rapid.IntRange(0, 1<<16)),
		MaxRate: pricing.Rate(g.count("rate")), MaxCost: pricing.Money(g.count("cost")), MaxDuration: g.duration("duration"),
		Region: g.region(), Provider: g.peer("provider"),
		Weights: some(g, "weights", 3, func(i int) broker.WeightsMount {
			return broker.WeightsMount{Name: g.word("name"), Root: g.cid(), Path: fmt.Sprint("/weights/", i), Private: draw(g, "private", rapid.Bool())}
		}),
		TunnelKey: g.key(), Customer: g.me, Broker: g.me, Created: g.time("created"), Nonce: g.name("nonce"), Where: g.word("where"), WaitRate: pricing.Rate(g.count("waiting")), Bid: pricing.Rate(g.count("bid")),
	}
	for _, name := range some(g, "env", 4, func(int) string { return draw(g, "name", rapid.StringMatching(`[A-Za-z_]{1,9}`)) }) {
		if x.Env == nil {
			x.Env = map[string]string{}
		}
		x.Env[name] = g.raw("value")
	}
	if draw(g, "has root", rapid.Bool()) {
		x.Root = g.cid()
	}
	if draw(g, "private", rapid.Bool()) {
		root := blockstore.Sum([]byte(g.raw("root")))
		x.Image, x.Root, x.Digest, x.Private = broker.LocalImage("mine"), root.String(), root.Digest().String(), true
	}
	if draw(g, "firm", rapid.Bool()) {
		x.Firm = time.Duration(draw(g, "firm for", rapid.Int64Range(1, int64(broker.MaxFirm))))
	}
	if draw(g, "has workdir", rapid.Bool()) {
		x.Workdir = "/" + g.raw("workdir")
	}
	return x
}

func (g generators) hold() broker.Hold {
	x := broker.Hold{
		Lease: g.lease(), Job: g.job(), Offer: broker.OfferID(g.name("offer")), Rate: pricing.Rate(g.count("rate")),
		Spec: g.bytes("spec", 1), TTL: g.ttl(),
		Sources: some(g, "sources", 3, func(int) broker.BlockSource {
			return broker.BlockSource{Peer: g.me, Addrs: g.addrs("addrs")}
		}),
		Trace: g.trace(0), Bid: g.bytes("bid", 0),
	}
	return x
}

// trace draws a trace of at least so many blocks.
func (g generators) trace(least int) blockstore.Trace {
	blocks := draw(g, "trace", rapid.SliceOfNDistinct(rapid.Uint32(), least, 20, rapid.ID[uint32]))
	if len(blocks) == 0 {
		return nil
	}
	return blocks
}

func (g generators) answer() broker.Answer {
	x := broker.Answer{Lease: g.lease()}
	if draw(g, "refused", rapid.Bool()) {
		x.Refusal = g.name("refusal")
		return x
	}
	x.Grant = &broker.Grant{
		Lease: x.Lease, Job: g.job(), GPUs: append(some(g, "gpus", 3, g.gpuLease), g.gpuLease(9)),
		TunnelKey: g.key(), Endpoints: g.addrs("endpoints"),
	}
	if draw(g, "quoted", rapid.Bool()) {
		x.Grant.Rate, x.Grant.Firm = pricing.Rate(g.count("rate")), g.ttl()
	}
	return x
}

func (g generators) report() broker.Report {
	x := broker.Report{
		Lease: g.lease(), GPUs: some(g, "gpus", 3, g.gpuLease), Seq: g.epoch(),
		Phase:    draw(g, "phase", rapid.SampledFrom([]broker.Phase{broker.PhasePreparing, broker.PhaseReady, broker.PhaseExited, broker.PhaseBroken})),
		ExitCode: g.exit(), Message: g.text("message"), Used: g.duration("used"), Fetched: g.fetched(),
		Steps: some(g, "steps", 3, func(int) broker.Step {
			return broker.Step{Name: g.name("name"), Start: g.duration("start"), Took: g.duration("took")}
		}),
		Held: some(g, "held", 3, g.image),
	}
	x.HostFault = x.Phase == broker.PhaseBroken && x.Used == 0
	return x
}

func (g generators) receipt() broker.Receipt {
	used, cost := g.count("used"), g.count("cost")
	return broker.Receipt{
		Job: g.job(), Lease: g.lease(), Customer: g.me, Provider: g.me, GPUs: some(g, "gpus", 3, g.gpuLease),
		Model: g.word("model"), Rate: pricing.Rate(g.count("rate")), Ready: g.time("ready"), Ended: g.time("ended"),
		Used: time.Duration(used), Billed: time.Duration(draw(g, "billed", rapid.Int64Range(0, used))),
		Cost: pricing.Money(cost), Fee: pricing.Money(draw(g, "fee", rapid.Int64Range(0, cost))),
		Fetched: g.fetched(), ExitCode: g.exit(), Report: g.bytes("report", 0),
	}
}

// any draws a value of the named message.
func (g generators) any(name string) any {
	switch name {
	case "offerset":
		return g.offerSet()
	case "jobspec":
		return g.jobSpec()
	case "bidchange":
		return broker.BidChange{
			Customer: g.me, Broker: g.me, Nonce: g.name("nonce"), Bid: 1 + pricing.Rate(g.count("bid")/2), MaxCost: pricing.Money(g.count("cost")), Created: g.time("created"),
		}
	case "hold":
		return g.hold()
	case "answer":
		return g.answer()
	case "confirm":
		return broker.Confirm{Lease: g.lease(), TTL: g.ttl(), MaxDuration: g.duration("duration")}
	case "release":
		return broker.Release{Lease: g.lease(), Reason: g.text("reason")}
	case "report":
		return g.report()
	case "trace":
		return broker.TraceReport{Lease: g.lease(), Root: g.cid(), Trace: g.trace(1)}
	case "poison":
		return g.poison()
	case "advice":
		return g.advice()
	case "renewal":
		return broker.Renewal{Lease: g.lease(), TTL: g.duration("ttl"), Seq: g.epoch(), Preempt: g.duration("preempt")}
	case "receipt":
		return g.receipt()
	default:
		panic("no generator for " + name)
	}
}

func TestRandomRoundTrips(t *testing.T) {
	k := newKey(t)
	for _, m := range allMessages(k) {
		t.Run(m.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				want := generators{rt, peerID(k)}.any(m.name)
				envelope, err := m.seal(k, want)
				if err != nil {
					rt.Fatalf("%+v: %v", want, err)
				}
				got, signer, err := m.open(envelope)
				if err != nil || signer != peerID(k) || !reflect.DeepEqual(got, want) {
					rt.Fatalf("got %+v, %s, %v\nwant %+v", got, signer, err, want)
				}
			})
		})
	}
}
