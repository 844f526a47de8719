package vast

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"rialto/broker"
)

const (
	// maxOutput bounds what one request brings of a container's output: its end, if there is more.
	maxOutput = 4 << 20
	// maxResults bounds the memory of the outputs that wait to be fetched; the oldest go first.
	maxResults = 64 << 20
	// resultLife is how long an output waits. Clients poll for some ten seconds.
	resultLife = 2 * time.Minute
	// reachPatience is how long a host may take to answer; Vast's command line waits twice as long.
	reachPatience = 45 * time.Second
	// maxReaching and maxReachingOne bound the requests that reach into containers at once: each may keep twice maxOutput.
	maxReaching    = 32
	maxReachingOne = 4
	defaultTail    = 1000
	maxTail        = 1_000_000
)

// results keeps outputs until their clients fetch them: by a name that nobody guesses, because they fetch them without
// their key.
type results struct {
	mu    sync.Mutex
	order []string
	texts map[string]kept
	size  int
}

type kept struct {
	text []byte
	till time.Time
}

func newResults() *results { return &results{texts: map[string]kept{}} }

func (r *results) put(text []byte, now time.Time) (name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name = strings.ToLower(rand.Text())
	for len(r.order) > 0 && (r.size+len(text) > maxResults || now.After(r.texts[r.order[0]].till)) {
		r.size -= len(r.texts[r.order[0]].text)
		delete(r.texts, r.order[0])
		r.order = r.order[1:]
	}
	r.order, r.size = append(r.order, name), r.size+len(text)
	r.texts[name] = kept{text, now.Add(resultLife)}
	return name
}

func (r *results) get(name string, now time.Time) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.texts[name]
	return k.text, ok && now.Before(k.till)
}

// result answers the URL that a request for output gave.
func (s *Server) result(c *call) (any, error) {
	text, ok := s.results.get(c.PathValue("token"), time.Now())
	if !ok {
		return nil, &refusal{Status: http.StatusNotFound, Code: "not_found", Msg: "no such result, or it is too old: ask again"}
	}
	return plain(text), nil
}

// give keeps an output and tells its URL.
func (s *Server) give(c *call, text []byte, more ...cell) row {
	scheme := "http"
	if c.TLS != nil || c.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	u := scheme + "://" + c.Host + "/api/v0/results/" + s.results.put(text, time.Now()) + "/"
	return append(row{{"success", true}, {"result_url", u}}, more...)
}

// logs answers PUT /instances/request_logs/{id}/: the last lines of the output, or of the job's history.
func (s *Server) logs(c *call) (any, error) {
	r := read(c.body)
	tail := int(r.count("tail", maxTail))
	pattern := r.text("filter", 1024)
	daemon := r.truth("daemon_logs")
	if err := r.done(); err != nil {
		return nil, err
	}
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, invalid("filter", err.Error())
	}
	i, err := s.fromPath(c)
	if err != nil {
		return nil, err
	}
	var text []byte
	if daemon {
		for _, e := range i.job.Log {
			text = fmt.Appendf(text, "%s %s: %s\n", e.Time.UTC().Format(time.RFC3339), e.State, e.Text)
		}
	} else if text, err = s.output(c.Context(), i.job); err != nil {
		return nil, err
	}
	if tail == 0 {
		tail = defaultTail
	}
	return s.give(c, lastLines(text, tail, match)), nil
}

// reaching counts the requests that reach into containers, by account.
type reaching struct {
	mu  sync.Mutex
	all int
	of  map[broker.AccountID]int
}

// enter takes a place and returns how to give it back.
func (r *reaching) enter(a broker.AccountID) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= maxReaching || r.of[a] >= maxReachingOne {
		return nil, &refusal{Status: http.StatusTooManyRequests, Code: "too_many_requests", Msg: "too many requests for output at once: wait for the others", retry: 1}
	}
	r.all++
	r.of[a]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.of[a]--; r.of[a] == 0 {
			delete(r.of, a)
		}
	}, nil
}

