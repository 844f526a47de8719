//go:build linux

package histories

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// outcome is what a caller learned about its call.
type outcome string

const (
	unknown  outcome = "unknown" // no answer, or one that leaves it open: it may have happened, now or later
	answered outcome = "answered"
	refused  outcome = "refused"      // no money or no offer for it: nothing happened
	reused   outcome = "key was used" // for another spec
	conflict outcome = "was there"    // the spec, or the ref of a deposit
	ended    outcome = "has ended"    // the job
	missing  outcome = "does not exist"
)

// call is what a caller did.
type call string

const (
	submit call = "submit"
	read   call = "read"
	list   call = "list"
	cancel call = "cancel"
	fund   call = "deposit"
	look   call = "balance"
)

// A want is what a customer wants done: two specs and two idempotency keys, of which one pair is meant and the others
// are mistakes that a broker must see through. All that is done about a want is one history.
const (
	specs = 2
	keys  = 2
)

// jobInput is a call about a want. An answer to a submission or a cancellation shows the job as it was a moment later:
// that is recorded as a read of its own.
type jobInput struct {
	want string
	call call
	key  int // of a submission
	spec int // of all but a list
}

// sight is a job as an answer showed it; without an id there was none.
type sight struct {
	id, state string
	cost      int64 // nanodollars
	exit      int   // -1: it did not say
}

// jobOutput is the answer.
type jobOutput struct {
	outcome outcome
	jobs    [specs]sight // the one that was asked for, or all of a list
	twice   bool         // a list showed two jobs of one spec
}

// ranks orders what a job goes through. Before it is ready it may go from host to host, and back to the queue.
func rank(state string) int {
	switch state {
	case "queued", "holding", "leased":
		return 0
	case "ready":
		return 1
	case "running":
		return 2
	default:
		return 3
	}
}

const anyID, anyEnd = "?", "?"

// knownJob is what is known of the job of a spec.
type knownJob struct {
	id         string // empty: not accepted; anyID: accepted, and nobody has seen its id yet
	rank       int
	final      string // its last state; anyEnd: it has ended, somehow
	cost       int64  // then
	exit       int    // then
	mayCancel  bool   // somebody asked for its end
	mustCancel bool   // and was told that it will come
}

// jobState is a want as the sequential broker has it. It is comparable.
type jobState struct {
	keys [keys]int // one more than the spec that a key was used for; zero: none
	jobs [specs]knownJob
}

// observe reports whether a job may look like this now, and what is known then.
func (j knownJob) observe(s sight) (bool, knownJob) {
	switch {
	case j.id == anyID:
		j.id = s.id
	case j.id != s.id:
		return false, j
	}
	r := rank(s.state)
	if r < j.rank {
		return false, j // it went back
	}
	over := r == 3
	switch {
	case j.final != "" && j.final != anyEnd:
		if s.state != j.final || s.cost != j.cost || s.exit != j.exit {
			return false, j // what has ended changes no more
		}
	case over && s.state == "cancelled" && !j.mayCancel:
		return false, j
	case over && j.mustCancel && s.state != "cancelled" && s.state != "expired":
		return false, j
	case r == 0 && j.mustCancel:
		return false, j // what never ran ends at once
	}
	j.rank = r
	if over {
		j.final, j.cost, j.exit = s.state, s.cost, s.exit
	}
	return true, j
}

// step is the sequential broker.
func (s jobState) step(in jobInput, out jobOutput) (bool, jobState) {
	j, shown := &s.jobs[in.spec], out.jobs[in.spec]
	accepted := j.id != ""
	switch in.call {
	case submit:
		used := s.keys[in.key]
		fresh := used == 0 && !accepted
		switch out.outcome {
		case unknown:
			if fresh {
				s.keys[in.key], j.id = in.spec+1, anyID
			}
			return true, s
		case answered:
			if fresh {
				s.keys[in.key], j.id = in.spec+1, anyID
			}
			if s.keys[in.key] != in.spec+1 || j.id != anyID && j.id != shown.id {
				return false, s
			}
			j.id = shown.id
			return true, s
		case reused:
			return used != 0 && used != in.spec+1, s
		case conflict:
			return used == 0 && accepted, s
		case refused:
			return fresh, s
		case ended, missing:
		}
	case read:
		switch out.outcome {
		case unknown:
			return true, s
		case answered:
			if !accepted {
				return false, s
			}
			ok, next := j.observe(shown)
			*j = next
			return ok, s
		case missing:
			return !accepted, s
		case refused, reused, conflict, ended:
		}
	case list:
		if out.twice {
			return false, s
		}
		for i := range s.jobs {
			there := s.jobs[i].id != ""
			if there != (out.jobs[i].id != "") {
				return false, s
			}
			if there {
				ok, next := s.jobs[i].observe(out.jobs[i])
				if !ok {
					return false, s
				}
				s.jobs[i] = next
			}
		}
		return true, s
	case cancel:
		switch out.outcome {
		case unknown:
			j.mayCancel = true
			return true, s
		case answered:
			if !accepted || j.final != "" {
				return false, s
			}
			j.mayCancel, j.mustCancel = true, true
			return true, s
		case ended:
			if !accepted {
				return false, s
			}
			j.mayCancel = true // a call may have been sent twice, and the first have done it
			if j.final == "" {
				j.rank, j.final = 3, anyEnd
			}
			return true, s
		case missing:
			return !accepted, s
		case refused, reused, conflict:
		}
	case fund, look:
	}
	return false, s // an answer that does not go with the call
}

