package vast

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"rialto/broker"
	"rialto/pricing"
)

// maxKeys bounds an object's members.
const maxKeys = 256

// object is a JSON object whose members are not decoded yet, in order.
type object []member

type member struct {
	key string
	raw json.RawMessage
}

// parseObject reads an object. A key that comes twice is refused: the JSON decoder would drop the first one silently.
func parseObject(raw []byte, what string) (object, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, invalid(what, "want a JSON object")
	}
	var o object
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil, invalid(what, "want a JSON object")
		}
		if seen[key] {
			return nil, invalid(clipped(key), "comes twice in "+what)
		}
		if seen[key] = true; len(o) == maxKeys {
			return nil, invalid(what, fmt.Sprintf("more than %d keys", maxKeys))
		}
		m := member{key: key}
		if err := d.Decode(&m.raw); err != nil {
			return nil, invalid(clipped(key), "its value is not JSON")
		}
		o = append(o, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, invalid(what, "the JSON object has no end")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid(what, "data after the JSON object")
	}
	return o, nil
}

func (o object) has(key string) bool {
	return slices.ContainsFunc(o, func(m member) bool { return m.key == key })
}

// reader takes an object apart. The first problem is kept.
type reader struct {
	in    object
	asked map[string]bool
	err   error
}

func read(o object) *reader { return &reader{in: o, asked: map[string]bool{}} }

func (r *reader) fail(key, problem string) {
	if r.err == nil {
		r.err = invalid(key, problem)
	}
}

// raw returns a member's value, nil if it is missing or null.
func (r *reader) raw(key string) json.RawMessage {
	r.asked[key] = true
	for _, m := range r.in {
		if m.key == key && string(m.raw) != "null" {
			return m.raw
		}
	}
	return nil
}

// text returns a member's text, empty if it is missing or null.
func (r *reader) text(key string, most int) string {
	raw := r.raw(key)
	if raw == nil {
		return ""
	}
	var s string
	switch err := json.Unmarshal(raw, &s); {
	case err != nil:
		r.fail(key, shown(raw)+": want text")
	case len(s) > most:
		r.fail(key, fmt.Sprintf("longer than %d bytes", most))
	default:
		return s
	}
	return ""
}

// texts returns a member's list of texts, nil if it is missing or null.
func (r *reader) texts(key string) []string {
	raw := r.raw(key)
	if raw == nil {
		return nil
	}
	list := []string{}
	if err := json.Unmarshal(raw, &list); err != nil {
		r.fail(key, shown(raw)+": want a list of texts")
		return nil
	}
	return list
}

// numbers returns a member's list of ids, nil if it is missing or null.
func (r *reader) numbers(key string) []int64 {
	raw := r.raw(key)
	if raw == nil {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) > maxKeys {
		r.fail(key, fmt.Sprintf("want a list of at most %d ids", maxKeys))
		return nil
	}
	var out []int64
	for _, item := range list {
		n, err := whole(item)
		if err != nil {
			r.fail(key, err.Error())
			return nil
		}
		out = append(out, n)
	}
	return out
}

// truth returns a member's truth, false if it is missing or null.
func (r *reader) truth(key string) bool {
	raw := r.raw(key)
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "", "false":
		return false
	case "true":
		return true
	}
	r.fail(key, shown(raw)+": want true or false")
	return false
}

// rational returns a member's number, written as a number or as text, and whether there is one.
func (r *reader) rational(key string) (*big.Rat, bool) {
	raw := r.raw(key)
	if raw == nil {
		return nil, false
	}
	s, err := decimal(raw)
	if err != nil {
		r.fail(key, err.Error())
		return nil, false
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok || n.Sign() < 0 {
		r.fail(key, shown(raw)+": want a number that is not negative")
		return nil, false
	}
	return n, true
}

// count returns a member's whole number, zero if it is missing or null.
func (r *reader) count(key string, most int64) int64 {
	raw := r.raw(key)
	if raw == nil {
		return 0
	}
	n, err := whole(raw)
	if err != nil || n < 0 || n > most {
		r.fail(key, fmt.Sprintf("%s: want a whole number from 0 to %d", shown(raw), most))
		return 0
	}
	return n
}

// absent refuses a member that says anything but the nothing that clients send by default.
func (r *reader) absent(key, why string) {
	switch raw := r.raw(key); strings.TrimSpace(string(raw)) {
	case "", "false", `""`, "{}", "[]", "0", "0.0":
	default:
		r.fail(key, why)
	}
}

// done returns the first problem; a member that nobody asked for is one.
func (r *reader) done() error {
	if r.err != nil {
		return r.err
	}
	for _, m := range r.in {
		if !r.asked[m.key] {
			return &broker.FieldError{
				Field: clipped(m.key), Problem: "this market does not know the key",
				Nearest: broker.Nearest(m.key, slices.Sorted(maps.Keys(r.asked))),
			}
		}
	}
	return nil
}

// decimal returns a JSON number or a text with one, without exponent.
func decimal(raw json.RawMessage) (string, error) {
	s := strings.TrimSpace(string(raw))
	if unquoted, err := strconv.Unquote(s); err == nil && strings.HasPrefix(s, `"`) {
		s = strings.TrimSpace(unquoted)
	}
	if len(s) > 32 || s == "" || strings.Trim(s, "0123456789+-.eE") != "" {
		return "", fmt.Errorf("%s: want a number", shown(raw))
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(s), "e"); ok {
		if n, err := strconv.Atoi(exponent); err != nil || n < -30 || n > 30 {
			return "", fmt.Errorf("%s: want a number", shown(raw))
		}
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return "", fmt.Errorf("%s: want a number", shown(raw))
	}
	if n.IsInt() {
		return n.Num().String(), nil
	}
	return strings.TrimRight(n.FloatString(30), "0"), nil
}

// whole returns a whole number, written as a number or as text.
func whole(raw json.RawMessage) (int64, error) {
	s, err := decimal(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: want a whole number", shown(raw))
	}
	return n, nil
}

// pathID reads an id that is part of the path.
func (c *call) pathID() (int64, error) {
	n, err := strconv.ParseInt(c.PathValue("id"), 10, 64)
	if err != nil || n <= 0 || n >= 1<<53 {
		return 0, invalid("id", strconv.Quote(clipped(c.PathValue("id")))+": want a whole number below 2^53")
	}
	return n, nil
}

// dollars is an amount in dollars, exactly.
func dollars(nano int64) json.Number {
	s := strings.TrimPrefix(pricing.Money(nano).String(), "$")
	return json.Number(strings.ReplaceAll(s, ",", ""))
}

// shown quotes what a client sent, short.
func shown(raw json.RawMessage) string { return clipped(strings.ToValidUTF8(string(raw), "?")) }

// clipped keeps what a client sent short in messages.
func clipped(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
