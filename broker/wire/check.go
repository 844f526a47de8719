package wire

import (
	"fmt"
	"math"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rialto/broker"
	"rialto/p2p/identity"
	"rialto/pricing"
	"rialto/tunnel"
)

// checker holds decoded values to their rules. Each method returns the value that it was given, in the
// vocabulary's type; the first broken rule is kept, with the path of its field.
type checker struct {
	path  string
	first *error
}

func (c checker) failf(field, format string, args ...any) {
	if *c.first == nil {
		*c.first = fmt.Errorf("%s%s: %s: %w", c.path, field, fmt.Sprintf(format, args...), broker.ErrInvalid)
	}
}

// in returns the checker for the fields of a message in the given field.
func (c checker) in(field string) checker { return checker{path: c.path + field + ".", first: c.first} }

// list decodes a list of at most limit items. It stops at the first broken rule, so that a bad message costs little.
func list[M, X any](c checker, field string, items []M, limit int, decode func(c checker, field string, item M) X) []X {
	if len(items) > limit {
		c.failf(field, "%d items, at most %d", len(items), limit)
	}
	var out []X
	for i, item := range items {
		if *c.first != nil {
			return nil
		}
		out = append(out, decode(c, fmt.Sprintf("%s[%d]", field, i), item))
	}
	return out
}

// messages is list for embedded messages.
func messages[M, X any](c checker, field string, items []M, limit int, decode func(checker, M) X) []X {
	return list(c, field, items, limit, func(c checker, field string, m M) X { return decode(c.in(field), m) })
}

// each encodes a list.
func each[X, M any](items []X, encode func(X) M) []M {
	var out []M
	for _, item := range items {
		out = append(out, encode(item))
	}
	return out
}

// raw takes text that a program reads: anything but NUL, which ends a C string early.
func (c checker) raw(field, s string, limit int) string {
	switch {
	case len(s) > limit:
		c.failf(field, "%d bytes, at most %d", len(s), limit)
	case strings.IndexByte(s, 0) >= 0:
		c.failf(field, "contains a NUL byte")
	}
	return s
}

// label takes one line of text that will be shown to people or logged. Control characters and invisible ones
// are refused: they would let a stranger write over a terminal's lines.
func (c checker) label(field, s string, limit int) string {
	if len(s) > limit {
		c.failf(field, "%d bytes, at most %d", len(s), limit)
	} else if i := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		c.failf(field, "character at byte %d is not printable", i)
	}
	return s
}

// name is a label that must not be empty.
func (c checker) name(field, s string) string {
	if s == "" {
		c.failf(field, "missing")
	}
	return c.label(field, s, maxName)
}

// word is a name that may be empty.
func (c checker) word(field, s string) string { return c.label(field, s, maxName) }

// message takes text for people as clean leaves it.
func (c checker) message(field, s string) string {
	if clean(s) != s {
		c.failf(field, "too long or not printable")
	}
	return s
}

// clean makes any bytes fit to be a message: valid UTF-8, printable but for line ends and tabs, and cut to length.
func clean(s string) string {
	const ellipsis = "…"
	cut := len(s) > maxMessage
	if cut {
		s = s[:maxMessage]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', unicode.IsPrint(r) && r != utf8.RuneError:
			return r
		default:
			return '?'
		}
	}, s)
	// Each replacement is one byte for at least one, so s did not grow.
	if cut {
		for s = s[:min(len(s), maxMessage-len(ellipsis))]; !utf8.ValidString(s); {
			s = s[:len(s)-1]
		}
		s += ellipsis
	}
	return s
}

// id takes one of our own ids: its letter, a dash and 26 characters of lower-case base32.
func (c checker) id(field, s string, letter byte) string {
	ok := len(s) == 28 && s[0] == letter && s[1] == '-'
	for i := 2; ok && i < len(s); i++ {
		ok = s[i] >= 'a' && s[i] <= 'z' || s[i] >= '2' && s[i] <= '7'
	}
	if !ok {
		c.failf(field, "%.40q is not %q and 26 characters of lower-case base32", s, string(letter)+"-")
	}
	return s
}

func (c checker) job(s string) broker.JobID     { return broker.JobID(c.id("job", s, 'j')) }
func (c checker) lease(s string) broker.LeaseID { return broker.LeaseID(c.id("lease", s, 'l')) }

