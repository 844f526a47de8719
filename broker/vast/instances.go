package vast

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
)

// instance is a job as Vast's clients see it.
type instance struct {
	job   broker.Job
	lease broker.Lease // the zero Lease: none yet
	tag   tag
}

func (s *Server) instance(ctx context.Context, j broker.Job) (instance, error) {
	out := instance{job: j}
	raw, err := s.c.Market.Tag(ctx, j.Account, j.ID)
	if err != nil {
		return out, err
	}
	out.tag = readTag(raw)
	if j.Lease != "" && !out.tag.Destroyed {
		if out.lease, err = s.c.Market.Lease(ctx, j.Account, j.ID); err != nil && !errors.Is(err, broker.ErrNotFound) {
			return out, err
		}
	}
	return out, nil
}

// instances returns an account's instances that were not destroyed, newest first.
func (s *Server) instances(ctx context.Context, account broker.AccountID) ([]instance, error) {
	var out []instance
	err := s.each(ctx, account, func(j broker.Job) (bool, error) {
		i, err := s.instance(ctx, j)
		if err == nil && !i.tag.Destroyed {
			out = append(out, i)
		}
		return true, err
	})
	return out, err
}

// each calls a function with the account's jobs, newest first, until it wants no more.
func (s *Server) each(ctx context.Context, account broker.AccountID, f func(broker.Job) (more bool, err error)) error {
	before := broker.JobID("")
	for {
		page, older, err := s.c.Market.Jobs(ctx, account, before, 500)
		if err != nil {
			return err
		}
		for _, j := range page {
			if more, err := f(j); err != nil || !more {
				return err
			}
			before = j.ID
		}
		if !older {
			return nil
		}
	}
}

// byID returns the account's instance with an id, destroyed or not.
func (s *Server) byID(ctx context.Context, account broker.AccountID, id int64) (instance, error) {
	var hit *broker.Job
	err := s.each(ctx, account, func(j broker.Job) (bool, error) {
		if instanceID(j.ID) == id {
			hit = &j
		}
		return hit == nil, nil
	})
	if err != nil {
		return instance{}, err
	}
	if hit == nil {
		return instance{}, &refusal{Status: http.StatusNotFound, Code: "no_such_instance", Msg: fmt.Sprintf("there is no instance %d of this account", id)}
	}
	return s.instance(ctx, *hit)
}

// fromPath is byID for the id in the path.
func (s *Server) fromPath(c *call) (instance, error) {
	id, err := c.pathID()
	if err != nil {
		return instance{}, err
	}
	return s.byID(c.Context(), c.account.ID, id)
}

// show answers GET /instances/{id}/. Of one that does not exist it says null, as Vast does.
func (s *Server) show(c *call) (any, error) {
	i, err := s.fromPath(c)
	if f, ok := errors.AsType[*refusal](err); ok && f.Status == http.StatusNotFound || i.tag.Destroyed {
		return row{{"success", true}, {"instances", nil}}, nil
	}
	if err != nil {
		return nil, err
	}
	return row{{"success", true}, {"instances", i.row(time.Now())}}, nil
}

// list answers GET /instances/: all of them.
func (s *Server) list(c *call) (any, error) {
	all, err := s.instances(c.Context(), c.account.ID)
	if err != nil {
		return nil, err
	}
	return row{{"success", true}, {"instances_found", len(all)}, {"instances", rowsOf(all)}}, nil
}

func rowsOf(all []instance) []row {
	now, rows := time.Now(), []row{}
	for _, i := range all {
		rows = append(rows, i.row(now))
	}
	return rows
}

// page answers GET /api/v1/instances/: a page of those that match.
func (s *Server) page(c *call) (any, error) {
	q, err := readPage(c.URL.Query())
	if err != nil {
		return nil, err
	}
	all, err := s.instances(c.Context(), c.account.ID)
	if err != nil {
		return nil, err
	}
	labels := map[string]int{}
	rows := rowsOf(slices.DeleteFunc(all, func(i instance) bool { return !q.matches(i.row(time.Time{})) }))
	for _, i := range rows {
		label, _ := i.value("label").(string)
		labels[label]++
	}
	order(rows, append(q.order, sorting{key: "id"}))
	total := len(rows)
	if q.after != 0 {
		at := slices.IndexFunc(rows, func(r row) bool { return r.value("id") == q.after })
		if at < 0 {
			return nil, invalid("after_token", "the instance that it stands for is gone: start again without it")
		}
		rows = rows[at+1:]
	}
	var next any
	if len(rows) > q.limit {
		rows = rows[:q.limit]
		next = strconv.FormatInt(rows[q.limit-1].value("id").(int64), 36) //nolint:forcetypeassert // our own row
	}
	found := len(rows)
	for i := range rows {
		rows[i] = rows[i].pick(q.columns)
	}
	return row{
		{"success", true}, {"instances", rows}, {"instances_found", found}, {"total_instances", total}, {"next_token", next}, {"label_counts", labels},
	}, nil
}

// filterValues answers GET /instances/filters/: what there is to filter by.
func (s *Server) filterValues(c *call) (any, error) {
	all, err := s.instances(c.Context(), c.account.ID)
	if err != nil {
		return nil, err
	}
	rows := []row{}
	for _, r := range rowsOf(all) {
		rows = append(rows, r.pick([]string{"actual_status", "gpu_name", "verification", "label"}))
	}
	return row{{"success", true}, {"filters", rows}}, nil
}

