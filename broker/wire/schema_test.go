package wire_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"rialto/broker"
	"rialto/broker/wire"
)

var update = flag.Bool("update", false, "add new parts of the schema to schema.txt")

const schemaFile = "schema.txt"

// Signed messages outlive the programs that wrote them, so the schema only grows: every line of schema.txt must
// still be true. New fields and values are added to it by -update, which takes nothing out.
func TestSchemaOnlyGrows(t *testing.T) {
	text, err := os.ReadFile(schemaFile)
	if err != nil && !*update {
		t.Fatal(err)
	}
	live := describe(wire.File_messages_proto)
	committed := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range breaks(committed, live) {
		t.Errorf("breaking change: the schema no longer has %q", line)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(schemaFile, []byte(strings.Join(live, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, line := range breaks(live, committed) {
		t.Errorf("%q is new: run go test ./broker/wire -run TestSchemaOnlyGrows -update", line)
	}
}

// breaks returns the lines of older that newer lacks.
func breaks(older, newer []string) []string {
	return slices.DeleteFunc(slices.Clone(older), func(line string) bool {
		return line == "" || slices.Contains(newer, line)
	})
}

// describe writes down each field and enum value of a schema, one on a line, with all that its encoding depends on.
func describe(file protoreflect.FileDescriptor) []string {
	var lines []string
	messages := file.Messages()
	for i := range messages.Len() {
		m := messages.Get(i)
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			kind := f.Kind().String()
			switch {
			case f.Message() != nil:
				kind = string(f.Message().FullName())
			case f.Enum() != nil:
				kind = string(f.Enum().FullName())
			}
			lines = append(lines, fmt.Sprintf("%s %d %s %s %s", m.FullName(), f.Number(), f.Name(), f.Cardinality(), kind))
		}
	}
	enums := file.Enums()
	for i := range enums.Len() {
		e := enums.Get(i)
		for j := range e.Values().Len() {
			v := e.Values().Get(j)
			lines = append(lines, fmt.Sprintf("%s %d %s", e.FullName(), v.Number(), v.Name()))
		}
	}
	return lines
}

// The guard itself notices what it is there for.
func TestSchemaGuard(t *testing.T) {
	live := describe(wire.File_messages_proto)
	for name, change := range map[string]func(line string) string{
		"removed":    func(string) string { return "" },
		"renumbered": func(line string) string { return strings.Replace(line, " 2 ttl_ns", " 9 ttl_ns", 1) },
		"renamed":    func(line string) string { return strings.Replace(line, "ttl_ns", "ttl_ms", 1) },
		"retyped":    func(line string) string { return strings.Replace(line, "int64", "sint64", 1) },
		"repeated":   func(line string) string { return strings.Replace(line, "optional", "repeated", 1) },
	} {
		changed := slices.Clone(live)
		i := slices.Index(changed, "rialto.v1.Renewal 2 ttl_ns optional int64")
		if i < 0 {
			t.Fatal("the schema has no field to change")
		}
		if changed[i] = change(changed[i]); len(breaks(live, changed)) != 1 {
			t.Errorf("%s: not noticed", name)
		}
	}
	if changed := append(slices.Clone(live), "rialto.v1.Renewal 4 new optional int64"); len(breaks(live, changed)) != 0 {
		t.Error("an addition was taken for a breaking change")
	}
}

// Enums are converted by number.
func TestEnumsAgree(t *testing.T) {
	for vocabulary, schema := range map[broker.Phase]wire.Phase{
		broker.PhasePreparing: wire.Phase_PHASE_PREPARING,
		broker.PhaseReady:     wire.Phase_PHASE_READY,
		broker.PhaseExited:    wire.Phase_PHASE_EXITED,
		broker.PhaseBroken:    wire.Phase_PHASE_BROKEN,
	} {
		if int32(vocabulary) != int32(schema) {
			t.Errorf("phase %d is %v (%d) in the schema", vocabulary, schema, schema)
		}
	}
	for vocabulary, schema := range map[broker.Level]wire.Level{
		broker.LevelClaimed: wire.Level_LEVEL_CLAIMED,
		broker.LevelNVML:    wire.Level_LEVEL_NVML,
	} {
		if int32(vocabulary) != int32(schema) {
			t.Errorf("level %d is %v (%d) in the schema", vocabulary, schema, schema)
		}
	}
}