func (c checker) peer(field, s string) broker.PeerID {
	if _, err := identity.ParseID(s); err != nil {
		c.failf(field, "%v", err)
	}
	return broker.PeerID(s)
}

// anyPeer takes a peer id or none.
func (c checker) anyPeer(field, s string) broker.PeerID {
	if s == "" {
		return ""
	}
	return c.peer(field, s)
}

// digest takes the digest of an OCI manifest.
func (c checker) digest(field, s string) string {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		c.failf(field, "%.80q is not sha256: and 64 lower-case hex digits", s)
	}
	return s
}

// cid takes what looks like the text of a CID. Whether it is one, its user finds out.
func (c checker) cid(field, s string) string {
	if s == "" || len(s) > maxCID || strings.ContainsFunc(s, notAlphanumeric) {
		c.failf(field, "%.40q is not a CID", s)
	}
	return s
}

// anyCID takes a CID or none.
func (c checker) anyCID(field, s string) string {
	if s == "" {
		return ""
	}
	return c.cid(field, s)
}

func notAlphanumeric(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}

// address takes a multiaddr or host:port: printable and not empty. Whoever dials it parses it.
func (c checker) address(field, s string) string {
	if s == "" || strings.IndexByte(s, ' ') >= 0 {
		c.failf(field, "%.40q is not an address", s)
	}
	return c.label(field, s, maxAddr)
}

func addresses(c checker, field string, items []string) []string {
	return list(c, field, items, maxAddrs, checker.address)
}

// region takes an ISO 3166-1 alpha-2 code or none.
func (c checker) region(field, s string) string {
	if s != "" && (len(s) != 2 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
		c.failf(field, "%.8q is not two capital letters", s)
	}
	return s
}

// absolute takes the absolute path of a folder in a container.
func (c checker) absolute(field, s string) string {
	if !path.IsAbs(s) {
		c.failf(field, "%.80q is not an absolute path", s)
	}
	return c.raw(field, s, maxPath)
}

func (c checker) tunnelKey(field string, b []byte) tunnel.Key {
	var k tunnel.Key
	if len(b) != len(k) {
		c.failf(field, "%d bytes, want %d", len(b), len(k))
		return k
	}
	if k = tunnel.Key(b); k.IsZero() {
		c.failf(field, "missing")
	}
	return k
}

// envelope takes another message's envelope, still sealed, or nothing.
func (c checker) envelope(field string, b []byte, limit int) []byte {
	if len(b) > limit {
		c.failf(field, "%d bytes, at most %d", len(b), limit)
	}
	if len(b) == 0 {
		return nil
	}
	return b
}

func (c checker) integer(field string, n int32, low, high int) int {
	if int(n) < low || int(n) > high {
		c.failf(field, "%d is not within %d and %d", n, low, high)
	}
	return int(n)
}

func (c checker) size(field string, n, high uint64) uint64 {
	if n > high {
		c.failf(field, "%d is more than %d", n, high)
	}
	return n
}

func (c checker) count(field string, n int64) int64 {
	if n < 0 {
		c.failf(field, "%d is less than zero", n)
	}
	return n
}

func (c checker) rate(field string, n int64) pricing.Rate { return pricing.Rate(c.count(field, n)) }

func (c checker) money(field string, n int64) pricing.Money { return pricing.Money(c.count(field, n)) }

func (c checker) duration(field string, n int64) time.Duration {
	return time.Duration(c.count(field, n))
}

// ttl takes a duration that is more than zero.
func (c checker) ttl(field string, n int64) time.Duration {
	if n == 0 {
		c.failf(field, "missing")
	}
	return c.duration(field, n)
}

// instant takes a time, zero for none.
func (c checker) instant(field string, n int64) time.Time {
	if c.count(field, n) == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// nanos encodes a time. What cannot be said in nanoseconds since 1970, more than none and less than 2^63, becomes -1,
// which instant refuses.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case !t.After(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)):
		return -1
	default:
		return t.UnixNano()
	}
}

// narrow encodes an int. What int32 cannot say becomes the least int32, which every limit refuses.
func narrow(n int) int32 {
	if n < math.MinInt32 || n > math.MaxInt32 {
		return math.MinInt32
	}
	return int32(n)
}
