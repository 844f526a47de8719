package wire_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
	"rialto/tunnel"
)

// The rules that hold when sealing hold when opening: both go through the same check of the payload.
func TestSealRefuses(t *testing.T) {
	k := newKey(t)
	me, other := peerID(k), peerID(newKey(t))
	offer := func(f func(*broker.Offer)) error {
		x := sampleOfferSet(me)
		f(&x.Offers[0])
		_, err := wire.SealOfferSet(k, x)
		return err
	}
	spec := func(f func(*broker.JobSpec)) error {
		x := sampleJobSpec(me)
		f(&x)
		_, err := wire.SealJobSpec(k, x)
		return err
	}
	change := func(f func(*broker.BidChange)) error {
		x := sampleBidChange(me)
		f(&x)
		_, err := wire.SealBidChange(k, x)
		return err
	}
	answer := func(f func(*broker.Answer)) error {
		x := sampleAnswers()[0]
		f(&x)
		_, err := wire.SealAnswer(k, x)
		return err
	}
	report := func(f func(*broker.Report)) error {
		x := sampleReport(me)
		f(&x)
		_, err := wire.SealReport(k, x)
		return err
	}
	trace := func(f func(*broker.TraceReport)) error {
		x := sampleTraceReport()
		f(&x)
		_, err := wire.SealTrace(k, x)
		return err
	}
	poison := func(f func(*broker.PoisonReport)) error {
		x := samplePoison(me)
		f(&x)
		_, err := wire.SealPoison(k, x)
		return err
	}
	advice := func(f func(*broker.Advice)) error {
		x := sampleAdvice()
		f(&x)
		_, err := wire.SealAdvice(k, x)
		return err
	}
	hold := func(t blockstore.Trace) error {
		x := sampleHold(me)
		x.Trace = t
		_, err := wire.SealHold(k, x)
		return err
	}
	receipt := func(f func(*broker.Receipt)) error {
		x := sampleReceipt(me)
		f(&x)
		_, err := wire.SealReceipt(k, x)
		return err
	}
	for field, err := range map[string]error{
		"offers[0].provider":               offer(func(x *broker.Offer) { x.Provider = "12D3KooW" }),
		"offers[0].host":                   offer(func(x *broker.Offer) { x.Host = "\x1b[2J" }),
		"offers[0].region":                 offer(func(x *broker.Offer) { x.Region = "gb" }),
		"offers[0].rate_nanousd_per_hour":  offer(func(x *broker.Offer) { x.Rate = -1 }),
		"offers[0].reserved_rate":          offer(func(x *broker.Offer) { x.ReservedRate = -1 }),
		"offers[0].reserved_min_ns: a":     offer(func(x *broker.Offer) { x.ReservedMin = 0 }),
		"offers[0].cpus":                   offer(func(x *broker.Offer) { x.CPUs = 1 << 40 }),
		"offers[0].memory_mib":             offer(func(x *broker.Offer) { x.MemoryMiB = 1 << 40 }),
		"offers[0].gpus[0].level":          offer(func(x *broker.Offer) { x.GPUs[0].Level = 9 }),
		"offers[0].gpus[1].level":          offer(func(x *broker.Offer) { x.GPUs[1].Level = broker.LevelNVML }),
		"offers[0].gpus[0].device_minor":   offer(func(x *broker.Offer) { x.GPUs[0].DeviceMinor = -2 }),
		"offers[0].gpus: GPU-1":            offer(func(x *broker.Offer) { x.GPUs[1].UUID = "GPU-1" }),
		"offers[0].gpus: models":           offer(func(x *broker.Offer) { x.GPUs[1].Model = "H100" }),
		"offers[0].gpus: 65":               offer(func(x *broker.Offer) { x.GPUs = make([]broker.GPU, 65) }),
		"offers[0].free":                   offer(func(x *broker.Offer) { x.Free = []string{"GPU-3"} }),
		"offers[0].images[0].digest":       offer(func(x *broker.Offer) { x.Images[0].Digest = "sha256:0" }),
		"offers[0].images[0].root":         offer(func(x *broker.Offer) { x.Images[0].Root = "../../etc" }),
		"offers[0].addrs[0]":               offer(func(x *broker.Offer) { x.Addrs[0] = strings.Repeat("/", 257) }),
		"signed by":                        offer(func(x *broker.Offer) { x.Provider = other }),
		"customer " + string(other):        spec(func(x *broker.JobSpec) { x.Customer = other }),
		"bid_nanousd_per_hour: missing":    change(func(x *broker.BidChange) { x.Bid = 0 }),
		"bid_nanousd_per_hour: -1":         change(func(x *broker.BidChange) { x.Bid = -1 }),
		"max_cost_nanousd: -1":             change(func(x *broker.BidChange) { x.MaxCost = -1 }),
		"nonce: missing":                   change(func(x *broker.BidChange) { x.Nonce = "" }),
		"customer " + string(other) + ",":  change(func(x *broker.BidChange) { x.Customer = other }),
		"reserve_ns":                       spec(func(x *broker.JobSpec) { x.Reserve = x.MaxDuration + 1 }),
		"command[0]":                       spec(func(x *broker.JobSpec) { x.Command = []string{"a\x00b"} }),
		"invalid UTF-8":                    spec(func(x *broker.JobSpec) { x.Command = []string{"\xff"} }),
		"env: \"A=\"":                      spec(func(x *broker.JobSpec) { x.Env = map[string]string{"A=": ""} }),
		"env: \"\"":                        spec(func(x *broker.JobSpec) { x.Env = map[string]string{"": ""} }),
		"workdir":                          spec(func(x *broker.JobSpec) { x.Workdir = "app" }),
		"gpu.count: 0":                     spec(func(x *broker.JobSpec) { x.GPU.Count = 0 }),
		"gpu.count: 17":                    spec(func(x *broker.JobSpec) { x.GPU.Count = 17 }),
		"max_cost_nanousd":                 spec(func(x *broker.JobSpec) { x.MaxCost = -1 }),
		"wait_rate_nanousd_per_hour":       spec(func(x *broker.JobSpec) { x.WaitRate = -1 }),
		"max_duration_ns":                  spec(func(x *broker.JobSpec) { x.MaxDuration = -1 }),
		"weights[0].path: \"/a/../b\"":     spec(func(x *broker.JobSpec) { x.Weights[0].Path = "/a/../b" }),
		"weights[0].path: \"/\"":           spec(func(x *broker.JobSpec) { x.Weights[0].Path = "/" }),
		"weights: /weights/llama is there": spec(func(x *broker.JobSpec) { x.Weights = append(x.Weights, x.Weights[0]) }),
		"tunnel_key":                       spec(func(x *broker.JobSpec) { x.TunnelKey = tunnel.Key{} }),
		"created_ns: -1":                   spec(func(x *broker.JobSpec) { x.Created = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"root: \"../x\" is not a CID":      spec(func(x *broker.JobSpec) { x.Root = "../x" }),
		"where: character at byte 4":       spec(func(x *broker.JobSpec) { x.Where = "host\n=x" }),
		"where: 5000 bytes":                spec(func(x *broker.JobSpec) { x.Where = strings.Repeat("x", 5000) }),
		"private: of an image":             spec(func(x *broker.JobSpec) { x.Private = true }),
		"private: of an image that is not": spec(func(x *broker.JobSpec) { x.Image, x.Root, x.Private = "registry.example/x", "", true }),
		"digest: not that of the private":  spec(func(x *broker.JobSpec) { x.Image, x.Private = "local/mine", true }),
		"root: missing":                    spec(func(x *broker.JobSpec) { x.Image, x.Root = "local/mine", "" }),
		"broker":                           spec(func(x *broker.JobSpec) { x.Broker = "" }),
		"firm_ns: 1m0.000000001s":          spec(func(x *broker.JobSpec) { x.Firm = broker.MaxFirm + 1 }),
		"firm_ns: -1":                      spec(func(x *broker.JobSpec) { x.Firm = -1 }),
		"grant.firm_ns: missing":           answer(func(x *broker.Answer) { x.Grant.Firm = 0 }),
		"grant: want":                      answer(func(x *broker.Answer) { x.Refusal = "no" }),
		"grant: of lease":                  answer(func(x *broker.Answer) { x.Lease = "l-aaaaaaaaaaaaaaaaaaaaaaaaaa" }),
		"grant.job":                        answer(func(x *broker.Answer) { x.Grant.Job = "j-UPPERCASE" }),
		"\"j-0000":                         answer(func(x *broker.Answer) { x.Grant.Job = "j-00000000000000000000000000" }),
		"grant.gpus: missing":              answer(func(x *broker.Answer) { x.Grant.GPUs = nil }),
		"grant.gpus: GPU-1":                answer(func(x *broker.Answer) { x.Grant.GPUs = append(x.Grant.GPUs, x.Grant.GPUs[0]) }),
		"phase: 0":                         report(func(x *broker.Report) { x.Phase = 0 }),
		"phase: 5":                         report(func(x *broker.Report) { x.Phase = 5 }),
		"host_fault":                       report(func(x *broker.Report) { x.HostFault = true }),
		"host_fault: of a workload":        report(func(x *broker.Report) { x.HostFault, x.Phase = true, broker.PhaseBroken }),
		"exit_code":                        report(func(x *broker.Report) { x.ExitCode = 256 }),
		"fetched.peers":                    report(func(x *broker.Report) { x.Fetched.Peers = -1 }),
		"fetched.from[0].bytes: none":      report(func(x *broker.Report) { x.Fetched.From[0].Bytes = 0 }),
		"fetched.from[0].peer":             report(func(x *broker.Report) { x.Fetched.From[0].Peer = "me" }),
		"fetched.from: 17":                 report(func(x *broker.Report) { x.Fetched.From = make([]broker.PeerBytes, 17) }),
		"fetched.from: not in order": report(func(x *broker.Report) {
			x.Fetched.From = append(x.Fetched.From, broker.PeerBytes{Peer: other, Bytes: 9})
		}),
		"is there twice: invalid":       report(func(x *broker.Report) { x.Fetched.From = append(x.Fetched.From, x.Fetched.From[0]) }),
		"accused":                       poison(func(x *broker.PoisonReport) { x.Accused = "" }),
		"got: \"\"":                     poison(func(x *broker.PoisonReport) { x.Got = "" }),
		"want: \"/\"":                   poison(func(x *broker.PoisonReport) { x.Want = "/" }),
		"size: -1":                      poison(func(x *broker.PoisonReport) { x.Size = -1 }),
		"time_ns: missing":              poison(func(x *broker.PoisonReport) { x.Time = time.Time{} }),
		"lease: \"l-1\"":                poison(func(x *broker.PoisonReport) { x.Lease = "l-1" }),
		"boot":                          advice(func(x *broker.Advice) { x.Boot = "" }),
		"ttl_ns: missing":               advice(func(x *broker.Advice) { x.TTL = 0 }),
		"roots[0].replicas: -1":         advice(func(x *broker.Advice) { x.Roots[0].Replicas = -1 }),
		"roots: 5121":                   advice(func(x *broker.Advice) { x.Roots = make([]broker.RootAdvice, 5121) }),
		"roots: bafkrei":                advice(func(x *broker.Advice) { x.Roots = append(x.Roots, x.Roots[0]) }),
		"accusers: -1":                  advice(func(x *broker.Advice) { x.Accusers = -1 }),
		"distrusted_ns: -1":             advice(func(x *broker.Advice) { x.Distrusted = -1 }),
		"steps[0].took_ns":              report(func(x *broker.Report) { x.Steps[0].Took = -1 }),
		"steps: 65":                     report(func(x *broker.Report) { x.Steps = make([]broker.Step, 65) }),
		"trace: missing":                trace(func(x *broker.TraceReport) { x.Trace = nil }),
		"trace: a block is there twice": trace(func(x *broker.TraceReport) { x.Trace = blockstore.Trace{5, 6, 5} }),
		"root: \"\" is not a CID":       trace(func(x *broker.TraceReport) { x.Root = "" }),
		"trace: 40964 bytes":            hold(make(blockstore.Trace, blockstore.MaxTrace+1)),
		"unused_cost_nanousd":           receipt(func(x *broker.Receipt) { x.UnusedCost = x.Cost + 1 }),
		"unused_ns":                     receipt(func(x *broker.Receipt) { x.Unused = -1 }),
		"billed_ns":                     receipt(func(x *broker.Receipt) { x.Billed = x.Used + 1 }),
		"fee_nanousd":                   receipt(func(x *broker.Receipt) { x.Fee = x.Cost + 1 }),
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an error with %q", err, field)
		}
	}
	if _, err := wire.SealJobSpec(k, func() broker.JobSpec {
		x := sampleJobSpec(me)
		x.Command = []string{strings.Repeat("a", 100<<10), strings.Repeat("b", 100<<10), strings.Repeat("c", 100<<10)}
		return x
	}()); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("a spec over its size: %v, want ErrInvalid", err)
	}
	if _, _, err := wire.OpenConfirm(make([]byte, wire.MaxConfirm+1)); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("a confirm over its size: %v, want ErrInvalid", err)
	}
}

