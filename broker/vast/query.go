package vast

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"rialto/broker"
)

// query is a search as a client of Vast asks for it.
type query struct {
	bids    bool   // for interruptible instances
	diskMiB uint64 // of an instance: its price is in dph_total
	where   broker.Filter
	ids     []idFilter // on Vast's ids, which only this package knows
	order   []sorting
	limit   int
	columns []string
}

// idFilter is a condition on a cell that holds an id.
type idFilter struct {
	key string
	op  string // eq, neq, in, notin
	ids []int64
}

// sizes are the numbers of GPUs to look for; none means the usual ones.
func (q *query) sizes() []int {
	var out []int
	for _, f := range q.ids {
		if isOfferKey(f.key) && (f.op == "eq" || f.op == "in") {
			for _, id := range f.ids {
				if n := offerCount(id); n >= 1 && n <= maxGPUs && !slices.Contains(out, n) {
					out = append(out, n)
				}
			}
			if len(out) == 0 {
				return []int{1} // nothing will match
			}
		}
	}
	if len(out) > 0 {
		slices.Sort(out)
		return out
	}
	if q.where.Has("num_gpus") {
		for n := 1; n <= maxGPUs; n++ {
			out = append(out, n)
		}
	}
	return out
}

// shows reports whether an offer of whole GPUs is listed with n of them: with those numbers that are usual, and with any
// that is asked for.
func (q *query) shows(n, whole int) bool {
	for _, p := range q.where.Predicates() {
		if p.Field() == "num_gpus" && (p.Op() == broker.OpEqual || p.Op() == broker.OpIn) {
			return true
		}
	}
	for _, f := range q.ids {
		if isOfferKey(f.key) {
			return true
		}
	}
	return n&(n-1) == 0 || n == whole
}

// own reports whether a row has the ids that are asked for.
func (q *query) own(r row) bool {
	for _, f := range q.ids {
		id, ok := r.value(f.key).(int64)
		if has := ok && slices.Contains(f.ids, id); has != (f.op == "eq" || f.op == "in") {
			return false
		}
	}
	return true
}

func isOfferKey(key string) bool {
	return key == "id" || key == "ask_contract_id" || key == "bundle_id"
}

func isIDKey(key string) bool { return isOfferKey(key) || key == "machine_id" || key == "host_id" }

// readQuery reads the body of a search: filters and settings beside each other or, as PUT /search/asks/ and some clients
// of POST /bundles/ have it, in q.
func readQuery(body object) (query, error) {
	q := query{limit: maxRows, diskMiB: searchedDiskMiB}
	r := read(body)
	inner := body
	if raw := r.raw("q"); raw != nil {
		var err error
		if inner, err = parseObject(raw, "q"); err != nil {
			return q, err
		}
	}
	nested := body.has("q")
	for _, m := range inner {
		if isSetting(m.key) {
			continue
		}
		if err := q.filter(m); err != nil {
			return q, err
		}
	}
	if nested {
		if err := q.settings(read(inner)); err != nil {
			return q, err
		}
		if err := q.settings(r); err != nil {
			return q, err
		}
		return q, r.done()
	}
	return q, q.settings(r)
}

func isSetting(key string) bool {
	return slices.Contains([]string{"order", "type", "limit", "allocated_storage", "disable_bundling", "select_cols"}, key)
}

// settings reads what is no filter.
func (q *query) settings(r *reader) error {
	bids, err := interruptible(r.text("type", 64))
	if err != nil {
		return err
	}
	if q.bids = q.bids || bids; q.bids && slices.ContainsFunc([]string{"price", "base_price", "total_price"}, q.where.Has) {
		return invalid("dph_total", "an interruptible search compares no price on demand: its offers come by their least bid, the lowest first")
	}
	if n := r.count("limit", 1<<31); n > 0 {
		q.limit = int(n)
	}
	q.diskMiB = cmp.Or(r.disk("allocated_storage"), q.diskMiB)
	r.truth("disable_bundling") // nothing is bundled
	for _, key := range r.texts("select_cols") {
		if key != "*" && !slices.Contains(columns(), key) {
			return &broker.FieldError{Field: "select_cols", Problem: clipped(key) + ": Vast's offers have no such field", Nearest: broker.Nearest(key, columns())}
		}
		q.columns = append(q.columns, key)
	}
	if raw := r.raw("order"); raw != nil {
		by, err := readOrder(raw)
		if err != nil {
			return err
		}
		q.order = by
	}
	return r.err
}

