package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"rialto/broker"
)

// Problem is an error as it crosses the wire: RFC 9457, application/problem+json.
type Problem struct { //nolint:errname // RFC 9457 calls it so
	Type    string         `json:"type" doc:"about:blank, or rialto: and a word that programs can act on"`
	Title   string         `json:"title"`
	Status  int            `json:"status"`
	Detail  string         `json:"detail" doc:"for people: what was wrong"`
	Field   string         `json:"field,omitempty" doc:"the offending field"`
	Nearest string         `json:"nearest,omitempty" doc:"the nearest valid field or value"`
	Errors  []FieldProblem `json:"errors,omitempty" doc:"when more than one field is wrong"`
	Search  *Offers        `json:"search,omitempty" doc:"with rialto:no-offer: why nothing matches"`
}

// FieldProblem is what is wrong with one field.
type FieldProblem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Nearest string `json:"nearest,omitempty"`
}

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = strings.ToLower(p.Title)
	}
	if p.Nearest != "" && !strings.Contains(s, p.Nearest) {
		s += fmt.Sprintf(" (did you mean %q?)", p.Nearest)
	}
	return s
}

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (*Problem) ContentType(string) string { return "application/problem+json" }

// Is makes a problem that came over the wire match the broker's errors.
func (p *Problem) Is(target error) bool {
	for _, k := range kinds() {
		if p.Type == k.word && target == k.err {
			return true
		}
	}
	return false
}

type kind struct {
	err    error
	word   string
	status int
}

// kinds says how the market's errors cross the wire; the first that matches counts.
func kinds() []kind {
	return []kind{
		{broker.ErrNoOffer, "rialto:no-offer", http.StatusConflict},
		{broker.ErrNoFunds, "rialto:no-funds", http.StatusPaymentRequired},
		{broker.ErrJobTerminal, "rialto:job-ended", http.StatusConflict},
		{broker.ErrFencedEpoch, "rialto:stale-epoch", http.StatusConflict},
		{broker.ErrConflict, "rialto:conflict", http.StatusConflict},
		{broker.ErrNotFound, "rialto:not-found", http.StatusNotFound},
		{broker.ErrLimit, "rialto:limit", http.StatusForbidden},
		{broker.ErrForbidden, "rialto:forbidden", http.StatusForbidden},
		{broker.ErrUnavailable, "rialto:unavailable", http.StatusServiceUnavailable},
		{broker.ErrInvalid, "rialto:invalid", http.StatusUnprocessableEntity},
	}
}

func problem(status int, word, detail string) *Problem {
	if word == "" {
		word = "about:blank"
	}
	return &Problem{Type: word, Title: http.StatusText(status), Status: status, Detail: detail}
}

// problemOf turns an error of the market into a Problem. What has no kind is ours: its text stays in the log.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	for _, k := range kinds() {
		if !errors.Is(err, k.err) {
			continue
		}
		p := problem(k.status, k.word, err.Error())
		if f, ok := errors.AsType[*broker.FieldError](err); ok {
			p.Field, p.Nearest = f.Field, f.Nearest
		}
		if no, ok := errors.AsType[*broker.NoOfferError](err); ok {
			p.Search = new(offersOf(no.Search))
			p.Search.Busy = []Offer{} // how many there are says waiting
		}
		return p
	}
	return problem(http.StatusInternalServerError, "", "the broker could not answer; its log says why")
}

