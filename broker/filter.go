package broker

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Op is how a predicate compares.
type Op uint8

// Operators. OpIn and OpNotIn take a list.
const (
	OpEqual Op = iota + 1
	OpNot
	OpLess
	OpAtMost
	OpMore
	OpAtLeast
	OpIn
	OpNotIn
)

// String returns the operator's sign.
func (o Op) String() string {
	signs := [...]string{OpEqual: "=", OpNot: "!=", OpLess: "<", OpAtMost: "<=", OpMore: ">", OpAtLeast: ">=", OpIn: " in ", OpNotIn: " notin "}
	if int(o) < len(signs) {
		return signs[o]
	}
	return ""
}

// Filter is an ordered list of predicates that an offer must all satisfy. The zero Filter lets every offer
// through. [ParseFilter] makes one from text, [NewPredicate] and [Filter.With] from parts.
type Filter struct{ predicates []Predicate }

// Predicate is one condition on offers. The zero Predicate is not valid.
type Predicate struct {
	field  *Field
	op     Op
	values []value // one, or those of a list
}

// Predicates returns the predicates in order.
func (f Filter) Predicates() []Predicate { return slices.Clone(f.predicates) }

// IsZero reports whether the filter lets every offer through.
func (f Filter) IsZero() bool { return len(f.predicates) == 0 }

// String writes the filter in canonical form: canonical names, units with every size and rate. [ParseFilter] reads it
// back to an equal filter.
func (f Filter) String() string {
	all := make([]string, len(f.predicates))
	for i, p := range f.predicates {
		all[i] = p.String()
	}
	return strings.Join(all, " ")
}

// Field returns the canonical name of the predicate's field.
func (p Predicate) Field() string { return p.field.Name }

// Op returns the predicate's operator.
func (p Predicate) Op() Op { return p.op }

// String writes the predicate in canonical form, such as gpu_ram>=24GiB or gpu_name in [RTX_3090,RTX_4090].
func (p Predicate) String() string {
	all := make([]string, len(p.values))
	for i, v := range p.values {
		all[i] = "null"
		if !v.null {
			all[i] = p.field.text(v)
		}
	}
	s := strings.Join(all, ",")
	if p.op == OpIn || p.op == OpNotIn {
		s = "[" + s + "]"
	}
	return p.field.Name + p.op.String() + s
}

// With returns the filter with a predicate behind the others. As in Vast's language the last of two predicates with
// the same field and operator holds; but exclusions (!= and notin) add up, so that none is dropped.
func (f Filter) With(p Predicate) Filter {
	all := slices.Clone(f.predicates)
	if p.op != OpNot && p.op != OpNotIn {
		all = slices.DeleteFunc(all, func(q Predicate) bool { return q.field == p.field && q.op == p.op })
	} else if slices.ContainsFunc(all, p.equal) {
		return f
	}
	return Filter{append(all, p)}
}

// Without returns the filter without the predicates on a field, which may be named by an alias.
func (f Filter) Without(field string) Filter {
	of, _, _ := fieldOf(field)
	return Filter{slices.DeleteFunc(slices.Clone(f.predicates), func(q Predicate) bool { return q.field == of })}
}

// Has reports whether a predicate is on a field, which may be named by an alias.
func (f Filter) Has(field string) bool {
	of, _, _ := fieldOf(field)
	return slices.ContainsFunc(f.predicates, func(q Predicate) bool { return q.field == of })
}

// Fails returns the first predicate that an offer does not satisfy for a job, and false if it satisfies all of them. What
// only the market knows (what is free) or the query (images) is passed over: this is the provider's check.
func (f Filter) Fails(o *Offer, s *JobSpec) (Predicate, bool) {
	l := listing{Offer: o, query: &Query{
		GPU: GPURequest{Count: s.GPU.Count}, Bid: s.Bid, Reserve: s.Reserve, Run: s.MaxDuration, DiskMiB: s.DiskMiB, Traffic: s.Traffic,
	}}
	for _, p := range f.predicates {
		if p.field.Evidence == EvidenceMarket && p.field.id != fieldExternal || p.field.id == fieldHasImage {
			continue
		}
		if !p.keeps(l) {
			return p, true
		}
	}
	return Predicate{}, false
}

// JobGPUs returns how many GPUs the filter's predicates on num_gpus ask for, the least that satisfies them all; 1 if
// there are none. The error is a [*FieldError].
func (f Filter) JobGPUs() (int, error) {
	if !f.Has("num_gpus") {
		return 1, nil
	}
	for n := 1; n <= maxJobGPUs; n++ {
		if f.takes(n) {
			return n, nil
		}
	}
	return 0, &FieldError{Field: "num_gpus", Problem: fmt.Sprintf("no number from 1 to %d is what the query wants", maxJobGPUs)}
}

