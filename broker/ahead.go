package broker

import (
	"slices"
	"sort"
)

// Ahead returns, of each of some jobs, how many that wait, and could take what it could, are served before it, see [place].
// Zero for a job that does not wait.
func (m *Market) Ahead(ids ...JobID) []int {
	out := make([]int, len(ids))
	placeOf := placesAt(m.clock, nil)
	if len(ids) == 1 {
		if w := m.queue.jobs[ids[0]]; w != nil {
			out[0] = m.ahead(w, placeOf)
		}
		return out
	}
	all := make(line, 0, len(m.queue.jobs))
	for _, w := range m.queue.byID {
		all = append(all, placeOf(w))
	}
	slices.SortFunc(all, func(a, b place) int { return a.compare(&b) })
	at := make(map[JobID]int, len(all)) // place in the line
	among := map[rivalry][]int{}        // places of those that are served for themselves, in order
	for i := range all {
		at[all[i].ID] = i
		if all[i].led() {
			continue // served with the first of its gang
		}
		for _, r := range all[i].Spec.rivalries(true) {
			among[r] = append(among[r], i)
		}
	}
	for i, id := range ids {
		if w := m.queue.jobs[id]; w != nil {
			for _, r := range w.Spec.rivalries(false) {
				out[i] += sort.SearchInts(among[r], at[id])
			}
		}
	}
	return out
}

// ahead is Ahead of one job, which sorts nothing.
func (m *Market) ahead(w *waiting, placeOf func(*waiting) place) (n int) {
	here := placeOf(w)
	for _, o := range m.queue.byEnd { // those that are served for themselves
		if !o.Spec.rivals(&w.Spec) {
			continue
		}
		if there := placeOf(o); there.compare(&here) < 0 {
			n++
		}
	}
	return n
}

// rivals reports whether two jobs may want the same GPUs, as far as model and place say.
func (s *JobSpec) rivals(o *JobSpec) bool {
	either := func(a, b, any string) bool { return a == b || a == any || b == any }
	return either(s.GPU.Model, o.GPU.Model, AnyModel) && either(s.Region, o.Region, "") && either(string(s.Provider), string(o.Provider), "")
}

// rivalry is a part of those that wait: they name the same of what it names, and what it calls all is what each of them
// likes.
type rivalry struct {
	model, region, provider string
}

// all is no name of anything.
const all = "\x00"

// rivalries are the parts that a job is in, or, all of them disjoint, those that its rivals are in.
func (s *JobSpec) rivalries(in bool) []rivalry {
	either := func(has, any string) []string {
		switch {
		case in:
			return []string{has, all}
		case has == any:
			return []string{all}
		}
		return []string{has, any}
	}
	var out []rivalry
	for _, model := range either(s.GPU.Model, AnyModel) {
		for _, region := range either(s.Region, "") {
			for _, provider := range either(string(s.Provider), "") {
				out = append(out, rivalry{model, region, provider})
			}
		}
	}
	return out
}