// row is what a client reads. Vast's command line needs start_date and extra_env; dstack actual_status, public_ipaddr,
// ports and status_msg.
func (i *instance) row(now time.Time) row {
	j, l := &i.job, &i.lease
	n := int64(j.Spec.GPU.Count)
	actual, cur := i.status()
	intended := "running"
	if j.State.Terminal() || j.Stopping != 0 {
		intended = "stopped"
	}
	host := hostID(cmp.Or(l.Provider, j.Spec.Provider))
	return append(row{
		{"id", instanceID(j.ID)},
		{"job", string(j.ID)}, // ours
		{"machine_id", host},
		{"host_id", host},
		{"hostname", known(l.Host)},
		{"actual_status", actual},
		{"cur_state", cur},
		{"next_state", intended},
		{"intended_status", intended},
		{"status_msg", i.message()},
		{"label", known(i.tag.Label)},
		{"num_gpus", n},
		{"gpu_name", vastModel(cmp.Or(l.Model, j.Spec.GPU.Model))},
		{"gpu_model", cmp.Or(l.Model, j.Spec.GPU.Model)},
		{"gpu_util", nil},
		{"gpu_temp", nil},
		{"gpu_ram", nil},
		{"cpu_cores_effective", nil},
		{"cpu_ram", nil},
		{"cpu_util", nil},
		{"disk_space", gibibytes(j.Spec.Disk())},
		{"disk_usage", nil},
		{"disk_util", nil},
		{"volume_info", []any{}},
		{"image_uuid", j.Spec.Image},
		{"image_digest", j.Spec.Digest}, // ours
		{"image_runtype", known(i.tag.Runtype)},
		{"image_args", append([]string{}, j.Spec.Command...)},
		{"onstart", i.script()},
		{"template_id", nil},
		{"template_name", nil},
		{"extra_env", variables(j.Spec.Env)},
		{"ports", row{}},
		{"public_ipaddr", nil},
		{"ssh_host", nil},
		{"ssh_port", nil},
		{"ssh_idx", nil},
		{"direct_port_count", int64(0)},
		{"start_date", seconds(j.Accepted)},
		{"end_date", seconds(i.end())},
		{"duration", i.left(now)},
		{"uptime_mins", i.minutes()},
		{"inet_up", nil},
		{"inet_down", nil},
		{"reliability2", nil},
		{"verification", nil},
		{"geolocation", nil},
		{"simulated", l.Simulated}, // ours: not a real GPU
		{"custody", custodyNote},   // ours
		{"exit_code", exitCode(j)}, // ours
	}, i.prices()...)
}

func exitCode(j *broker.Job) any {
	if j.State != broker.JobDone {
		return nil
	}
	return int64(j.ExitCode)
}

// status is Vast's word for where the container is, and whether the instance is on.
func (i *instance) status() (actual, cur string) {
	switch s := i.job.State; {
	case s.Terminal():
		return "exited", "stopped"
	case s == broker.JobReady || s == broker.JobRunning:
		return "running", "running"
	case s == broker.JobLeased:
		return "loading", "running"
	}
	return "created", "running"
}

// message says what goes on, and what a client might not expect.
func (i *instance) message() string {
	j := &i.job
	var parts []string
	switch {
	case j.State == broker.JobDone:
		parts = append(parts, fmt.Sprintf("exited with code %d", j.ExitCode))
	case j.State == broker.JobFailed:
		parts = append(parts, "Error: "+j.Error)
	case j.State == broker.JobCancelled && i.tag.Stopped:
		parts = append(parts, "stopped; nothing of it is kept, and it cannot be started again: destroy it and create another")
	case j.State.Terminal():
		parts = append(parts, j.Error)
	case len(j.Log) > 0:
		parts = append(parts, j.Log[len(j.Log)-1].Text)
	}
	if i.tag.Runtype == "ssh" && !j.State.Terminal() {
		parts = append(parts, sshNote)
	}
	return strings.Join(parts, "; ")
}

// script is the onstart script of an instance that stays up.
func (i *instance) script() any {
	c := i.job.Spec.Command
	if i.tag.Runtype != "ssh" || len(c) != 5 || c[2] != stay {
		return nil
	}
	return known(c[4])
}

// end is when the instance ends by itself, or did; the zero time if that is not known yet.
func (i *instance) end() time.Time {
	if !i.job.Ended.IsZero() {
		return i.job.Ended
	}
	if i.lease.Ready.IsZero() {
		return time.Time{}
	}
	run, err := i.job.Spec.MostTime(i.charge())
	if err != nil {
		return time.Time{}
	}
	return i.lease.Ready.Add(run)
}

// left is how many seconds the instance has left.
func (i *instance) left(now time.Time) any {
	end := i.end()
	if end.IsZero() || now.IsZero() {
		return nil
	}
	return max(0, int64(end.Sub(now)/time.Second))
}

// minutes is for how long the container ran, as billed and corroborated.
func (i *instance) minutes() any {
	if i.lease.Ready.IsZero() {
		return nil
	}
	return json.Number(strconv.FormatFloat(i.lease.Billed.Minutes(), 'f', 2, 64))
}
