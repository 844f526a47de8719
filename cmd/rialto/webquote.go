package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/broker/wire"
	"rialto/cmd/internal/cli"
)

// maxWebQuote bounds what the page asks a quote with.
const maxWebQuote = 64 << 10

// webQuote is what the page wants a firm quote for.
type webQuote struct {
	Image      string `json:"image"`
	Command    string `json:"command"` // for a shell; empty: the image's own
	Provider   string `json:"provider"`
	Model      string `json:"model"`
	GPUs       int    `json:"gpus"`
	DurationMS int64  `json:"duration_ms"`

	DiskMiB      uint64 `json:"disk_mib"`      // that the job may write; zero: what is usual
	TrafficBytes int64  `json:"traffic_bytes"` // each way, that is paid for at most; zero: what is usual
}

func (q webQuote) request() (*request, []string, error) {
	const most = int64(broker.MaxTerm / time.Millisecond)
	switch {
	case strings.TrimSpace(q.Image) == "":
		return nil, nil, errors.New("image: which?")
	case strings.HasPrefix(q.Image, "-"):
		return nil, nil, fmt.Errorf("image %q: not a reference of one", q.Image)
	case q.GPUs < 1:
		return nil, nil, fmt.Errorf("gpus %d: want at least 1", q.GPUs)
	case q.DurationMS < 1 || q.DurationMS > most:
		return nil, nil, fmt.Errorf("duration_ms %d: want 1 to %d", q.DurationMS, most)
	case q.DiskMiB != 0 && q.DiskMiB < broker.MinDiskMiB || q.DiskMiB > broker.MaxDiskMiB:
		return nil, nil, fmt.Errorf("disk_mib %d: want %d to %d", q.DiskMiB, broker.MinDiskMiB, broker.MaxDiskMiB)
	case q.TrafficBytes < 0 || q.TrafficBytes > broker.MaxTraffic:
		return nil, nil, fmt.Errorf("traffic_bytes %d: want 1 to %d", q.TrafficBytes, broker.MaxTraffic)
	}
	r := &request{
		gpu: broker.GPURequest{Model: q.Model, Count: q.GPUs}, provider: q.Provider,
		duration: time.Duration(q.DurationMS) * time.Millisecond, firm: broker.DefaultFirm,
		diskMiB: q.DiskMiB, traffic: q.TrafficBytes,
	}
	if r.gpu.Model == "" {
		r.gpu.Model = broker.AnyModel
	}
	args := []string{strings.TrimSpace(q.Image)}
	if strings.TrimSpace(q.Command) != "" {
		args = append(args, "/bin/sh", "-c", q.Command)
	}
	return r, args, nil
}

// quotes answers what only this machine can do, because it has the key: POST /local/quotes asks a host for a firm quote,
// POST /local/quotes/ID/accept runs it, DELETE /local/quotes/ID gives it back.
func (w *web) quotes(rw http.ResponseWriter, r *http.Request) {
	id, action, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/local/quotes"), "/"), "/")
	var out any
	var err error
	switch {
	case r.Method == http.MethodPost && id == "":
		out, err = w.quote(rw, r)
	case r.Method == http.MethodPost && action == "accept":
		out, err = w.accept(r, id)
	case r.Method == http.MethodDelete && id != "" && action == "":
		out, err = w.dropQuote(r, id)
	default:
		refuse(rw, http.StatusNotFound, "the page has no use for this; the broker is at "+w.broker.String())
		return
	}
	if err != nil {
		refuse(rw, http.StatusUnprocessableEntity, cli.Clean(err.Error()))
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(rw).Encode(out) // a caller that is gone sees the quote among the jobs
}

func (w *web) quote(rw http.ResponseWriter, r *http.Request) (api.FirmQuote, error) {
	var asked webQuote
	d := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxWebQuote))
	d.DisallowUnknownFields()
	if err := d.Decode(&asked); err != nil {
		return api.FirmQuote{}, fmt.Errorf("the request: %w", err)
	}
	request, args, err := asked.request()
	if err != nil {
		return api.FirmQuote{}, err
	}
	q, _, err := w.app.askFirm(r.Context(), w.market, request, args)
	return q, err
}

// webJob names the job that a quote is.
type webJob struct {
	ID string `json:"id"`
}

// accept runs a quote of this machine. What is private needs its keys brought to the host, which is the work of a command
// that stays.
func (w *web) accept(r *http.Request, id string) (webJob, error) {
	q, err := w.market.home.quote(id)
	if err != nil {
		return webJob{}, err
	}
	spec, _, err := wire.OpenJobSpec(q.Envelope)
	if err != nil {
		return webJob{}, err
	}
	if len(spec.PrivateRoots()) > 0 {
		return webJob{}, fmt.Errorf("what is private needs its keys brought to the host: rialto run --quote %s does that", q.Job)
	}
	rec, err := (&follower{app: w.app, market: w.market}).accept(r.Context(), q.Job)
	return webJob{rec.Job}, err
}

func (w *web) dropQuote(r *http.Request, id string) (webJob, error) {
	q, err := w.market.home.quote(id)
	if err != nil {
		return webJob{}, err
	}
	if err := w.market.giveBack(r.Context(), api.FirmQuote{ID: q.Job}); err != nil {
		return webJob{}, err
	}
	return webJob{q.Job}, w.market.home.dropQuote(q.Job)
}
