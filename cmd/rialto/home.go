package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
)

// home is the folder with the customer's files.
type home string

// openHome finds the folder; it is made when something is first written.
func openHome(getenv func(string) string) (home, error) {
	if dir := getenv("RIALTO_HOME"); dir != "" {
		return home(dir), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", cli.Hint(fmt.Errorf("no configuration folder: %w", err), "set RIALTO_HOME to a folder of your choice")
	}
	return home(filepath.Join(dir, "rialto")), nil
}

func (h home) path(parts ...string) string {
	return filepath.Join(append([]string{string(h)}, parts...)...)
}

// key loads the key that signs jobs, or makes it.
func (h home) key() (identity.Key, error) {
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return identity.Key{}, err
	}
	return identity.LoadOrCreate(h.path("key"))
}

// config is how to reach the broker.
type config struct {
	Broker string `json:"broker,omitempty"`
	Token  string `json:"token,omitempty"`
}

func (h home) config() (config, error) {
	var c config
	err := h.load(&c, "config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, nil
	}
	return c, err
}

// weights are directories that were cut into blocks and uploaded.
type weights struct {
	Root  string     `json:"root"`
	Bytes int64      `json:"bytes"`
	Files int        `json:"files"`
	From  string     `json:"from"`
	Added time.Time  `json:"added"`
	IPFS  []ipfsFile `json:"ipfs"`

	Private bool `json:"private,omitempty"` // keys has the root's key
}

// ipfsFile is a large file as IPFS knows it.
type ipfsFile struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	CID   string `json:"cid"` // that `ipfs add` gives it under the UnixFS_v1_2025 profile
}

// ipfsFiles lists the large files of a public tree, and counts all. The small ones have no block of their own that IPFS
// could ask for.
func ipfsFiles(t *blockstore.Tree) (large []ipfsFile, files int) {
	large = []ipfsFile{} // a list in JSON as well
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if n.Kind == blockstore.File {
			files++
		}
		if n.Large() && !t.Private() {
			large = append(large, ipfsFile{Path: t.Path(i), Bytes: n.Size, CID: t.FileCID(n)})
		}
	}
	return large, files
}

func (h home) weights() (map[string]weights, error) {
	all := map[string]weights{}
	err := h.load(&all, "weights.json")
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	return all, err
}

// localImage is an image that was imported on this machine and uploaded.
type localImage struct {
	Digest string     `json:"digest"` // of its OCI manifest
	Root   string     `json:"root"`
	Bytes  int64      `json:"bytes"` // of its files
	From   string     `json:"from"`
	Added  time.Time  `json:"added"`
	IPFS   []ipfsFile `json:"ipfs"`

	Private bool `json:"private,omitempty"` // keys has the root's key; jobs are signed with the root's digest
}

// images returns the images of this machine by their names, without "local/".
func (h home) images() (map[string]localImage, error) {
	all := map[string]localImage{}
	err := h.load(&all, "images.json")
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	return all, err
}

// record is what this machine knows about a job: enough to send it again and to open its tunnel.
type record struct {
	Job            string    `json:"job,omitempty"` // empty until the broker answered
	Broker         string    `json:"broker"`
	IdempotencyKey string    `json:"idempotency_key"`
	Image          string    `json:"image"`
	Envelope       []byte    `json:"spec"`
	TunnelKey      string    `json:"tunnel_key"`
	Created        time.Time `json:"created"`
	AutoBudget     bool      `json:"auto_budget,omitempty"` // the spec's budget follows from its price limit: the customer set none
	Changed        *rebid    `json:"changed,omitempty"`     // what its bid was changed to; nil: it was not
}

// rebid is what the customer signed instead of the bid and the budget of a job's spec.
type rebid struct {
	Bid     pricing.Rate  `json:"bid_nanousd_per_hour"`
	MaxCost pricing.Money `json:"max_cost_nanousd"`
}

