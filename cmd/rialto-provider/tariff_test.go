package main

import (
	"testing"

	"rialto/broker"
)

func TestTariffOfFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		disk, in, out string
		diskMiB       uint64
		want          broker.Tariff
		text          string
	}{
		{want: broker.Tariff{}},
		{disk: "0.15/month", diskMiB: 10 << 10, want: broker.Tariff{Disk: 208_333}, text: "$0.000208333/h per GiB of disk"},
		{disk: "$0.000001/Month", want: broker.Tariff{Disk: 1}, text: "$0.000000001/h per GiB of disk"},
		{disk: "0.10/month", want: broker.Tariff{Disk: 138_889}, text: "$0.000138889/h per GiB of disk"},
		{disk: "0.0002/h", want: broker.Tariff{Disk: 200_000}, text: "$0.0002/h per GiB of disk"},
		{disk: "720/month", want: broker.Tariff{Disk: 1_000_000_000}, text: "$1.00/h per GiB of disk"},
		{in: "0.01", out: "$0.02/gb", want: broker.Tariff{Ingress: 10_000_000, Egress: 20_000_000}, text: "$0.01 per GB to a job, $0.02 per GB from a job"},
	} {
		o := options{diskPrice: c.disk, ingressPrice: c.in, egressPrice: c.out}
		got, err := o.parseTariff(c.diskMiB)
		if err != nil || got != c.want || formatTariff(got) != c.text {
			t.Errorf("%q %q %q: got %+v (%s), %v; want %+v", c.disk, c.in, c.out, got, formatTariff(got), err, c.want)
		}
	}
}
