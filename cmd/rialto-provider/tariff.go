package main

import (
	"errors"
	"fmt"
	"strings"

	"rialto/broker"
	"rialto/cmd/internal/cli"
	"rialto/pricing"
)

// parseTariff reads what the host charges for beside its GPUs. diskMiB is the most that a job may write; zero: no limit.
func (o *options) parseTariff(diskMiB uint64) (t broker.Tariff, err error) {
	if o.diskPrice != "" {
		if t.Disk, err = parseDiskPrice(o.diskPrice); err != nil {
			return t, fmt.Errorf("--disk-price %w", err)
		}
	}
	if o.ingressPrice != "" {
		if t.Ingress, err = parseTrafficPrice(o.ingressPrice); err != nil {
			return t, fmt.Errorf("--ingress-price %w", err)
		}
	}
	if o.egressPrice != "" {
		if t.Egress, err = parseTrafficPrice(o.egressPrice); err != nil {
			return t, fmt.Errorf("--egress-price %w", err)
		}
	}
	if bad, ok := errors.AsType[*broker.FieldError](t.Validate()); ok {
		flag := map[string]string{"tariff.disk": "--disk-price", "tariff.ingress": "--ingress-price", "tariff.egress": "--egress-price"}
		return t, fmt.Errorf("%s: %s", flag[bad.Field], bad.Problem)
	}
	if t.Disk > 0 && diskMiB > 0 && diskMiB < broker.UsualDiskMiB {
		usual := cli.FormatMiB(broker.UsualDiskMiB)
		return t, fmt.Errorf("--disk-price with --disk-per-job %s: a job that does not say how much it may write pays for %s: want --disk-per-job %s or more",
			o.disk, usual, strings.ReplaceAll(usual, " ", ""))
	}
	return t, nil
}

// parseDiskPrice reads the price of a GiB, such as 0.15/month or 0.0002/h. A monthly one is rounded to a billionth of a
// dollar per hour, half up.
func parseDiskPrice(s string) (pricing.Rate, error) {
	amount, unit, _ := strings.Cut(s, "/")
	month := strings.EqualFold(unit, "month")
	if !month && unit != "h" {
		near, ok := cli.Nearest(unit, []string{"month", "h", "hour"})
		if near = strings.Replace(near, "hour", "h", 1); !ok {
			near = "month"
		}
		return 0, fmt.Errorf("%q: want a GiB's price by the month or by the hour; did you mean %s/%s?", s, amount, near)
	}
	m, err := parseAmount(s, amount)
	if err != nil {
		return 0, err
	}
	if month {
		m = (m + pricing.HoursPerMonth/2) / pricing.HoursPerMonth
	}
	if m == 0 {
		return 0, fmt.Errorf("%q: want more than nothing, at least 0.000001/month; without the flag disk is free", s)
	}
	return pricing.Rate(m), nil
}

// parseTrafficPrice reads the price of 10^9 bytes, such as 0.01 or 0.01/GB.
func parseTrafficPrice(s string) (pricing.Money, error) {
	amount, unit, hasUnit := strings.Cut(s, "/")
	if hasUnit && !strings.EqualFold(unit, "GB") {
		return 0, fmt.Errorf("%q: want the price of a GB, 10^9 bytes; did you mean %s/GB?", s, amount)
	}
	m, err := parseAmount(s, amount)
	if err != nil {
		return 0, err
	}
	if m == 0 {
		return 0, fmt.Errorf("%q: want more than nothing; without the flag traffic is free", s)
	}
	return m, nil
}

// parseAmount reads the amount of a price s.
func parseAmount(s, amount string) (pricing.Money, error) {
	m, err := pricing.ParseMoney(amount)
	if bad, ok := errors.AsType[*pricing.SyntaxError](err); ok {
		return 0, fmt.Errorf("%q: %s", s, bad.Problem)
	}
	if m < 0 {
		return 0, fmt.Errorf("%q: below zero", s)
	}
	return m, err
}

// formatTariff says what a host charges for beside its GPUs; empty: nothing.
func formatTariff(t broker.Tariff) string {
	var parts []string
	if t.Disk > 0 {
		parts = append(parts, fmt.Sprintf("%v per GiB of disk", t.Disk))
	}
	if t.Ingress > 0 {
		parts = append(parts, fmt.Sprintf("%v per GB to a job", t.Ingress))
	}
	if t.Egress > 0 {
		parts = append(parts, fmt.Sprintf("%v per GB from a job", t.Egress))
	}
	return strings.Join(parts, ", ")
}