// output is what a job's container printed; of a job that has none yet, nothing.
func (s *Server) output(ctx context.Context, j broker.Job) ([]byte, error) {
	if j.State < broker.JobReady {
		return nil, nil
	}
	leave, err := s.reaching.enter(j.Account)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	var end ending
	if err := s.c.Custodian.Logs(ctx, j.Account, j.ID, end.write); err != nil {
		return nil, unreached(j, err)
	}
	return end.bytes(), nil
}

// unreached says which instance could not be reached. Its statuses are not those that Vast's command line tries again.
func unreached(j broker.Job, err error) error {
	if j.State.Terminal() {
		return &refusal{Status: http.StatusGone, Code: "no_output", Msg: fmt.Sprintf("the instance has ended, and its host keeps the output only for a few minutes: %v", err)}
	}
	return &refusal{Status: http.StatusFailedDependency, Code: "unreachable", Msg: fmt.Sprintf("the instance's host does not answer: %v", err)}
}

// ending keeps the end of what is written to it, up to maxOutput.
type ending struct {
	text []byte
	cut  bool
}

func (e *ending) write(p []byte) error {
	e.text = append(e.text, p...)
	if len(e.text) > 2*maxOutput {
		e.text, e.cut = append([]byte{}, e.text[len(e.text)-maxOutput:]...), true
	}
	return nil
}

func (e *ending) bytes() []byte {
	text := e.text
	if len(text) > maxOutput {
		text, e.cut = text[len(text)-maxOutput:], true
	}
	if !e.cut {
		return text
	}
	return append(fmt.Appendf(nil, "[only the last %d MiB]\n", maxOutput>>20), text...)
}

// lastLines keeps the last lines that match.
func lastLines(text []byte, most int, match *regexp.Regexp) []byte {
	var lines [][]byte
	for line := range bytes.Lines(text) {
		if match.Match(bytes.TrimRight(line, "\r\n")) {
			lines = append(lines, line)
		}
	}
	return bytes.Join(lines[max(0, len(lines)-most):], nil)
}

// command answers PUT /instances/command/{id}/: a command in the container's shell.
func (s *Server) command(c *call) (any, error) {
	r := read(c.body)
	command := r.text("command", maxScript)
	if err := r.done(); err != nil {
		return nil, err
	}
	if command == "" {
		return nil, invalid("command", "missing")
	}
	i, err := s.fromPath(c)
	if err != nil {
		return nil, err
	}
	if j := i.job; j.State != broker.JobReady && j.State != broker.JobRunning {
		return nil, &refusal{Status: http.StatusConflict, Code: "not_running", Msg: fmt.Sprintf("the instance does not run: it is %s", j.State)}
	}
	leave, err := s.reaching.enter(i.job.Account)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(c.Context(), reachPatience)
	defer cancel()
	var end ending
	code, err := s.c.Custodian.Exec(ctx, i.job.Account, i.job.ID, []string{"/bin/sh", "-c", command}, end.write)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return nil, &refusal{Status: http.StatusFailedDependency, Code: "timeout", Msg: fmt.Sprintf("the command did not end within %v", reachPatience)}
	}
	if err != nil {
		return nil, unreached(i.job, err)
	}
	// Older command lines cut the writeable path out of the text.
	return s.give(c, end.bytes(), cell{"exit_code", int64(code)}, cell{"writeable_path", ""}), nil
}

// user answers GET /users/current/.
func (s *Server) user(c *call) (any, error) {
	a := c.account
	return row{
		{"id", accountID(a.ID)},
		{"username", known(a.Name)},
		{"account", string(a.ID)}, // ours
		{"credit", dollars(int64(a.Available))},
		{"balance", dollars(int64(a.Available))},
		{"held", dollars(int64(a.Held))},
		{"custodial", a.Custodial},
		{"email", nil},
		{"ssh_key", nil},
	}, nil
}
