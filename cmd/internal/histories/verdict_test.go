//go:build linux

package histories

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// TestVerdicts holds the models to small histories: a checker that admits everything would never fail.
func TestVerdicts(t *testing.T) {
	job := func(state string, cost int64) sight { return sight{id: "j-1", state: state, cost: cost, exit: -1} }
	one := func(s sight) jobOutput { return jobOutput{outcome: answered, jobs: [specs]sight{s}} }
	got := func(o outcome) jobOutput { return jobOutput{outcome: o} }
	put := jobInput{call: submit}
	other, same := jobInput{call: submit, spec: 1}, jobInput{call: submit, key: 1}
	get, stop, all := jobInput{call: read}, jobInput{call: cancel}, jobInput{call: list}
	type op struct {
		in  any
		out any
	}
	queued := job("queued", 0)
	deposit, again := moneyInput{call: fund, amount: 5}, moneyInput{call: fund, amount: 6, wrong: true}
	balance := moneyInput{call: look}
	has := func(available, held, spent int64) moneyOutput { return moneyOutput{answered, available, held, spent} }
	paid := moneyOutput{outcome: answered}
	for name, tt := range map[string]struct {
		want bool
		ops  []op // one after the other; what has an unknown outcome stays open
	}{
		"accepted, run, read":             {true, []op{{put, one(queued)}, {get, one(job("running", 1))}, {get, one(job("done", 3))}, {get, one(job("done", 3))}}},
		"lost":                            {false, []op{{put, one(queued)}, {get, got(missing)}}},
		"not listed":                      {false, []op{{put, one(queued)}, {all, got(answered)}}},
		"listed twice":                    {false, []op{{put, one(queued)}, {all, jobOutput{outcome: answered, jobs: [specs]sight{queued}, twice: true}}}},
		"the same key, the same job":      {true, []op{{put, one(queued)}, {put, one(queued)}}},
		"the same key, another job":       {false, []op{{put, one(queued)}, {put, one(sight{id: "j-2", state: "queued"})}}},
		"the same key, another spec":      {true, []op{{put, one(queued)}, {other, got(reused)}}},
		"a key that counts no more":       {false, []op{{put, one(queued)}, {other, jobOutput{outcome: answered, jobs: [specs]sight{{}, {id: "j-2", state: "queued"}}}}}},
		"a fresh key that is used":        {false, []op{{other, got(reused)}}},
		"another key, the same spec":      {true, []op{{put, one(queued)}, {same, got(conflict)}}},
		"a spec twice":                    {false, []op{{put, one(queued)}, {same, one(sight{id: "j-2", state: "queued"})}}},
		"a key forgotten":                 {false, []op{{put, one(queued)}, {put, got(conflict)}}},
		"unknown, there":                  {true, []op{{put, got(unknown)}, {all, one(queued)}}},
		"unknown, not there":              {true, []op{{put, got(unknown)}, {all, got(answered)}}},
		"unknown, there later":            {true, []op{{put, got(unknown)}, {all, got(answered)}, {all, one(queued)}}},
		"unknown, there and gone":         {false, []op{{put, got(unknown)}, {all, one(queued)}, {all, got(answered)}}},
		"back to the queue before it ran": {true, []op{{put, one(queued)}, {get, one(job("leased", 0))}, {get, one(queued)}}},
		"back from running":               {false, []op{{put, one(queued)}, {get, one(job("running", 1))}, {get, one(job("leased", 0))}}},
		"back from its end":               {false, []op{{put, one(queued)}, {get, one(job("done", 1))}, {get, one(job("running", 1))}}},
		"another end":                     {false, []op{{put, one(queued)}, {get, one(job("done", 1))}, {get, one(job("failed", 1))}}},
		"another bill":                    {false, []op{{put, one(queued)}, {get, one(job("done", 1))}, {get, one(job("done", 2))}}},
		"cancelled":                       {true, []op{{put, one(queued)}, {stop, one(job("cancelled", 0))}, {get, one(job("cancelled", 0))}, {stop, got(ended)}}},
		"cancelled by nobody":             {false, []op{{put, one(queued)}, {get, one(job("cancelled", 0))}}},
		"cancelled perhaps":               {true, []op{{put, one(queued)}, {stop, got(unknown)}, {get, one(job("cancelled", 0))}}},
		"a cancellation that is lost":     {false, []op{{put, one(queued)}, {stop, one(queued)}, {get, one(queued)}}},
		"done although cancelled":         {false, []op{{put, one(queued)}, {stop, one(job("running", 1))}, {get, one(job("done", 1))}}},
		"it has ended and runs":           {false, []op{{put, one(queued)}, {stop, got(ended)}, {get, one(job("running", 1))}}},

		"paid":                         {true, []op{{deposit, paid}, {balance, has(3, 2, 0)}, {balance, has(4, 0, 1)}}},
		"paid twice under one ref":     {true, []op{{deposit, paid}, {deposit, paid}, {balance, has(5, 0, 0)}}},
		"counted twice":                {false, []op{{deposit, paid}, {deposit, paid}, {balance, has(10, 0, 0)}}},
		"another amount":               {true, []op{{deposit, paid}, {again, moneyOutput{outcome: conflict}}}},
		"another amount, taken":        {false, []op{{deposit, paid}, {again, paid}}},
		"a deposit that is lost":       {false, []op{{deposit, paid}, {balance, has(0, 0, 0)}}},
		"money from nowhere":           {false, []op{{deposit, paid}, {balance, has(5, 1, 0)}}},
		"overdrawn":                    {false, []op{{deposit, paid}, {balance, has(-1, 6, 0)}}},
		"spent and given back":         {false, []op{{deposit, paid}, {balance, has(3, 0, 2)}, {balance, has(5, 0, 0)}}},
		"a deposit that may be":        {true, []op{{deposit, moneyOutput{outcome: unknown}}, {balance, has(0, 0, 0)}, {balance, has(5, 0, 0)}}},
		"a deposit that was, and left": {false, []op{{deposit, moneyOutput{outcome: unknown}}, {balance, has(5, 0, 0)}, {balance, has(0, 0, 0)}}},
	} {
		var history []porcupine.Operation
		m := moneyModel()
		for i, o := range tt.ops {
			p := porcupine.Operation{Input: o.in, Output: o.out, Call: int64(2 * i), Return: int64(2*i + 1)}
			var out outcome
			switch o := o.out.(type) {
			case jobOutput:
				m, out = jobModel(), o.outcome
			case moneyOutput:
				out = o.outcome
			}
			if out == unknown {
				p.Return = never
			}
			history = append(history, p)
		}
		if got := porcupine.CheckOperations(m, prune(history)); got != tt.want {
			t.Errorf("%s: %v, want %v\n%s", name, got, tt.want, show(history))
		}
	}
}

// TestPrune keeps what may explain something.
func TestPrune(t *testing.T) {
	open := func(in any, begun int64) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: begun, Return: never}
	}
	put, stop := jobInput{call: submit}, jobInput{call: cancel}
	got := prune([]porcupine.Operation{
		open(put, 5), open(put, 2), open(stop, 3), open(jobInput{call: read}, 1), open(jobInput{call: submit, key: 1}, 4), open(moneyInput{call: look}, 0),
		{Input: put, Call: 6, Return: 7},
	})
	var calls []int64
	for _, op := range got {
		calls = append(calls, op.Call)
	}
	if want := []int64{2, 3, 4, 6}; len(calls) != len(want) || calls[0] != 2 || calls[1] != 3 || calls[2] != 4 || calls[3] != 6 {
		t.Errorf("calls that began at %v are left, want %v", calls, want)
	}
}
