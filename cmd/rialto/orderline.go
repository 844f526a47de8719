package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// orderLine is a standing order as a person says it: parts between commas, in any order, each at most once, such as
//
//	4x24GiB, EU, <= 0.35/GPU-h, <= 20 total, for 6h, until Friday
//
// [N x] SIZE or MODEL says which GPUs, two letters say where, <= PRICE/h the limit for a GPU, <= MONEY total the most in
// all, for DURATION how long the job may run, until TIME how long the order stands. The GPUs, the limit and the time
// must be there.
type orderLine struct {
	gpu      broker.GPURequest
	gpuMiB   uint64
	region   string
	maxRate  pricing.Rate
	maxCost  pricing.Money
	duration time.Duration
	until    time.Time
}

// maxLine bounds the text of an order, in bytes.
const maxLine = 256

// lineError says which part of an order's line is wrong.
func lineError(part, format string, args ...any) error {
	return fmt.Errorf("order %q: %s", clip(part), fmt.Sprintf(format, args...))
}

func clip(s string) string { return s[:min(len(s), 64)] }

// parseOrderLine reads a line. Times are those of now's place.
func parseOrderLine(line string, now time.Time) (orderLine, error) {
	var o orderLine
	if len(line) > maxLine {
		return o, lineError(line, "longer than %d bytes", maxLine)
	}
	seen := make(map[string]string)
	for part := range strings.SplitSeq(line, ",") {
		part = strings.TrimSpace(part)
		kind, err := o.read(part, now)
		if err != nil {
			return orderLine{}, err
		}
		if other, twice := seen[kind]; twice {
			return orderLine{}, lineError(part, "%s was said already: %q", kind, clip(other))
		}
		seen[kind] = part
	}
	for _, need := range []struct{ kind, example string }{{"which GPUs", "4x24GiB or 2x RTX 4090"}, {"the limit", "<= 0.35/h"}, {"how long it stands", "until Friday"}} {
		if _, ok := seen[need.kind]; !ok {
			return orderLine{}, lineError(line, "%s is missing, such as %s", need.kind, need.example)
		}
	}
	return o, nil
}

// read takes one part, and says of what kind it is.
func (o *orderLine) read(part string, now time.Time) (kind string, err error) {
	word, rest, _ := strings.Cut(part, " ")
	switch bound, most := cutBound(part); {
	case part == "":
		return "", lineError(part, "nothing between commas")
	case most && strings.Contains(bound, "/"):
		price := regexp.MustCompile(`(?i)/\s*GPU-?h(our)?$`).ReplaceAllString(bound, "/h")
		if o.maxRate, err = pricing.ParseRate(price); err == nil && o.maxRate <= 0 {
			err = fmt.Errorf("the limit is zero")
		}
		return "the limit", partError(part, err)
	case most:
		money := strings.TrimSpace(regexp.MustCompile(`(?i)\s+(total|in all|in total)$`).ReplaceAllString(bound, ""))
		if o.maxCost, err = pricing.ParseMoney(money); err == nil && o.maxCost <= 0 {
			err = fmt.Errorf("the most in all is zero")
		}
		return "the most in all", partError(part, err)
	case strings.EqualFold(word, "until"):
		o.until, err = parseUntil(strings.TrimSpace(rest), now)
		return "how long it stands", partError(part, err)
	case strings.EqualFold(word, "for"):
		o.duration, err = cli.ParseDuration(strings.TrimSpace(rest))
		return "how long the job runs", partError(part, err)
	case regexp.MustCompile(`^[A-Za-z]{2}$`).MatchString(part):
		o.region, err = parseRegion(part)
		return "where", partError(part, err)
	default:
		return "which GPUs", partError(part, o.readGPUs(part))
	}
}

func partError(part string, err error) error {
	if err == nil {
		return nil
	}
	return lineError(part, "%v", err)
}

// cutBound cuts what says "at most" off a part.
func cutBound(part string) (rest string, ok bool) {
	for _, sign := range []string{"<=", "≤", "at most "} {
		if after, found := strings.CutPrefix(part, sign); found {
			return strings.TrimPrefix(strings.TrimSpace(after), "$"), true
		}
	}
	return "", false
}

// readGPUs reads "4x24GiB", "2 x RTX 4090", "24GiB" or "RTX 4090".
func (o *orderLine) readGPUs(part string) error {
	o.gpu = broker.GPURequest{Model: broker.AnyModel, Count: 1}
	if m := regexp.MustCompile(`^(\d{1,3})\s*[x×]\s*(.+)$`).FindStringSubmatch(part); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n < 1 || n > maxGPUs {
			return fmt.Errorf("%s GPUs: want 1 to %d on one host", m[1], maxGPUs)
		}
		o.gpu.Count, part = n, m[2]
	}
	if regexp.MustCompile(`(?i)^[\d.]+\s*[KMGT]i?B?$`).MatchString(part) {
		var err error
		o.gpuMiB, err = cli.ParseMiB(strings.ReplaceAll(part, " ", ""))
		return err
	}
	r, err := parseGPU(part)
	if err != nil || strings.ContainsRune(part, ':') {
		return fmt.Errorf("want GPUs, such as 4x24GiB or 2x RTX 4090, a country, <= PRICE/h, <= MONEY total, for DURATION or until TIME")
	}
	o.gpu.Model = r.Model
	return nil
}

// parseUntil reads a duration from now on, a weekday or a date, whose end is meant, or a time.
func parseUntil(s string, now time.Time) (time.Time, error) {
	end := func(day time.Time) time.Time {
		return time.Date(day.Year(), day.Month(), day.Day(), 23, 59, 59, 0, now.Location())
	}
	if d, err := cli.ParseDuration(s); err == nil {
		if d <= 0 {
			return time.Time{}, fmt.Errorf("%q: not in the future", s)
		}
		return now.Add(d), nil
	}
	for i := range 7 {
		day := now.AddDate(0, 0, i)
		if name := day.Weekday().String(); strings.EqualFold(s, name) || strings.EqualFold(s, name[:3]) {
			return end(day), nil
		}
	}
	switch strings.ToLower(s) {
	case "today", "tonight":
		return end(now), nil
	case "tomorrow":
		return end(now.AddDate(0, 0, 1)), nil
	}
	at, err := time.ParseInLocation(time.DateOnly, s, now.Location())
	if err == nil {
		at = end(at)
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04"} {
		if err != nil {
			at, err = time.ParseInLocation(layout, s, now.Location())
		}
	}
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("%q: want a day such as Friday or 2026-12-24, a time such as 2026-12-24T18:00, or a duration such as 48h", s)
	case !at.After(now):
		return time.Time{}, fmt.Errorf("%q: not in the future", s)
	}
	return at, nil
}