// takes reports whether the predicates on num_gpus let a job have n GPUs.
func (f Filter) takes(n int) bool {
	return !slices.ContainsFunc(f.predicates, func(p Predicate) bool {
		return p.field.id == fieldJobGPUs && !p.admits(number(int64(n)))
	})
}

func (p Predicate) equal(q Predicate) bool {
	return p.field == q.field && p.op == q.op && slices.Equal(p.values, q.values)
}

// keeps reports whether an offer satisfies the predicate. What nobody says satisfies nothing but =null.
func (p Predicate) keeps(l listing) bool {
	v, known := l.read(p.field.id)
	if p.values[0].null {
		return known == (p.op == OpNot)
	}
	return known && p.admits(v)
}

// admits compares a value that is known.
func (p Predicate) admits(v value) bool {
	bound := p.values[0]
	switch p.op {
	case OpEqual, OpIn:
		return slices.ContainsFunc(p.values, func(w value) bool { return p.field.equal(v, w) })
	case OpNot, OpNotIn:
		return !slices.ContainsFunc(p.values, func(w value) bool { return p.field.equal(v, w) })
	case OpLess:
		return v.n < bound.n
	case OpAtMost:
		return v.n <= bound.n
	case OpMore:
		return v.n > bound.n
	case OpAtLeast:
		return v.n >= bound.n
	}
	return false
}

func (f *Field) equal(v, w value) bool {
	switch {
	case f.Kind == KindModel:
		return sameModel(v.s, w.s)
	case f.Kind.named():
		return sameName(v.s, w.s)
	}
	return v.n == w.n
}

// sameName compares names without the case of ASCII letters; _ is a space.
func sameName(a, b string) bool {
	if a == b {
		return true
	}
	if len(a) != len(b) {
		return false
	}
	fold := func(c byte) byte {
		switch {
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		case c == '_':
			return ' '
		}
		return c
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

// sameModel reports whether two names of models fold to the same.
func sameModel(a, b string) bool {
	for a != b {
		x, restA := firstFolded(a)
		y, restB := firstFolded(b)
		if x != y {
			return false
		}
		a, b = restA, restB
	}
	return true
}

// firstFolded cuts the first letter or digit off a name, lower-case; zero at its end.
func firstFolded(s string) (first byte, rest string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c, s[i+1:]
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a', s[i+1:]
		}
	}
	return 0, ""
}

// far measures how far an offer that fails is from satisfying the predicate, for offers that fail the same one.
// Not known, and what is neither near nor far, is the farthest.
func (p Predicate) far(l listing) int64 {
	v, known := l.read(p.field.id)
	if !known || p.values[0].null || p.op == OpNot || p.op == OpNotIn {
		return math.MaxInt64
	}
	least := int64(math.MaxInt64)
	for _, w := range p.values {
		switch {
		case p.field.Kind == KindModel:
			least = min(least, int64(edits(foldModel(w.s), foldModel(v.s))))
		case p.field.Kind.ordered():
			least = min(least, max(v.n, w.n)-min(v.n, w.n))
		}
	}
	return least
}

// gauge is far for many offers: models are compared once each, because that is slow.
func (p Predicate) gauge() func(listing) int64 {
	if p.field.Kind != KindModel {
		return p.far
	}
	known := map[string]int64{}
	return func(l listing) int64 {
		model := l.GPUs[0].Model
		far, ok := known[model]
		if !ok {
			far = p.far(l)
			known[model] = far
		}
		return far
	}
}

// shown is what an offer has, for people.
func (p Predicate) shown(l listing) string {
	v, known := l.read(p.field.id)
	if !known {
		return "not known"
	}
	if p.field.id == fieldFree {
		return fmt.Sprintf("%d of %d free", v.n, len(l.GPUs))
	}
	return p.field.show(v)
}

// admitting returns the predicate nearest to p that an offer satisfies; with false, none on the field does, and p
// must go.
func (p Predicate) admitting(l listing) (Predicate, bool) {
	v, known := l.read(p.field.id)
	if !known || p.values[0].null || p.op == OpNot || p.op == OpNotIn {
		return Predicate{}, false
	}
	q := Predicate{field: p.field, op: p.op, values: []value{v}}
	switch p.op {
	case OpLess:
		q.op = OpAtMost
	case OpMore:
		q.op = OpAtLeast
	case OpIn:
		q.values = append(slices.Clone(p.values), v)
	case OpEqual, OpNot, OpAtMost, OpAtLeast, OpNotIn:
	}
	return q, true
}
