package broker

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on queries, and with them on what a stranger's search costs the market.
const (
	maxFilterText = 4096
	maxPredicates = 32
	maxValues     = 64  // of a list
	maxAllValues  = 128 // of all predicates
)

// ParseFilter reads a query in Vast's language: predicates FIELD OPERATOR VALUE parted by spaces, all of which must
// hold. There is no "or" and there are no parentheses.
//
//	gpu_name in [RTX_4090,"RTX 3090"] num_gpus=2 gpu_ram>=24 price<=0.40/h region!=US
//
// Operators are = == != < <= > >= and the words eq neq noteq "not eq" lt lte gt gte in notin nin "not in". A value is a
// word, in which _ is a space, a text in double quotes, in which \ quotes, or for in and notin a list in brackets. The
// value any, * or ? with = drops what was said about the field before; null with = and != asks whether nobody says.
// The last of two predicates with the same field and operator holds, but exclusions add up.
//
// Numbers may carry units, which [Kind] lists; without one they are in the unit of the name that is used, see [Fields],
// so that Vast's names have Vast's units. The error is a [*FieldError] that names the field and the nearest valid
// name or value.
func ParseFilter(text string) (Filter, error) {
	if len(text) > maxFilterText {
		return Filter{}, &FieldError{Field: "query", Problem: fmt.Sprintf("longer than %d bytes", maxFilterText)}
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && !isSpace(r) }) {
		return Filter{}, &FieldError{Field: "query", Problem: "has characters that cannot be printed"}
	}
	var f Filter
	last := "" // value of the predicate before
	for s := (scanner{text}); ; {
		s.space()
		if s.rest == "" {
			return f, nil
		}
		if len(f.predicates) == maxPredicates {
			return Filter{}, &FieldError{Field: "query", Problem: fmt.Sprintf("more than %d predicates", maxPredicates)}
		}
		name := s.word()
		op, values, err := s.predicate(name, last)
		if err != nil {
			return Filter{}, err
		}
		field, _, err := knownField(name)
		if err != nil {
			return Filter{}, err
		}
		if len(values) == 1 && values[0].any() {
			if op != OpEqual {
				return Filter{}, &FieldError{Field: name, Problem: values[0].text + " drops a predicate only with =", Nearest: name + "=" + values[0].text}
			}
			f = f.Without(field.Name)
			continue
		}
		p, err := newPredicate(name, op, values)
		if err != nil {
			return Filter{}, err
		}
		f = f.With(p)
		if f.values() > maxAllValues {
			return Filter{}, &FieldError{Field: "query", Problem: fmt.Sprintf("more than %d values", maxAllValues)}
		}
		last = values[len(values)-1].text
	}
}

func (f Filter) values() int {
	n := 0
	for _, p := range f.predicates {
		n += len(p.values)
	}
	return n
}

// NewPredicate makes a predicate from parts: a field's name, an operator as in [ParseFilter] and its values, more than
// one only with in and notin. Values are not quoted, and any and null are names like others. The error is a
// [*FieldError].
func NewPredicate(field, op string, values ...string) (Predicate, error) {
	o, ok := parseOp(op)
	if !ok {
		return Predicate{}, unknownOp(clipped(field), op)
	}
	var words []word
	for _, v := range values {
		words = append(words, word{text: v, quoted: true})
	}
	return newPredicate(field, o, words)
}

