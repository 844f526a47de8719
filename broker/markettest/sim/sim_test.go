package sim_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"rialto/broker/markettest/sim"
)

var update = flag.Bool("update", false, "write what simulations print into the stories")

// TestStories plays testdata/*.txtar: a configuration and the table that it gives, to the byte. -update writes the
// table anew, which is due whenever the market's ranking changes.
func TestStories(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the stories were written on amd64; other machines may round a float otherwise")
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			story, err := txtar.ParseFile(file)
			if err != nil || len(story.Files) != 2 {
				t.Fatalf("%d files, %v: want a configuration and a table", len(story.Files), err)
			}
			report, err := sim.Run(parse(t, string(story.Files[0].Data)))
			if err != nil {
				t.Fatal(err)
			}
			got, want := report.String(), string(story.Files[1].Data)
			if got == want {
				return
			}
			if *update {
				story.Files[1].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("the simulation gives another table (go test -update writes it):\n%s\nwant\n%s", got, want)
		})
	}
}

// parse reads lines of a field of [sim.Config] and its value.
func parse(t *testing.T, text string) sim.Config {
	t.Helper()
	cfg := sim.Config{AuditEvery: 50}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch name {
		case "seeds":
			cfg.Seeds, err = strconv.Atoi(value)
		case "first":
			cfg.First, err = strconv.ParseUint(value, 10, 64)
		case "hosts":
			cfg.Hosts, err = strconv.Atoi(value)
		case "span":
			cfg.Span, err = time.ParseDuration(value)
		case "load":
			cfg.Load, err = strconv.ParseFloat(value, 64)
		default:
			t.Fatalf("unknown line %q", line)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

// TestSameSeedTwice wants equal bytes, of the table and of JSON, and other seeds to differ.
func TestSameSeedTwice(t *testing.T) {
	show := func(first uint64) (string, string) {
		r, err := sim.Run(sim.Config{Seeds: 1, First: first, Hosts: 12, Span: 13 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return r.String(), string(b)
	}
	text, object := show(5)
	if again, same := show(5); again != text || same != object {
		t.Errorf("the same seed gave two reports:\n%s\n%s", text, again)
	}
	if _, other := show(6); strings.Replace(other, `"first_seed":6`, `"first_seed":5`, 1) == object {
		t.Error("two seeds gave one report")
	}
}

// TestPrices: nobody pays less than the cheapest of the moment, disk and traffic included, and the market at most a
// fiftieth more, for all else that a job costs. Who sorts by the price of GPUs takes the baits: these seeds have some. The
// best of two random offers costs clearly more on any seed.
func TestPrices(t *testing.T) {
	r, err := sim.Run(sim.Config{Seeds: 2, First: 5, Hosts: 24, Span: 8 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ratio := map[string]float64{}
	for _, row := range r.Rows {
		ratio[row.Policy] = row.Figures["price_ratio"].Mean
	}
	for policy, got := range ratio {
		if got < 1 {
			t.Errorf("%s: price ratio %v, want 1 at least", policy, got)
		}
	}
	if got := ratio["rialto"]; got > 1.02 {
		t.Errorf("rialto: price ratio %v, want 1.02 at most", got)
	}
	if got := ratio["price sort"]; got < 1.2 {
		t.Errorf("price sort: price ratio %v, want 1.2 at least", got)
	}
	if got := ratio["random of 2"]; got < 1.05 {
		t.Errorf("random of 2: price ratio %v, want 1.05 at least", got)
	}
}

func TestBadConfig(t *testing.T) {
	for _, cfg := range []sim.Config{{Seeds: -1}, {Hosts: 5001}, {Span: time.Minute}, {Load: -1}, {AuditEvery: -1}} {
		if r, err := sim.Run(cfg); err == nil {
			t.Errorf("%+v: got %v, want an error", cfg, r)
		}
	}
}
