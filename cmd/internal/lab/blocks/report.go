package blocks

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
)

// target is what a figure is to reach, as the research that came before the code put it.
type target struct {
	limit float64
	atMin bool // the figure is to be at least that, else at most
	unit  string
}

func atMost(limit float64, unit string) target  { return target{limit, false, unit} }
func atLeast(limit float64, unit string) target { return target{limit, true, unit} }

// targets names every figure of the last line.
func targets() map[string]target {
	return map[string]target{
		"mount_ms":            atMost(5, "ms"),
		"warm_seq_gbps":       atLeast(12, "GB/s"),
		"native_seq_gbps":     {unit: "GB/s"},
		"import_warm_ratio":   atMost(1.1, "x"),
		"tree_first_lazy_s":   atMost(1.0, "s"),
		"tree_first_sealed_s": atMost(0.5, "s"),
		"cold_import_50ms_s":  atMost(2.0, "s"),
		"fastpath_mbps":       atLeast(700, "MB/s"),
		"bitswap_mbps":        {unit: "MB/s"},
		"link50_ratio":        atLeast(0.9, "of 1 Gbit/s"),
		"put_mbps":            atLeast(800, "MB/s"),
		"rebuilt_new_ratio":   atMost(0.05, "of the bytes"),
		"start10gb_s":         atMost(1, "s"),
		"start10gb_plain_s":   {unit: "s"},
		"fanout20_origin_gb":  atMost(1.5, "GB"),
		"fanout20_time_ratio": atMost(2.5, "x one peer's time"),
		"zipf_local_ratio":    atLeast(0.95, "of the bytes"),
		"rss_mb":              atMost(256, "MB"),
	}
}

func (t target) String() string {
	switch {
	case t.limit == 0:
		return ""
	case t.atMin:
		return fmt.Sprintf("target >= %s", number(t.limit))
	default:
		return fmt.Sprintf("target <= %s", number(t.limit))
	}
}

// verdict says whether a figure is what it is to be.
func (t target) verdict(v float64) string {
	switch {
	case t.limit == 0:
		return ""
	case t.atMin == (v >= t.limit) || v == t.limit:
		return "met"
	default:
		return "MISSED"
	}
}

// report is the table, which is printed as it comes to be, and the figures of its last line.
type report struct {
	out     io.Writer
	figures map[string]float64
	missing map[string]string // why a figure is not there
}

func newReport(out io.Writer) *report {
	return &report{out: out, figures: make(map[string]float64), missing: make(map[string]string)}
}

// section begins a part of the table. The load is what others did to the machine meanwhile.
func (r *report) section(title string) {
	load := "unknown"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	fmt.Fprintf(r.out, "\n%s; load %s\n", title, load)
}

const rowFormat = "  %-54s %9s %-13s %s\n"

// row prints a rival, a limit, or a figure of ours that is no key.
func (r *report) row(name string, v float64, unit, note string) {
	fmt.Fprintf(r.out, rowFormat, name, number(v), unit, note)
}

// figure prints a figure of ours that stands in the last line.
func (r *report) figure(key, name string, v float64, note string) {
	t := targets()[key]
	r.figures[key] = round(v)
	words := slices.DeleteFunc([]string{t.String(), t.verdict(v), note}, func(s string) bool { return s == "" })
	fmt.Fprintf(r.out, rowFormat, name, number(v), t.unit, strings.Join(words, ", "))
}

// absent notes why figures could not be had, if there is a reason.
func (r *report) absent(why error, keys ...string) {
	if why == nil {
		return
	}
	for _, k := range keys {
		if _, have := r.figures[k]; !have {
			r.missing[k] = why.Error()
		}
	}
}

// end prints what is missing and the last line.
func (r *report) end() error {
	for _, k := range slices.Sorted(maps.Keys(r.missing)) {
		fmt.Fprintf(r.out, "\nno %s: %s\n", k, r.missing[k])
	}
	line, err := json.Marshal(r.figures)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.out, "\n%s\n", line)
	return err
}

// round keeps four digits, which is more than two runs have in common.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// number prints three digits that count, and no more.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