// moneyInput is a call about an account's money. A deposit's answer shows the balance of a moment later: a look of its own.
type moneyInput struct {
	account string
	call    call
	ref     int   // of a deposit, 0 to 63
	amount  int64 // nanodollars
	wrong   bool  // another amount than the ref was used for
}

// moneyOutput is the answer.
type moneyOutput struct {
	outcome                outcome
	available, held, spent int64
}

// moneyState is an account as the sequential broker has it.
type moneyState struct {
	refs  uint64 // deposits that were made
	total int64  // of them
	spent int64  // seen last
}

func (s moneyState) step(in moneyInput, out moneyOutput) (bool, moneyState) {
	if in.call == fund {
		made := s.refs&(1<<in.ref) != 0
		switch {
		case out.outcome == conflict:
			return made && in.wrong, s
		case made && in.wrong:
			return out.outcome == unknown, s
		case !made:
			s.refs |= 1 << in.ref
			s.total += in.amount
		}
	}
	switch out.outcome {
	case unknown:
		return true, s
	case answered:
		if in.call == fund {
			return true, s
		}
		ok := out.available >= 0 && out.held >= 0 && out.spent >= s.spent && out.available+out.held+out.spent == s.total
		s.spent = out.spent
		return ok, s
	case refused, reused, conflict, ended, missing:
	}
	return false, s
}

// model makes a porcupine model of a sequential one.
func model[S, I, O any](step func(S, I, O) (bool, S), partition func(I) string) porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[string][]porcupine.Operation{}
			var names []string
			for _, op := range history {
				in, _ := op.Input.(I)
				name := partition(in)
				if _, ok := parts[name]; !ok {
					names = append(names, name)
				}
				parts[name] = append(parts[name], op)
			}
			all := make([][]porcupine.Operation, 0, len(names))
			for _, name := range names {
				all = append(all, parts[name])
			}
			return all
		},
		Init: func() any {
			var s S
			return s
		},
		Step: func(state, input, output any) (bool, any) {
			s, _ := state.(S)
			in, _ := input.(I)
			out, _ := output.(O)
			return step(s, in, out)
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

func jobModel() porcupine.Model {
	return model(jobState.step, func(in jobInput) string { return in.want })
}

func moneyModel() porcupine.Model {
	return model(moneyState.step, func(in moneyInput) string { return in.account })
}

// prune leaves out calls with an unknown outcome that explain nothing: those that only read, and those that repeat one
// whose outcome is unknown too, because that one may happen at any time after. What is left is checked in no time.
func prune(history []porcupine.Operation) []porcupine.Operation {
	history = slices.Clone(history)
	slices.SortStableFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	open := map[any]bool{}
	return slices.DeleteFunc(history, func(op porcupine.Operation) bool {
		if op.Return != never {
			return false
		}
		again := open[op.Input]
		open[op.Input] = true
		j, ofJob := op.Input.(jobInput)
		m, ofMoney := op.Input.(moneyInput)
		return again || ofJob && j.call == read || ofMoney && m.call == look
	})
}

// show writes a history for people.
func show(history []porcupine.Operation) string {
	history = slices.Clone(history)
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	const most = 60
	var b strings.Builder
	for _, op := range history[max(0, len(history)-most):] {
		till := "…"
		if op.Return != never {
			till = fmt.Sprintf("%.4f", float64(op.Return)/1e9)
		}
		fmt.Fprintf(&b, "  %10.4f to %10s  %+v → %+v\n", float64(op.Call)/1e9, till, op.Input, op.Output)
	}
	return b.String()
}
