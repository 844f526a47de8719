package vast

import (
	"encoding/json"
	"maps"
	"slices"
)

// tag is what this package keeps with a job.
type tag struct {
	Label     string `json:"label,omitempty"`
	Runtype   string `json:"runtype,omitempty"`
	Stopped   bool   `json:"stopped,omitempty"`   // by a client
	Destroyed bool   `json:"destroyed,omitempty"` // not shown any more
}

func (t tag) encode() []byte {
	b, err := json.Marshal(t)
	if err != nil {
		return []byte("{}") // not of texts
	}
	return b
}

// readTag reads a tag; a job without one was started otherwise.
func readTag(b []byte) tag {
	var t tag
	if len(b) > 0 && json.Unmarshal(b, &t) != nil {
		return tag{}
	}
	return t
}

// variables are a job's own, by name.
func variables(env map[string]string) [][2]string {
	out := [][2]string{}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, [2]string{k, env[k]})
	}
	return out
}
