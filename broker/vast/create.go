package vast

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"rialto/broker"
)

const (
	maxImage  = 512
	maxScript = 64 << 10
	maxLabel  = 256
	// leastRun is what the account's money must buy of an instance before it is started.
	leastRun = time.Minute
	// grantPatience is how long a create waits to hear whether the host took the job: somewhat more than the market
	// gives a host to answer.
	grantPatience = 20 * time.Second
	// manyPatience bounds a request for several instances, which no server waits for longer than a minute.
	manyPatience = 50 * time.Second
)

// wish is what a client wants to run.
type wish struct {
	image   string
	bid     *big.Rat // dollars an hour for all GPUs; nil: on demand
	args    []string // behind the image's entrypoint, or behind entry
	entry   string   // replaces it
	script  string   // of an instance that stays up
	stays   bool
	env     map[string]string
	diskMiB uint64 // zero: not said
	label   string
	runtype string
}

// create answers PUT /asks/{id}/.
func (s *Server) create(c *call) (any, error) {
	id, err := c.pathID()
	if err != nil {
		return nil, err
	}
	r := read(c.body)
	w := readWish(r)
	if err := r.done(); err != nil {
		return nil, err
	}
	return s.start(c.Context(), c.account.ID, id, w)
}

// createMany answers POST /asks/bulk/: each offer once. What failed is told beside what did not.
func (s *Server) createMany(c *call) (any, error) {
	r := read(c.body)
	ids := r.numbers("ids")
	w := readWish(r)
	if err := r.done(); err != nil {
		return nil, err
	}
	if len(ids) == 0 || len(ids) > 64 {
		return nil, invalid("ids", fmt.Sprintf("%d offers: want 1 to 64", len(ids)))
	}
	ctx, cancel := context.WithTimeout(c.Context(), manyPatience)
	defer cancel()
	var results []row
	contracts, all := []int64{}, true
	for _, id := range ids {
		got, err := s.start(ctx, c.account.ID, id, w)
		if err != nil {
			f := refusalOf(err)
			results, all = append(results, row{{"id", id}, {"success", false}, {"error", f.Code}, {"msg", f.Msg}}), false
			continue
		}
		contract, _ := got.value("new_contract").(int64)
		contracts = append(contracts, contract)
		results = append(results, append(row{{"id", id}}, got...))
	}
	return row{{"success", all}, {"new_contracts", contracts}, {"results", results}}, nil
}

// launch answers PUT /launch_instance/: the first of the offers that match and take it.
func (s *Server) launch(c *call) (any, error) {
	r := read(c.body)
	raw := r.raw("q")
	if raw == nil {
		return nil, invalid("q", "missing: which offers?")
	}
	inner, err := parseObject(raw, "q")
	if err != nil {
		return nil, err
	}
	if !inner.has("limit") {
		inner = append(inner, member{"limit", json.RawMessage("3")})
	}
	q, err := readQuery(inner)
	if err != nil {
		return nil, err
	}
	tries := min(q.limit, 16)
	w := readWish(r)
	q.diskMiB = max(q.diskMiB, w.diskMiB)
	if err := r.done(); err != nil {
		return nil, err
	}
	got, err := s.find(c.Context(), q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), manyPatience)
	defer cancel()
	last := error(&broker.NoOfferError{Search: got.search})
	for _, offer := range got.rows {
		if offer.value("rentable") != true {
			continue
		}
		if tries--; tries < 0 {
			break
		}
		id, _ := offer.value("id").(int64)
		out, err := s.start(ctx, c.account.ID, id, w)
		if err == nil {
			return out, nil
		}
		if last = err; !errors.Is(err, broker.ErrNoOffer) {
			return nil, err
		}
	}
	return nil, last
}

// readWish reads what all three have in common. Whatever this market does not do is refused unless it is what clients
// send by default.
func readWish(r *reader) wish {
	w := wish{image: strings.TrimSpace(r.text("image", maxImage)), label: r.text("label", maxLabel), env: map[string]string{}}
	r.text("client_id", 128) // the account is the key's
	for _, key := range []string{"template_hash_id", "template_id", "create_from"} {
		r.absent(key, "there are no templates on this market: say what to run with image")
	}
	if w.image == "" {
		r.fail("image", "missing: which image?")
	}
	if n, ok := r.rational("price"); ok {
		w.bid = n
	}
	w.diskMiB = r.disk("disk")
	r.absent("extra", "docker's options cannot be passed on: this market runs no docker")
	r.absent("image_login", "a private image cannot be used: hosts fetch images without a password")
	r.absent("user", "an instance runs as its image's user")
	r.absent("volume_info", "there are no volumes on this market")
	r.absent("use_jupyter_lab", noSSH)
	r.absent("jupyter_dir", noSSH)
	r.truth("force")
	r.truth("cancel_unavail") // an instance that no host takes is never kept
	if r.truth("python_utf8") {
		w.env["PYTHONIOENCODING"], w.env["PYTHONUTF8"] = "utf-8", "1"
	}
	if r.truth("lang_utf8") {
		w.env["LANG"], w.env["LC_ALL"] = "C.UTF-8", "C.UTF-8"
	}
	w.readEnv(r)
	w.readProgram(r)
	return w
}