// A report with all lists full fits the size that a report may have.
func TestFullReportFits(t *testing.T) {
	x := sampleReport(peerID(newKey(t)))
	x.GPUs, x.Steps, x.Held = nil, nil, nil
	for i := range 16 {
		x.GPUs = append(x.GPUs, broker.GPULease{UUID: fmt.Sprintf("%0128d", i), Epoch: 1<<64 - 1})
	}
	for range 64 {
		x.Steps = append(x.Steps, broker.Step{Name: strings.Repeat("n", 128), Start: 1<<63 - 1, Took: 1<<63 - 1})
		x.Held = append(x.Held, broker.ImageHeld{Digest: sampleDigest, Root: strings.Repeat("c", 128)})
	}
	x.Fetched.From = nil
	for i := range broker.MaxTopPeers {
		x.Fetched.From = append(x.Fetched.From, broker.PeerBytes{Peer: peerID(newKey(t)), Bytes: 1<<63 - 1 - int64(i)})
	}
	x.Message = strings.Repeat("m", 4096)
	if envelope, err := wire.SealReport(newKey(t), x); err != nil {
		t.Errorf("%d bytes: %v", len(envelope), err)
	}
}

// Advice on all that an offer may hold fits its size.
func TestFullAdviceFits(t *testing.T) {
	x := sampleAdvice()
	x.Roots = nil
	for i := range 4096 + 1024 {
		x.Roots = append(x.Roots, broker.RootAdvice{Root: blockstore.Sum(fmt.Append(nil, i)).String(), Replicas: 1 << 20, Keeper: true, LastInRegion: true})
	}
	if envelope, err := wire.SealAdvice(newKey(t), x); err != nil {
		t.Errorf("%d bytes: %v", len(envelope), err)
	}
}

