package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// benchLine is what every measured job prints first.
const benchLine = "first output"

// Bench measures, round by round and side by side, how long it takes from the command at the customer's
// prompt to the first output of its container: on a host that takes the image from the registry, on one
// that takes it from a peer, on one that has it; and the plain path (skopeo, umoci, runc) on the same
// machine with the same registry. Beside them it shows the figures of the Go benchmark in the file tunnel,
// if one is named. The last line is one JSON object.
func Bench(ctx context.Context, cfg Config, rounds int, tunnel string, out io.Writer) error {
	throughput, err := readThroughput(tunnel)
	if err != nil {
		return err
	}
	w, err := NewWorld(ctx, cfg)
	if err != nil {
		return err
	}
	b := &bench{World: w}
	// Once for each image on a market: from then on its root is vouched for, and peers may give it.
	_, err = Output(w.Customer.Rialto(ctx, "image", "add", w.Ref))
	for i := range rounds {
		if err != nil {
			break
		}
		if err = b.round(ctx); err != nil {
			break
		}
		fmt.Fprintf(out, "round %d of %d: registry %v, peer %v, warm %v, plain %v\n", i+1, rounds,
			last(b.registry), last(b.peer), last(b.warm), last(b.plain))
	}
	err = errors.Join(err, w.Close())
	left, lerr := w.Leftovers()
	if err = errors.Join(err, lerr); err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nfrom the prompt to the container's first output, median of %d (min … max); load %s\n", rounds, strings.Join(strings.Fields(string(load))[:3], " "))
	for _, row := range []struct {
		name string
		d    []time.Duration
	}{
		{"image on the host", b.warm},
		{"image from a peer", b.peer},
		{"image from the registry", b.registry},
		{"skopeo copy + umoci unpack + runc run", b.plain},
	} {
		fmt.Fprintf(out, "  %-40s %6d ms  (%d … %d)\n", row.name, ms(median(row.d)), ms(slices.Min(row.d)), ms(slices.Max(row.d)))
	}
	fmt.Fprintf(out, "  %-40s %6.1f %% of %d MiB\n", "bytes of the second host from its peer", 100*b.ratio, b.total>>20)
	result := map[string]any{
		"start_warm_ms": ms(median(b.warm)), "start_peer_ms": ms(median(b.peer)), "start_registry_ms": ms(median(b.registry)),
		"plain_ms": ms(median(b.plain)), "bytes_from_peer_ratio": b.ratio, "leftovers": len(left), "rounds": rounds,
	}
	if len(throughput) > 0 {
		fmt.Fprintf(out, "\none TCP connection between two namespaces, medians: Gbit/s and CPU seconds of both ends per GiB\n")
		for _, row := range []string{"tunnel", "veth"} {
			fmt.Fprintf(out, "  %-40s %6.2f Gbit/s  %.2f s/GiB\n", row, throughput[row+"_gbps"], throughput[row+"_cpu_s_per_gib"])
		}
	}
	for k, v := range throughput {
		result[k] = v
	}
	line, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n", line)
	return nil
}

// readThroughput reads the custom metrics of a line such as
//
//	BenchmarkThroughput-2  7  4.52 tunnel_cpu_s/GiB  3.46 tunnel_gbps  0.46 veth_cpu_s/GiB  22.2 veth_gbps
func readThroughput(path string) (map[string]float64, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	metrics := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "BenchmarkThroughput") {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			metrics[strings.ReplaceAll(fields[i+1], "/GiB", "_per_gib")] = v
		}
	}
	if metrics["tunnel_gbps"] == 0 || metrics["veth_gbps"] == 0 {
		return nil, fmt.Errorf("%s has no throughput in it: %s", path, lastLines(text))
	}
	return metrics, nil
}

type bench struct {
	*World
	warm, peer, registry, plain []time.Duration
	ratio                       float64 // of the second host's bytes, from peers: the lowest seen
	total                       int64
}