const noSSH = "there is no ssh and no jupyter on this market, because instances have no open ports: " +
	"use runtype args, or the default one with an onstart script, and vastai logs"

// readEnv reads variables; Vast's command line puts docker's options among them, as names with a space.
func (w *wish) readEnv(r *reader) {
	raw := r.raw("env")
	if raw == nil || string(raw) == `""` {
		return
	}
	o, err := parseObject(raw, "env")
	if err != nil {
		r.fail("env", shown(raw)+`: want an object of variables, such as {"A":"b"}`)
		return
	}
	for _, m := range o {
		option, argument, _ := strings.Cut(m.key, " ")
		switch option {
		case "-p":
			r.fail("env", fmt.Sprintf("%q asks for a public port: an instance has none, it is reached through its tunnel alone (rialto forward, with an account of your own)", clipped(m.key)))
			return
		case "-h", "-v", "-n", "-e", "--":
			r.fail("env", fmt.Sprintf("%q: docker's option %s %s cannot be passed on: this market runs no docker", clipped(m.key), option, clipped(argument)))
			return
		}
		var text string
		if err := json.Unmarshal(m.raw, &text); err != nil {
			if text, err = decimal(m.raw); err != nil {
				r.fail("env", fmt.Sprintf("%s: want a text", clipped(m.key)))
				return
			}
		}
		w.env[m.key] = text
	}
}

// readProgram reads what is to run, and how.
func (w *wish) readProgram(r *reader) {
	onstart := r.text("onstart", maxScript)
	w.args = r.argsOf("args")
	w.runtype = cmp.Or(r.text("runtype", 128), map[bool]string{true: "args", false: "ssh"}[w.args != nil])
	switch w.runtype {
	case "args":
		w.entry = onstart
		if strings.ContainsAny(w.entry, "\n") {
			r.fail("onstart", "with runtype args it is the entrypoint, one word; without runtype it is a script")
		}
	case "ssh":
		if w.stays, w.script = true, onstart; w.args != nil {
			r.fail("args", "go with runtype args")
		}
	default:
		r.fail("runtype", clipped(w.runtype)+": "+noSSH)
	}
}

// argsOf reads a list of arguments, or a text with one.
func (r *reader) argsOf(key string) []string {
	if raw := r.raw(key); strings.HasPrefix(strings.TrimSpace(string(raw)), `"`) {
		return []string{r.text(key, maxScript)}
	}
	return r.texts(key)
}

// stay runs a script, in bash where there is one, and stays up until it is told to end.
const stay = `trap 'exit 0' TERM INT
[ -z "$1" ] || "$(command -v bash || echo sh)" -c "$1"
while :; do sleep 3600 & wait $!; done`

// command is what a wish runs, and whether it goes behind the image's own entrypoint.
func (w *wish) command() (args []string, behind bool) {
	switch {
	case w.stays:
		return []string{"/bin/sh", "-c", stay, "onstart", w.script}, false
	case w.entry != "":
		return append([]string{w.entry}, w.args...), false
	}
	return w.args, len(w.args) > 0
}

// start rents an offer and waits until its host has taken the job, so that nothing is left behind if it does not.
func (s *Server) start(ctx context.Context, account broker.AccountID, id int64, w wish) (row, error) {
	if err := ctx.Err(); err != nil {
		return nil, &refusal{Status: http.StatusRequestTimeout, Code: "timeout", Msg: "not tried: the others took too long"}
	}
	o, rentable, err := s.offer(ctx, id)
	if err != nil {
		return nil, err
	}
	count := offerCount(id)
	if !rentable {
		return nil, &refusal{Status: http.StatusConflict, Code: "no_such_ask", Msg: fmt.Sprintf("offer %d is taken: not %d × %s free on %s now", id, count, o.GPUs[0].Model, o.Host)}
	}
	if err := w.fits(&o); err != nil {
		return nil, err
	}
	spec, charge, err := w.job(&o, count, s.c.Term)
	if err != nil {
		return nil, err
	}
	a, err := s.c.Market.Account(ctx, account)
	if err != nil {
		return nil, err
	}
	hold, run, err := s.hold(a, charge)
	if err != nil {
		return nil, err
	}
	spec.MaxCost = hold
	order := Order{Account: account, Tag: tag{Label: w.label, Runtype: w.runtype}.encode(), Spec: spec}
	order.Spec.Command, order.Append = w.command()
	job, err := s.c.Custodian.Start(ctx, order)
	if err != nil {
		return nil, err
	}
	if err := s.taken(ctx, job); err != nil {
		return nil, err
	}
	kind := "on-demand"
	if w.bid != nil {
		kind = "interruptible"
	}
	return row{
		{"success", true},
		{"new_contract", instanceID(job.ID)},
		{"type", kind},
		{"is_bid", w.bid != nil},
		{"dph_base", dollars(int64(charge.GPUs))},
		{"dph_total", dollars(int64(charge.Hourly()))},
		{"num_gpus", int64(count)},
		{"gpu_name", vastModel(o.GPUs[0].Model)},
		{"hold", dollars(int64(hold))},
		{"max_duration", int64(run / time.Second)},
		{"notes", w.notes(&o, &spec)},
		{"job", string(job.ID)}, // ours
	}, nil
}