// signed is what a job's customer signed, as far as it bounds the bill; of a job that was signed on another machine, what
// bounds nothing, and false.
func (r record) signed() (spec broker.JobSpec, known bool) {
	spec, known = signed(r.Envelope)
	if known && r.Changed != nil {
		spec.Bid, spec.MaxCost = r.Changed.Bid, r.Changed.MaxCost
	}
	return spec, known
}

// tunnelKey returns the customer's end of the job's tunnel.
func (r record) tunnelKey() (tunnel.PrivateKey, error) { return tunnel.ParsePrivateKey(r.TunnelKey) }

// keyPattern is what an idempotency key may look like, which becomes a file name, and a name of weights or of an image.
const keyPattern = `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`

func checkIdempotencyKey(key string) error {
	if !regexp.MustCompile(keyPattern).MatchString(key) {
		return fmt.Errorf("idempotency key %q: want 1 to 64 letters, digits, '.', '_' or '-'", key)
	}
	return nil
}

func checkName(name string) error {
	if !regexp.MustCompile(keyPattern).MatchString(name) {
		return fmt.Errorf("name %q: want 1 to 64 letters, digits, '.', '_' or '-'", name)
	}
	return nil
}

func jobPattern() *regexp.Regexp { return regexp.MustCompile(`^j-[a-z2-7]{1,32}$`) }

// submitted returns the record of an earlier submission under a key, answered or not.
func (h home) submitted(key string) (record, bool, error) {
	var r record
	err := h.load(&r, "pending", key+".json")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return r, err == nil, err
	}
	all, err := h.records()
	if err != nil {
		return record{}, false, err
	}
	for _, r := range all {
		if r.IdempotencyKey == key {
			return r, true, nil
		}
	}
	return record{}, false, nil
}

// savePending writes a submission down before it is sent.
func (h home) savePending(r record) error {
	return h.save(r, "pending", r.IdempotencyKey+".json")
}

// saveJob files a submission under the id that the broker gave it.
func (h home) saveJob(r record) error {
	if !jobPattern().MatchString(r.Job) {
		return fmt.Errorf("broker's answer: job id %q is not one", r.Job)
	}
	if err := h.save(r, "jobs", r.Job+".json"); err != nil {
		return err
	}
	return h.dropPending(r.IdempotencyKey)
}

// dropPending forgets a submission that the broker refused for good.
func (h home) dropPending(key string) error {
	err := os.Remove(h.path("pending", key+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (h home) record(job string) (record, error) {
	if !jobPattern().MatchString(job) {
		return record{}, fmt.Errorf("job %q: not a job id", job)
	}
	var r record
	err := h.load(&r, "jobs", job+".json")
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, cli.Hint(fmt.Errorf("job %s: its tunnel key is not on this machine", job),
			"only the machine that started a job can reach into it; copy %s from there", h.path("jobs", job+".json"))
	}
	return r, err
}

// newest returns the record of a job as it is now: another command may have changed its bid.
func (h home) newest(r record) record {
	if now, err := h.record(r.Job); err == nil {
		return now
	}
	return r
}

// records returns all jobs that were started here, newest first.
func (h home) records() ([]record, error) {
	files, err := filepath.Glob(h.path("jobs", "j-*.json"))
	if err != nil {
		return nil, err
	}
	var all []record
	for _, f := range files {
		var r record
		if err := h.load(&r, "jobs", filepath.Base(f)); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b record) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Job, b.Job)
	})
	return all, nil
}

// load reads a JSON file of ours.
func (h home) load(v any, parts ...string) error {
	path := h.path(parts...)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return cli.Hint(fmt.Errorf("read %s: %w", path, err), "the file is damaged: mend or remove it")
	}
	return nil
}

// save writes a JSON file of ours whole or not at all, readable only by the user, and durably.
func (h home) save(v any, parts ...string) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return h.write(append(b, '\n'), os.Rename, parts...)
}

// write writes a file like save. With os.Rename as finish it replaces one of that name, with os.Link it does not.
func (h home) write(b []byte, finish func(from, to string) error, parts ...string) (err error) {
	path := h.path(parts...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return finish(f.Name(), path)
}
