package main

import (
	"slices"
	"strings"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
)

// shortestID is the least of a job's id that tables show.
const shortestID = len("j-") + 6

// names writes the names of jobs in tables: no longer than it takes to tell them apart, or whole.
type names struct {
	whole bool
	id    map[string]string
	twins map[string]bool // host names that more than one provider uses
}

// newNames looks at all jobs of an account, so that what it shortens stays unique among them.
func newNames(jobs []api.Job, whole bool) names {
	n := names{whole: whole, id: shortIDs(ids(jobs)), twins: map[string]bool{}}
	owner := map[string]string{}
	for _, j := range jobs {
		if o, ok := owner[j.Host]; ok && o != j.Provider {
			n.twins[j.Host] = true
		}
		owner[j.Host] = j.Provider
	}
	return n
}

func (n names) job(j api.Job) string {
	if n.whole {
		return j.ID
	}
	return n.id[j.ID]
}

func (n names) host(j api.Job) string {
	if n.whole || n.twins[j.Host] {
		return tenant.HostName(j.Host, j.Provider)
	}
	return cli.Clean(j.Host)
}

// image drops the registry of an image and shortens its digest.
func (n names) image(j api.Job) string {
	if n.whole {
		return j.Image
	}
	first, rest, ok := strings.Cut(j.Image, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		rest = j.Image
	}
	rest = strings.TrimPrefix(rest, "library/")
	if name, digest, ok := strings.Cut(rest, "@sha256:"); ok {
		return name + "@" + digest[:min(len(digest), 12)]
	}
	return rest
}

// shortIDs maps each id to the shortest prefix of at least shortestID bytes that no other id begins with.
func shortIDs(all []string) map[string]string {
	sorted := slices.Compact(slices.Sorted(slices.Values(all)))
	short := make(map[string]string, len(sorted))
	for i, id := range sorted {
		n := shortestID
		for _, j := range []int{i - 1, i + 1} { // only neighbours share the longest beginning
			if j >= 0 && j < len(sorted) {
				n = max(n, 1+shared(id, sorted[j]))
			}
		}
		short[id] = id[:min(n, len(id))]
	}
	return short
}

// shared is how many bytes two ids begin with in common.
func shared(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