// readOrder reads [["dph_total","asc"],["score","desc"]]. By score is as the market ranks: cheapest first.
func readOrder(raw json.RawMessage) ([]sorting, error) {
	var pairs [][]string
	if err := json.Unmarshal(raw, &pairs); err != nil || len(pairs) > 8 {
		return nil, invalid("order", shown(raw)+`: want at most eight pairs, such as [["dph_total","asc"]]`)
	}
	var out []sorting
	for _, p := range pairs {
		if len(p) != 2 || p[1] != "asc" && p[1] != "desc" {
			return nil, invalid("order", fmt.Sprintf("%.80q: want a field and asc or desc", p))
		}
		key := alias(p[0])
		if key == "score" {
			out = append(out, sorting{key: "dph_total", down: p[1] == "asc"})
			continue
		}
		if !isIDKey(key) && !isOwn(key) {
			if _, err := broker.ParseOrder(key); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(columns(), key) {
			return nil, &broker.FieldError{Field: "order", Problem: clipped(key) + ": Vast's offers have no such field", Nearest: broker.Nearest(key, columns())}
		}
		out = append(out, sorting{key: key, down: p[1] == "desc"})
	}
	return out, nil
}

// isOwn reports whether offers can be ordered by a cell though the market's language does not have it as it is shown.
func isOwn(key string) bool {
	return slices.Contains([]string{"direct_port_count", "min_bid", "verification"}, key)
}

// columns are the cells of an offer.
func columns() []string {
	var out []string
	m := broker.Match{Offer: broker.Offer{GPUs: make([]broker.GPU, 1)}}
	for _, c := range offerRow(&m, 1, searchedDiskMiB, true, false) {
		out = append(out, c.key)
	}
	return out
}

// alias is the name that Vast's server uses for a field.
func alias(key string) string {
	names := map[string]string{
		"dph": "dph_total", "dphtotal": "dph_total", "cuda_vers": "cuda_max_good", "display_active": "gpu_display_active",
		"dlperf_usd": "dlperf_per_dphtotal", "flops_usd": "flops_per_dphtotal", "gpu_totalram": "gpu_total_ram",
		"ubuntu_version": "os_version", "compute_capability": "compute_cap",
	}
	if name, ok := names[key]; ok {
		return name
	}
	return key
}

// filter adds the conditions on one field.
func (q *query) filter(m member) error {
	if !regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`).MatchString(m.key) {
		return invalid(clipped(m.key), "no such field of an offer")
	}
	ops, err := parseObject(m.raw, m.key)
	if err != nil && strings.HasPrefix(string(m.raw), "{") {
		return err
	}
	if err != nil {
		return &broker.FieldError{Field: m.key, Problem: shown(m.raw) + `: want operators with values, such as {"gte":24000}`, Nearest: broker.Nearest(m.key, settingNames())}
	}
	for _, op := range ops {
		if isIDKey(m.key) {
			err = q.idFilter(m.key, op)
		} else {
			err = q.predicate(m.key, op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func settingNames() []string { return []string{"order", "type", "limit", "allocated_storage", "q"} }

func (q *query) idFilter(key string, op member) error {
	var list []json.RawMessage
	switch op.key {
	case "eq", "neq":
		if isAny(op.raw) {
			return nil
		}
		list = []json.RawMessage{op.raw}
	case "in", "notin":
		if err := json.Unmarshal(op.raw, &list); err != nil || len(list) > maxKeys {
			return invalid(key, shown(op.raw)+": want a list of ids")
		}
	default:
		return invalid(key, clipped(op.key)+": an id is compared with eq, neq, in or notin")
	}
	f := idFilter{key: key, op: op.key}
	for _, raw := range list {
		id, err := whole(raw)
		if err != nil {
			return invalid(key, err.Error())
		}
		f.ids = append(f.ids, id)
	}
	q.ids = append(q.ids, f)
	return nil
}

// isAny reports whether a value is the wildcard that drops a filter, which some clients send as it is.
func isAny(raw json.RawMessage) bool {
	return slices.Contains([]string{`"any"`, `"*"`, `"?"`}, string(raw))
}

// predicate adds one condition in the market's language.
func (q *query) predicate(key string, op member) error {
	if op.key == "eq" && isAny(op.raw) {
		q.where = q.where.Without(key)
		return nil
	}
	key, raw, err := native(key, op.raw)
	if err != nil {
		return err
	}
	if string(raw) == "null" {
		if op.key != "eq" && op.key != "neq" {
			return invalid(key, "null goes only with eq and neq")
		}
		parsed, err := broker.ParseFilter(key + " " + op.key + " null")
		if err != nil {
			return err
		}
		for _, p := range parsed.Predicates() {
			q.where = q.where.With(p)
		}
		return nil
	}
	list := []json.RawMessage{raw}
	if op.key == "in" || op.key == "notin" {
		if list = nil; json.Unmarshal(raw, &list) != nil {
			return invalid(key, shown(raw)+": want a list")
		}
	}
	var values []string
	for _, item := range list {
		v, err := scalar(key, item)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	p, err := broker.NewPredicate(key, op.key, values...)
	if err != nil {
		return err
	}
	q.where = q.where.With(p)
	return nil
}

// native is a field of Vast's that the market's language has under another name, or with other values.
func native(key string, raw json.RawMessage) (string, json.RawMessage, error) {
	switch key {
	case "min_bid":
		return key, nil, invalid(key, "it is that of all GPUs of an offer, and the market compares that of one: search with type bid, whose offers come by it")
	case "cpu_cores":
		return "cpus", raw, nil // an offer shows no more of its host than a job gets
	case "verification":
		switch string(raw) {
		case `"verified"`, `["verified"]`:
			return "verified", json.RawMessage(strings.Replace(string(raw), `"verified"`, "true", 1)), nil
		case `"unverified"`, `["unverified"]`:
			return "verified", json.RawMessage(strings.Replace(string(raw), `"unverified"`, "false", 1)), nil
		}
		return key, nil, invalid(key, shown(raw)+": want verified or unverified")
	}
	return key, raw, nil
}

// scalar writes a value as the market's language reads it. Numbers may come as text.
func scalar(key string, raw json.RawMessage) (string, error) {
	text := strings.TrimSpace(string(raw))
	if text == "true" || text == "false" {
		return text, nil
	}
	var s string
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", invalid(key, shown(raw)+": not a text")
		}
		if isNumberText(s) && !isVersionKey(key) {
			if n, err := decimal(raw); err == nil {
				s = n
			}
		}
	} else {
		n, err := decimal(raw)
		if err != nil {
			return "", invalid(key, err.Error())
		}
		s = n
	}
	if unit, ok := units()[key]; ok && isNumberText(s) {
		s += unit
	}
	return s, nil
}

// units are those of sizes on Vast's wire, where the market's language has another for a bare number.
func units() map[string]string {
	return map[string]string{"cpu_ram": "MB", "gpu_ram": "MB", "gpu_total_ram": "MB", "gpu_totalram": "MB", "disk_space": "GiB"}
}

// isVersionKey reports whether a text of digits and dots is no number.
func isVersionKey(key string) bool {
	return slices.Contains([]string{"driver_version", "driver_vers", "driver", "agent", "cuda_max_good", "cuda_vers", "cuda"}, key)
}

func isNumberText(s string) bool { return s != "" && strings.Trim(s, "0123456789.") == "" }