// transform turns the framework's validation errors into Problems that name the field and its nearest
// valid neighbour.
func (s *Server) transform(ctx huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*Problem); ok {
		out := *p
		out.Status = statusOf(ctx, p.Status)
		out.Title = http.StatusText(out.Status)
		return &out, nil
	}
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problem(statusOf(ctx, m.Status), "", m.Detail)
	for _, e := range m.Errors {
		f := FieldProblem{Field: fieldName(e.Location), Message: e.Message}
		if e.Message == validation.MsgUnexpectedProperty {
			where, name := cutLast(e.Location)
			f.Nearest = nearest(name, s.fieldsOf(ctx.Operation(), where))
			f.Message = "not known"
		}
		p.Errors = append(p.Errors, f)
	}
	if len(p.Errors) > 0 {
		p.Type = "rialto:invalid"
		first := p.Errors[0]
		p.Field, p.Nearest = first.Field, first.Nearest
		p.Detail = strings.TrimSpace(first.Field + ": " + first.Message)
		if first.Field == "" {
			p.Detail = first.Message
		}
		if len(p.Errors) == 1 {
			p.Errors = nil
		}
	}
	return p, nil
}

// addressed is a request without a body: all of it is in its address.
type (
	inner     = huma.Context // which has a method of its type's name
	addressed struct{ inner }
)

// SetStatus implements huma.Context.
func (c addressed) SetStatus(status int) { c.inner.SetStatus(statusOf(c, status)) }

// Unwrap is for the framework's adapters.
func (c addressed) Unwrap() huma.Context { return c.inner }

// statusOf makes what cannot be processed of a request without a body a bad request, as a parameter that is not known is:
// 422 is for a body that can be read and makes no sense.
func statusOf(ctx huma.Context, status int) int {
	if status == http.StatusUnprocessableEntity && ctx.Operation().Method == http.MethodGet {
		return http.StatusBadRequest
	}
	return status
}

func badRequests(ctx huma.Context, next func(huma.Context)) { next(addressed{ctx}) }

// strictQuery refuses parameters that an operation does not have, and one that is given twice where it counts once:
// what is not read must not look as if it were.
func (s *Server) strictQuery(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		s.refuse(ctx, problem(http.StatusBadRequest, "rialto:invalid", "the query of the URL: "+err.Error()))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(ctx.Operation().Parameters, func(p *huma.Param) bool { return p.In == "query" && p.Name == name })
		p := problem(http.StatusBadRequest, "rialto:invalid", "")
		p.Field = "query." + name
		switch {
		case i < 0:
			p.Nearest = nearest(name, s.fieldsOf(ctx.Operation(), "query"))
			p.Detail = fmt.Sprintf("query.%.200s: not known", name)
		case len(given[name]) > 1 && ctx.Operation().Parameters[i].Schema.Type != huma.TypeArray:
			p.Detail = p.Field + ": given twice"
		default:
			continue
		}
		s.refuse(ctx, p)
		return
	}
	next(ctx)
}

// fieldName drops the framework's "body." but keeps "query.", "header." and "path.".
func fieldName(location string) string {
	return strings.TrimPrefix(strings.TrimPrefix(location, "body."), "body")
}

func cutLast(location string) (where, name string) {
	i := strings.LastIndexByte(location, '.')
	return location[:max(i, 0)], location[i+1:]
}

// fieldsOf lists the valid names at a place of a request.
func (s *Server) fieldsOf(op *huma.Operation, where string) []string {
	var names []string
	if where == "query" {
		for _, p := range op.Parameters {
			if p.In == where {
				names = append(names, p.Name)
			}
		}
		return names
	}
	if op.RequestBody == nil {
		return nil
	}
	for _, media := range op.RequestBody.Content {
		schema := media.Schema
		if schema != nil && schema.Ref != "" {
			schema = s.api.OpenAPI().Components.Schemas.SchemaFromRef(schema.Ref)
		}
		if schema != nil {
			names = slices.AppendSeq(names, maps.Keys(schema.Properties))
		}
	}
	slices.Sort(names)
	return names
}

// nearest returns the candidate that needs the fewest edits to become s, or "" when none is near: more
// than a third of the longer word would have to change.
func nearest(s string, candidates []string) string {
	best, bestCost := "", 0
	for _, c := range candidates {
		cost := distance(s, c)
		if cost*3 > max(len(s), len(c)) {
			continue
		}
		if best == "" || cost < bestCost || cost == bestCost && c < best {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance is the Levenshtein distance over bytes; field names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
