package blocks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rialto/cmd/internal/lab"
)

// firstLine is what a measured job prints first.
const firstLine = "first output"

// readEverything prints the first output, then reads all files of the image, and stays a moment longer, in which
// the host finds the image whole.
const readEverything = `
print("` + firstLine + `", flush=True)
import os, time
buf = bytearray(1 << 20)
for dir, dirs, files in os.walk("/"):
    if dir == "/":
        dirs[:] = [d for d in dirs if d not in ("proc", "sys", "dev")]
    for name in files:
        name = os.path.join(dir, name)
        if not os.path.islink(name) and os.path.isfile(name):
            with open(name, "rb", buffering=0) as f:
                while f.readinto(buf): pass
time.sleep(2)
`

// started is how a job began.
type started struct {
	prompt time.Duration // from the command to the first output
	lease  time.Duration // from the lease to the first output
	all    time.Duration // from the command until every file was read
	steps  string
	peers  int64 // bytes
	total  int64
}

// start measures a large image on a host that has nothing, whose only source is one other host.
func start(ctx context.Context, r *report, l *lab.Lab, cfg Config, s site) (err error) {
	layout, err := makeBig(ctx, l, s, cfg.Scale)
	if err != nil {
		return err
	}
	worldConfig := cfg.Lab
	worldConfig.Work, worldConfig.Name = l.Path("world"), "blocks" // beside a demonstration of the same machine
	if err := os.MkdirAll(worldConfig.Work, 0o700); err != nil {
		return err
	}
	w, err := lab.NewWorld(ctx, worldConfig)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	registry, _, _ := strings.Cut(w.Ref, "/")
	ref := registry + "/big:1"
	if err := w.Customer.Host.Push(ctx, layout, ref); err != nil {
		return err
	}
	if _, err := lab.Output(w.Customer.Rialto(ctx, "image", "add", ref)); err != nil {
		return err
	}
	alpha, bravo := w.Agents[0], w.Agents[1]
	begin := time.Now()
	if _, err := job(ctx, w, alpha, ref, "print('"+firstLine+"')"); err != nil { // from the registry, whole
		return err
	}
	imported := time.Since(begin)
	if err := restart(ctx, w, alpha); err != nil { // so that its memory is what serving takes
		return err
	}
	var best started
	var rss, serving, fetching int64
	const times = 3
	for i := range times {
		if i > 0 {
			if err := w.Forget(ctx, bravo); err != nil {
				return err
			}
			if err := removeForgotten(w); err != nil {
				return err
			}
		}
		got, err := job(ctx, w, bravo, ref, readEverything)
		if err != nil {
			return err
		}
		if got.peers < got.total*9/10 {
			return fmt.Errorf("only %d of %d bytes came from the peer", got.peers, got.total)
		}
		if i == 0 || got.lease < best.lease {
			best = got
		}
		for at, a := range map[*int64]*lab.Agent{&serving: alpha, &fetching: bravo} {
			n, err := a.Proc.PeakRSS()
			if err != nil {
				return err
			}
			*at = max(*at, n)
		}
		rss = max(serving, fetching)
	}
	warm, err := job(ctx, w, bravo, ref, "print('"+firstLine+"')")
	if err != nil {
		return err
	}
	r.section(fmt.Sprintf("an image of %s GB on a host without a block of it, one peer, no delay, no limit; best of %d, plain once", number(float64(best.total)/1e9), times))
	r.figure("start10gb_s", "from the lease to the container's first output", best.lease.Seconds(), best.steps)
	r.row("from the prompt to it", best.prompt.Seconds(), "s", "")
	r.row("until the container had read every file", best.all.Seconds(), "s", fmt.Sprintf("%d MB from the peer, one file after the other", best.peers/1e6))
	r.row("import from the registry on the first host, to the end", imported.Seconds(), "s", "once per image on the market")
	r.row("limit: from the lease, the image on the host", warm.lease.Seconds(), "s", warm.steps)
	r.figure("rss_mb", "agent's memory at its peak, the larger of both ends", float64(rss)/1e6,
		fmt.Sprintf("serving %d MB, fetching %d MB; VmHWM since the agent started", serving/1e6, fetching/1e6))
	plain, err := w.Plain(ctx, ref, firstLine, "python3", "-c", "print('"+firstLine+"')")
	if err != nil {
		return err
	}
	r.figure("start10gb_plain_s", "rival: skopeo copy + umoci unpack + runc run", plain.Seconds(), "")
	return nil
}

// job runs Python code on an agent's host.
func job(ctx context.Context, w *lab.World, a *lab.Agent, ref, code string) (started, error) {
	cmd := w.Customer.Rialto(ctx, "run", "--json", "--gpu", "any", "--provider", a.Host.Name, ref, "--", "python3", "-c", code)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return started{}, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return started{}, err
	}
	out := bufio.NewReader(stdout)
	line, readErr := out.ReadString('\n')
	s := started{prompt: time.Since(begin)}
	_, restErr := io.Copy(io.Discard, out)
	err = cmd.Wait()
	s.all = time.Since(begin)
	if err != nil {
		return s, fmt.Errorf("rialto run on %s: %w: %s", a.Host.Name, err, stderr.String())
	}
	if strings.TrimSpace(line) != firstLine {
		return s, fmt.Errorf("rialto run on %s printed %q: %w", a.Host.Name, line, errors.Join(readErr, restErr))
	}
	return s, s.summary(stderr.Bytes())
}

// summary reads what `rialto run --json` says at the end.
func (s *started) summary(text []byte) error {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	var sum struct {
		Steps []struct {
			Name string  `json:"name"`
			Took float64 `json:"took_ms"`
		} `json:"steps"`
		Bill struct {
			Fetched struct {
				Peers int64 `json:"peers_bytes"`
				Total int64 `json:"total_bytes"`
			} `json:"fetched"`
		} `json:"bill"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &sum); err != nil {
		return fmt.Errorf("summary of a job: %w: %s", err, text)
	}
	// All parts up to "hold" lie before the lease, and those behind it begin with the hold, some at the same time.
	var before float64
	leased := false
	var parts []string
	for _, p := range sum.Steps {
		if !leased {
			before += p.Took
		} else if p.Took >= 1 {
			parts = append(parts, fmt.Sprintf("%s %.0f ms", p.Name, p.Took))
		}
		leased = leased || p.Name == "hold"
	}
	if !leased {
		return fmt.Errorf("no lease in the timeline of a job: %s", text)
	}
	s.lease = s.prompt - time.Duration(before*float64(time.Millisecond))
	s.steps = strings.Join(parts, " · ")
	s.peers, s.total = sum.Bill.Fetched.Peers, sum.Bill.Fetched.Total
	return nil
}

// restart ends an agent and starts it again with what it has.
func restart(ctx context.Context, w *lab.World, a *lab.Agent) error {
	if err := a.Proc.Stop(); err != nil {
		return err
	}
	return a.Start(ctx, w.Market)
}

// removeForgotten deletes what Forget moved aside: large images would fill the disk. It is packs, few large files.
func removeForgotten(w *lab.World) error {
	dirs, err := filepath.Glob(w.Path("forgotten-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