// newPredicate checks the parts of a predicate against its field.
func newPredicate(name string, op Op, values []word) (Predicate, error) {
	field, unit, err := knownField(name)
	if err != nil {
		return Predicate{}, err
	}
	bad := func(problem, nearest string) (Predicate, error) {
		return Predicate{}, &FieldError{Field: name, Problem: problem, Nearest: nearest}
	}
	list := op == OpIn || op == OpNotIn
	switch {
	case len(values) == 0 || len(values) > maxValues:
		return bad(fmt.Sprintf("%d values: want 1 to %d", len(values), maxValues), "")
	case len(values) > 1 && !list:
		return bad(fmt.Sprintf("%s takes one value, not a list", op), name+" in […]")
	case op >= OpLess && op <= OpAtLeast && !field.Kind.ordered():
		return bad(fmt.Sprintf("%s has no order: want =, !=, in or notin", field.Name), name+"="+clipped(values[0].text))
	}
	p := Predicate{field: field, op: op}
	for _, w := range values {
		if w.null() {
			if op != OpEqual && op != OpNot {
				return bad(w.text+" goes only with = and !=", name+"="+w.text)
			}
			p.values = append(p.values, value{null: true})
			continue
		}
		text := w.text
		if !w.quoted {
			text = strings.ReplaceAll(text, "_", " ")
		}
		if field.Kind == KindCountry && strings.EqualFold(text, EU) {
			for _, c := range EUMembers() {
				p.values = append(p.values, value{s: c})
			}
			continue
		}
		v, wrong := field.parse(text, unit)
		if wrong != nil {
			return bad(quoteClipped(w.text)+": "+wrong.problem, wrong.nearest)
		}
		if family := modelFamily(v.s); field.Kind == KindModel && len(family) > 0 {
			for _, m := range family {
				p.values = append(p.values, value{s: m})
			}
			continue
		}
		p.values = append(p.values, v)
	}
	if len(p.values) > 1 && !list { // a name that means several models or countries
		p.op += OpIn - OpEqual
	}
	return p, nil
}

// scanner reads a query from the left.
type scanner struct{ rest string }

// word is a value as it was written.
type word struct {
	text   string
	quoted bool
}

func (w word) any() bool  { return !w.quoted && (w.text == "any" || w.text == "*" || w.text == "?") }
func (w word) null() bool { return !w.quoted && (w.text == "null" || w.text == "None") }

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

func (s *scanner) space() { s.rest = strings.TrimLeftFunc(s.rest, isSpace) }

// take cuts what satisfies f off the front.
func (s *scanner) take(f func(rune) bool) string {
	i := strings.IndexFunc(s.rest, func(r rune) bool { return !f(r) })
	if i < 0 {
		i = len(s.rest)
	}
	taken := s.rest[:i]
	s.rest = s.rest[i:]
	return taken
}

func (s *scanner) word() string {
	return s.take(func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
	})
}

// predicate reads what follows a field's name. The value before, last, helps to explain what is no name.
func (s *scanner) predicate(name, last string) (Op, []word, error) {
	fail := func(field, problem, nearest string) (Op, []word, error) {
		return 0, nil, &FieldError{Field: field, Problem: problem, Nearest: nearest}
	}
	if name == "" {
		return fail("query", fmt.Sprintf("%s: want FIELD OPERATOR VALUE", quoteClipped(s.rest)), "")
	}
	if _, _, err := knownField(name); err != nil {
		switch digits, _ := cutUnit(last); {
		case strings.EqualFold(name, "or"):
			return fail("query", "there is no or: in takes a list of values", "FIELD in [A,B]")
		case strings.EqualFold(name, "and"):
			return fail("query", "predicates are joined by spaces, not by and", "")
		case digits != "" && digits == last && slices.ContainsFunc(byteUnits(), func(u unit) bool { return strings.EqualFold(u.name, name) }):
			return fail("query", "a unit follows its number without a space", last+name)
		}
		return 0, nil, err
	}
	s.space()
	op, err := s.operator(name)
	if err != nil {
		return 0, nil, err
	}
	s.space()
	values, isList, err := s.values(name)
	if err != nil {
		return 0, nil, err
	}
	if s.rest != "" && !isSpace(rune(s.rest[0])) {
		return fail(name, fmt.Sprintf("want a space before %s", quoteClipped(s.rest)), "")
	}
	switch list := op == OpIn || op == OpNotIn; {
	case list && !isList:
		return fail(name, strings.TrimSpace(op.String())+" takes a list", name+op.String()+"["+clipped(values[0].text)+"]")
	case isList && !list:
		return fail(name, op.String()+" takes one value, not a list", name+" in […]")
	}
	return op, values, nil
}