func (b *bench) round(ctx context.Context) error {
	first, second := b.Agents[0], b.Agents[1]
	for _, a := range []*Agent{first, second} {
		if err := b.Forget(ctx, a); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		on   *Agent
		took *[]time.Duration
	}{{first, &b.registry}, {second, &b.peer}, {second, &b.warm}} {
		d, err := b.start(ctx, m.on)
		if err != nil {
			return err
		}
		*m.took = append(*m.took, d)
		if m.took == &b.peer {
			if err := b.sources(ctx); err != nil {
				return err
			}
		}
	}
	d, err := b.Plain(ctx, b.Ref, benchLine, "python3", "-c", "print('"+benchLine+"')")
	b.plain = append(b.plain, d)
	return err
}

// start runs a job on an agent's host and returns the time from the command to its first output.
func (b *bench) start(ctx context.Context, a *Agent) (time.Duration, error) {
	cmd := b.Customer.Rialto(ctx, "run", "--gpu", "any", "--provider", a.Host.Name, b.Ref, "--", "python3", "-c", "print('"+benchLine+"')")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	took := time.Since(begin)
	if werr := cmd.Wait(); werr != nil {
		return 0, fmt.Errorf("rialto run on %s: %w: %s", a.Host.Name, werr, stderr.String())
	}
	if err != nil || strings.TrimSpace(line) != benchLine {
		return 0, fmt.Errorf("rialto run on %s printed %q", a.Host.Name, line)
	}
	return took, nil
}

// Plain runs an image as one would without Rialto, with nothing on the host yet: skopeo copy, umoci unpack, runc run. It
// returns the time from the command to the first output, which must be line and all that the command prints.
func (w *World) Plain(ctx context.Context, ref, line string, command ...string) (time.Duration, error) {
	dir, err := os.MkdirTemp(w.cfg.Work, "plain-")
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	steps := [][]string{
		{"skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://" + ref, "oci:" + filepath.Join(dir, "oci") + ":image"},
		{"umoci", "unpack", "--image", filepath.Join(dir, "oci") + ":image", filepath.Join(dir, "bundle")},
	}
	for _, s := range steps {
		if _, err := Output(w.Customer.Host.Command(ctx, s[0], s[1:]...)); err != nil {
			return 0, err
		}
	}
	config := filepath.Join(dir, "bundle", "config.json")
	if err := plainConfig(config, command); err != nil {
		return 0, err
	}
	printed, err := Output(w.Customer.Host.Command(ctx, w.Bin("runc"), "--root", filepath.Join(dir, "runc"), "run", "-b", filepath.Join(dir, "bundle"), "rialto-plain-"+filepath.Base(dir)))
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	if strings.TrimSpace(string(printed)) != line {
		return 0, fmt.Errorf("plain path printed %q", printed)
	}
	return took, nil
}

// plainConfig makes umoci's bundle run a command without a terminal.
func plainConfig(path string, command []string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return errors.New("umoci wrote a config without a process")
	}
	process["terminal"] = false
	process["args"] = command
	delete(process, "rlimits") // raising a limit needs a capability that not every machine gives
	text, err = json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func ms(d time.Duration) int64 { return d.Milliseconds() }

func last(d []time.Duration) time.Duration { return d[len(d)-1].Round(time.Millisecond) }

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// sources notes where the bytes of the customer's last job came from.
func (b *bench) sources(ctx context.Context) error {
	out, err := Output(b.Customer.Rialto(ctx, "bill", "--last", "--json"))
	if err != nil {
		return err
	}
	var bill struct {
		Fetched struct {
			Peers    int64 `json:"peers_bytes"`
			Registry int64 `json:"registry_bytes"`
		} `json:"fetched"`
	}
	if err := json.Unmarshal(out, &bill); err != nil {
		return fmt.Errorf("rialto bill --json: %w: %s", err, out)
	}
	b.total = bill.Fetched.Peers + bill.Fetched.Registry
	if b.total == 0 {
		return errors.New("the second host fetched nothing")
	}
	ratio := float64(bill.Fetched.Peers) / float64(b.total)
	if len(b.peer) == 1 || ratio < b.ratio {
		b.ratio = ratio
	}
	return nil
}
