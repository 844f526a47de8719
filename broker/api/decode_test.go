package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"duration_ms", "max_rate_nanousd_per_hour", "model", "spec"}
	for given, want := range map[string]string{
		"specc": "spec", "Spec": "spec", "modl": "model", "duration": "duration_ms", "price": "", "": "", "xxxxxxxxxxx": "",
	} {
		if got := nearest(given, names); got != want {
			t.Errorf("nearest to %q is %q, want %q", given, got, want)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add(": hello\n\nid: 1\nevent: job\ndata: {\"seq\":1,\"state\":\"queued\"}\n\nevent: end\ndata: {}\n\n")
	f.Add("data: {\ndata: \"seq\":2}\n\n")
	f.Add("event: end\n\n")
	f.Add("data: [")
	f.Fuzz(func(t *testing.T, stream string) {
		n := 0
		for e, err := range readEvents(strings.NewReader(stream)) {
			if err != nil {
				return
			}
			// What was read, written as the server writes it, is read again.
			data, err := json.Marshal(e)
			if err != nil {
				return // a year that JSON does not take
			}
			n++
			again := fmt.Sprintf("id: %d\nevent: job\ndata: %s\n\nevent: end\ndata: {}\n\n", e.Seq, data)
			for e2, err := range readEvents(strings.NewReader(again)) {
				if err != nil || e2.Seq != e.Seq || e2.Text != e.Text {
					t.Errorf("event %+v became %+v, %v", e, e2, err)
				}
			}
		}
		if n > strings.Count(stream, "data") {
			t.Errorf("%d events in %q", n, stream)
		}
	})
}