// job is what is wanted as a job on an offer, but for its command and hold, and what its host charges. It takes the price as
// it is and none above.
func (w *wish) job(o *broker.Offer, count int, term time.Duration) (broker.JobSpec, broker.Charge, error) {
	spec := broker.JobSpec{
		Image: w.image, Env: w.env, GPU: broker.GPURequest{Model: o.GPUs[0].Model, Count: count}, Where: "id=" + string(o.ID),
		Provider: o.Provider, DiskMiB: w.diskMiB, MaxDuration: term,
	}
	if w.bid != nil {
		bid, err := w.bids(o, count)
		if err != nil {
			return spec, broker.Charge{}, err
		}
		spec.Bid = bid
		charge, err := spec.Charge(bid, o.Tariff)
		return spec, charge, err
	}
	charge, err := spec.Charge(o.Rate, o.Tariff)
	spec.MaxRate = spec.AllIn(o.Rate, charge)
	return spec, charge, err
}

// notes are what a client should know of an instance that it might not expect.
func (w *wish) notes(o *broker.Offer, spec *broker.JobSpec) []string {
	out := []string{custodyNote}
	if w.bid != nil {
		out = append(out, "interruptible: it pays what clears the market, at most the bid, and may be displaced by a higher one after a notice")
	}
	if note := trafficNote(o.Tariff, spec); note != "" {
		out = append(out, note)
	}
	if w.stays {
		out = append(out, sshNote)
	}
	return out
}

const (
	custodyNote = "the broker holds this account's key: it signed the job and is the end of its tunnel"
	sshNote     = "no ssh server: the onstart script runs and the container stays up; vastai logs shows what it prints"
)

// fits refuses an offer that has less than is wanted.
func (w *wish) fits(o *broker.Offer) error {
	if w.diskMiB > o.DiskMiB {
		wanted := gibibytes(w.diskMiB)
		return invalid("disk", fmt.Sprintf("%s GB: a job on this offer has %s GB, and nothing was started; search for disk_space>=%s", wanted, gibibytes(o.DiskMiB), wanted))
	}
	return nil
}

// taken waits until the host has granted the GPUs. If it does not, the job is cancelled and the error says why.
func (s *Server) taken(ctx context.Context, job broker.Job) error {
	waiting, cancel := context.WithTimeout(ctx, grantPatience)
	defer cancel()
	why := ""
	for e, err := range s.c.Market.Events(waiting, job.Account, job.ID, 0) {
		if err != nil {
			if waiting.Err() != nil && ctx.Err() == nil {
				return nil // the market is still at it: the instance shows how it goes
			}
			if ctx.Err() != nil {
				s.cancel(ctx, job, "the client left before the host had answered")
			}
			return err
		}
		switch {
		case e.State == broker.JobHolding:
			why = e.Text
		case e.State == broker.JobQueued: // its host refused it, or another job was quicker
			s.cancel(ctx, job, "its host did not take it")
			return fmt.Errorf("%w: the host did not take the job: %s", broker.ErrNoOffer, cmp.Or(why, e.Text))
		case e.State.Terminal():
			if e.State == broker.JobDone {
				return nil
			}
			return fmt.Errorf("%w: %s", broker.ErrNoOffer, e.Text)
		case e.State >= broker.JobLeased:
			return nil
		}
	}
	return nil
}

func (s *Server) cancel(ctx context.Context, job broker.Job, reason string) {
	if _, err := s.c.Market.Cancel(context.WithoutCancel(ctx), job.Account, job.ID, reason); err != nil && !errors.Is(err, broker.ErrConflict) {
		s.c.Logger.Warn("instance not cancelled", "job", job.ID, "err", err)
	}
}