// The longest trace in its longest encoding fits a hold and a trace's own message.
func TestLongestTraceFits(t *testing.T) {
	var longest blockstore.Trace
	for i := range uint32(blockstore.MaxTrace / 2) {
		longest = append(longest, i, 1<<32-1-i)
	}
	if _, err := wire.SealTrace(newKey(t), broker.TraceReport{Lease: sampleLease, Root: strings.Repeat("c", 128), Trace: longest}); err != nil {
		t.Error(err)
	}
	hold := sampleHold(peerID(newKey(t)))
	hold.Spec, hold.Bid, hold.Trace = make([]byte, wire.MaxJobSpec), make([]byte, wire.MaxBidChange), longest
	if _, err := wire.SealHold(newKey(t), hold); err != nil {
		t.Error(err)
	}
}

// Every other encoding of a renewal's fields is refused.
func TestOneEncoding(t *testing.T) {
	k := newKey(t)
	lease := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), sampleLease)
	seq := protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 7)
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	open := func(payload []byte) error {
		envelope, err := identity.Seal(k, "rialto/1/renewal", payload)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = wire.OpenRenewal(envelope)
		return err
	}
	if err := open(join(lease, seq)); err != nil {
		t.Fatalf("the one encoding: %v", err)
	}
	for name, payload := range map[string][]byte{
		"unknown field":    join(lease, seq, []byte{0x28, 1}),
		"other order":      join(seq, lease),
		"repeated":         join(lease, seq, seq),
		"zero written":     join(lease, []byte{0x10, 0}, seq),
		"long varint":      join(lease, []byte{0x18, 0x87, 0}),
		"other wire type":  join(lease, []byte{0x1a, 1, 7}),
		"cut":              join(lease, seq[:1]),
		"negative":         join(lease, protowire.AppendVarint([]byte{0x10}, 1<<64-1)),
		"not UTF-8":        protowire.AppendString([]byte{0x0a}, "l-\xff"),
		"group":            join(lease, []byte{0x23, 0x24}),
		"empty":            {},
		"trailing garbage": join(lease, seq, []byte{0}),
	} {
		if err := open(payload); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// Text for people never keeps a message from being sent.
func TestMessagesAreCleaned(t *testing.T) {
	k := newKey(t)
	for in, want := range map[string]string{
		"plain\n\ttext":             "plain\n\ttext",
		"\x1b[31mred\r\n\xff\u202e": "?[31mred?\n??",
		strings.Repeat("é", 4096):   strings.Repeat("é", 2046) + "…",
	} {
		envelope, err := wire.SealRelease(k, broker.Release{Lease: sampleLease, Reason: in})
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got, _, err := wire.OpenRelease(envelope); err != nil || got.Reason != want {
			t.Errorf("%q: got %q, %v, want %q", in, got.Reason, err, want)
		}
	}
}

const goldenFile = "testdata/golden.txt"

// Every envelope of testdata/golden.txt opens for ever, and the samples seal to the last ones of them: an
// upgrade of the protobuf library that encodes differently would split the market. -update adds lines.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile(goldenFile)
	if err != nil && !*update {
		t.Fatal(err)
	}
	k := zeroKey(t)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, m := range allMessages(k) {
		for _, x := range m.samples {
			envelope, err := m.seal(k, x)
			if err != nil {
				t.Fatal(err)
			}
			line := m.name + " " + hex.EncodeToString(envelope)
			if slices.Contains(lines, line) {
				continue
			}
			if !*update {
				t.Errorf("a %s is no longer encoded as before (see -update)", m.name)
			}
			lines = append(lines, line)
		}
		for _, line := range lines {
			name, text, _ := strings.Cut(line, " ")
			if name != m.name {
				continue
			}
			envelope, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			if x, signer, err := m.open(envelope); err != nil || signer != peerID(k) || reflect.ValueOf(x).IsZero() {
				t.Errorf("a %s of the past: %+v, %v", m.name, x, err)
			}
		}
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(goldenFile, []byte(strings.TrimSpace(strings.Join(lines, "\n"))+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
