package vast

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"rialto/broker"
)

// pageQuery is which instances are wanted, of a few that an account has. Conditions compare cells as they are shown.
type pageQuery struct {
	where   []condition
	order   []sorting
	limit   int
	after   int64 // id of the last one of the page before; zero: from the start
	columns []string
}

// condition is a cell that has one of some values, or has none of them.
type condition struct {
	key    string
	values []any // texts and nil
	not    bool
}

// readPage reads the parameters of GET /api/v1/instances/, each of them JSON.
func readPage(p url.Values) (pageQuery, error) {
	q := pageQuery{limit: 25}
	for key := range p {
		if !slices.Contains([]string{"select_filters", "order_by", "limit", "after_token", "select_cols", "owner", "api_key"}, key) {
			return q, &broker.FieldError{Field: clipped(key), Problem: "this market does not know the parameter", Nearest: broker.Nearest(key, []string{"select_filters", "order_by", "limit", "after_token", "select_cols"})}
		}
		if len(p[key]) > 1 {
			return q, invalid(key, "comes twice")
		}
	}
	if s := p.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 500 {
			return q, invalid("limit", clipped(s)+": want 1 to 500")
		}
		q.limit = n
	}
	if s := p.Get("after_token"); s != "" {
		n, err := strconv.ParseInt(s, 36, 64)
		if err != nil || n <= 0 {
			return q, invalid("after_token", "not one of this market's")
		}
		q.after = n
	}
	if err := q.readColumns(p.Get("select_cols")); err != nil {
		return q, err
	}
	if err := q.readOrder(p.Get("order_by")); err != nil {
		return q, err
	}
	return q, q.readFilters(p.Get("select_filters"))
}

// cells are the columns of an instance.
func cells() []string {
	var out []string
	for _, c := range (&instance{}).row(time.Time{}) {
		out = append(out, c.key)
	}
	return out
}

func (q *pageQuery) readColumns(s string) error {
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), &q.columns); err != nil {
		return invalid("select_cols", clipped(s)+": want a list of columns")
	}
	for _, key := range q.columns {
		if key != "*" && !slices.Contains(cells(), key) {
			return &broker.FieldError{Field: "select_cols", Problem: clipped(key) + ": instances have no such column", Nearest: broker.Nearest(key, cells())}
		}
	}
	return nil
}

func (q *pageQuery) readOrder(s string) error {
	if s == "" {
		return nil
	}
	var by []struct{ Col, Dir string }
	if err := json.Unmarshal([]byte(s), &by); err != nil || len(by) > 8 {
		return invalid("order_by", clipped(s)+`: want columns such as [{"col":"id","dir":"asc"}]`)
	}
	for _, k := range by {
		if !slices.Contains(cells(), k.Col) {
			return &broker.FieldError{Field: "order_by", Problem: clipped(k.Col) + ": instances have no such column", Nearest: broker.Nearest(k.Col, cells())}
		}
		if k.Dir != "asc" && k.Dir != "desc" && k.Dir != "" {
			return invalid("order_by", clipped(k.Dir)+": want asc or desc")
		}
		q.order = append(q.order, sorting{key: k.Col, down: k.Dir == "desc"})
	}
	return nil
}

func (q *pageQuery) readFilters(s string) error {
	if s == "" {
		return nil
	}
	o, err := parseObject([]byte(s), "select_filters")
	if err != nil {
		return err
	}
	for _, m := range o {
		if !slices.Contains(cells(), m.key) {
			return &broker.FieldError{Field: clipped(m.key), Problem: "instances have no such column", Nearest: broker.Nearest(m.key, cells())}
		}
		ops, err := parseObject(m.raw, m.key)
		if err != nil {
			return err
		}
		for _, op := range ops {
			c := condition{key: m.key, not: op.key == "neq" || op.key == "notin"}
			switch op.key {
			case "eq", "neq":
				var one any
				if json.Unmarshal(op.raw, &one) != nil {
					return invalid(m.key, shown(op.raw)+": want a value")
				}
				c.values = []any{one}
			case "in", "notin":
				if json.Unmarshal(op.raw, &c.values) != nil {
					return invalid(m.key, shown(op.raw)+": want a list")
				}
			default:
				return invalid(m.key, clipped(op.key)+": instances are filtered with eq, neq, in and notin")
			}
			q.where = append(q.where, c)
		}
	}
	return nil
}

func (q *pageQuery) matches(r row) bool {
	for _, c := range q.where {
		has := r.value(c.key)
		hit := slices.ContainsFunc(c.values, func(v any) bool { return same(has, v) })
		if hit == c.not {
			return false
		}
	}
	return true
}

// same compares a cell with a value that was decoded from JSON.
func same(has, want any) bool {
	if has == nil || want == nil {
		return has == nil && want == nil
	}
	if a, ok := figure(has); ok {
		if b, ok := want.(float64); ok {
			return a == b
		}
	}
	return fmt.Sprint(has) == fmt.Sprint(want)
}