func (s *scanner) operator(name string) (Op, error) {
	sign := s.take(func(r rune) bool { return strings.ContainsRune("=<>!", r) })
	if sign == "" {
		before := s.rest
		sign = s.word()
		if sign == "not" {
			s.space()
			sign = "not " + s.word()
		}
		if s.rest != "" && !isSpace(rune(s.rest[0])) && s.rest[0] != '[' && s.rest[0] != '"' {
			s.rest = before
			sign = s.take(func(r rune) bool { return !isSpace(r) })
		}
	}
	if sign == "" {
		field, _, _ := fieldOf(name)
		nearest := name + "=…"
		if field.Kind == KindBool {
			nearest = name + "=true"
		}
		return 0, &FieldError{Field: name, Problem: "want an operator and a value", Nearest: nearest}
	}
	op, ok := parseOp(sign)
	if !ok {
		return 0, unknownOp(name, sign)
	}
	return op, nil
}

// operators are all spellings.
func operators() map[string]Op {
	return map[string]Op{
		"=": OpEqual, "==": OpEqual, "eq": OpEqual, "!=": OpNot, "neq": OpNot, "noteq": OpNot, "not eq": OpNot,
		"<": OpLess, "lt": OpLess, "<=": OpAtMost, "lte": OpAtMost, ">": OpMore, "gt": OpMore, ">=": OpAtLeast, "gte": OpAtLeast,
		"in": OpIn, "notin": OpNotIn, "nin": OpNotIn, "not in": OpNotIn,
	}
}

func parseOp(s string) (Op, bool) {
	op, ok := operators()[s]
	return op, ok
}

func unknownOp(field, op string) error {
	e := &FieldError{Field: field, Problem: quoteClipped(op) + " is no operator: want = != < <= > >= in or notin"}
	switch op {
	case "=>":
		e.Nearest = ">="
	case "=<":
		e.Nearest = "<="
	case "<>":
		e.Nearest = "!="
	default:
		e.Nearest = nearestWord(strings.ToLower(op), sortedKeys(operators()))
	}
	return e
}

// values reads one value, or a list.
func (s *scanner) values(name string) (values []word, list bool, err error) {
	fail := func(problem string) ([]word, bool, error) {
		return nil, false, &FieldError{Field: name, Problem: problem}
	}
	if !strings.HasPrefix(s.rest, "[") {
		w, err := s.value(name, "")
		return []word{w}, false, err
	}
	for end := byte(0); end != ']'; {
		s.rest = s.rest[1:]
		s.space()
		w, err := s.value(name, ",]")
		if err != nil {
			return nil, false, err
		}
		if w.any() || w.null() {
			return fail(w.text + " cannot be in a list")
		}
		values = append(values, w)
		s.space()
		if s.rest == "" || s.rest[0] != ',' && s.rest[0] != ']' {
			return fail("the list has no end: want ]")
		}
		end = s.rest[0]
	}
	s.rest = s.rest[1:]
	return values, true, nil
}

// value reads a word that ends at a space or at one of stops, or a quoted text.
func (s *scanner) value(name, stops string) (word, error) {
	if strings.HasPrefix(s.rest, `"`) {
		return s.quoted(name)
	}
	text := strings.TrimRightFunc(s.take(func(r rune) bool {
		return !strings.ContainsRune(stops, r) && (!isSpace(r) || stops != "")
	}), isSpace)
	switch {
	case text == "":
		return word{}, &FieldError{Field: name, Problem: "want a value"}
	case strings.ContainsAny(text, `"'[]<>=!\`):
		return word{}, &FieldError{
			Field: name, Problem: quoteClipped(text) + ": a value with any of \"'[]<>=!\\ must be in double quotes",
			Nearest: quote(strings.Trim(clipped(text), `'"`)),
		}
	}
	return word{text: text}, nil
}

func (s *scanner) quoted(name string) (word, error) {
	var text strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.rest = s.rest[i+1:]
			return word{text.String(), true}, nil
		case c == '\\' && i+1 < len(s.rest):
			i++
			text.WriteByte(s.rest[i])
		default:
			text.WriteByte(c)
		}
	}
	return word{}, &FieldError{Field: name, Problem: "the text has no end: want a double quote"}
}

// quote writes a text in double quotes.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// bare writes a text as a word where it can.
func bare(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(" .+-/:@", r)
	}) || strings.TrimSpace(s) != s || strings.Contains(s, "  ") || s == "" {
		return quote(s)
	}
	w := word{text: strings.ReplaceAll(s, " ", "_")}
	if w.any() || w.null() {
		return quote(s)
	}
	return w.text
}
