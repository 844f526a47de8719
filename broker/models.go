package broker

import (
	"cmp"
	"slices"
	"strings"
)

// AnyModel is the model of a request that any GPU satisfies.
const AnyModel = "any"

// Model is a GPU model that customers can name.
type Model struct {
	Name      string // canonical, such as "RTX 4090"
	MemoryMiB uint64 // as sold; a driver reports a little less
}

// Models lists the known models by name. A provider may offer others; they can be asked for while they
// are offered.
func Models() []Model {
	const gib = 1024
	return []Model{
		{"A10", 24 * gib},
		{"A100 PCIe 40GB", 40 * gib},
		{"A100 PCIe 80GB", 80 * gib},
		{"A100 SXM 40GB", 40 * gib},
		{"A100 SXM 80GB", 80 * gib},
		{"A16", 16 * gib},
		{"A2", 16 * gib},
		{"A30", 24 * gib},
		{"A40", 48 * gib},
		{"B200", 180 * gib},
		{"B300", 270 * gib},
		{"GB200", 186 * gib},
		{"GB300", 278 * gib},
		{"GH200", 96 * gib},
		{"GTX 1080 Ti", 11 * gib},
		{"H100 NVL", 94 * gib},
		{"H100 PCIe", 80 * gib},
		{"H100 SXM", 80 * gib},
		{"H200", 141 * gib},
		{"H200 NVL", 141 * gib},
		{"L4", 24 * gib},
		{"L40", 48 * gib},
		{"L40S", 48 * gib},
		{"P100", 16 * gib},
		{"RTX 2060", 6 * gib},
		{"RTX 2070", 8 * gib},
		{"RTX 2080", 8 * gib},
		{"RTX 2080 Ti", 11 * gib},
		{"RTX 3060", 12 * gib},
		{"RTX 3060 Ti", 8 * gib},
		{"RTX 3070", 8 * gib},
		{"RTX 3070 Ti", 8 * gib},
		{"RTX 3080", 10 * gib},
		{"RTX 3080 Ti", 12 * gib},
		{"RTX 3090", 24 * gib},
		{"RTX 3090 Ti", 24 * gib},
		{"RTX 4000 Ada", 20 * gib},
		{"RTX 4060", 8 * gib},
		{"RTX 4060 Ti", 16 * gib},
		{"RTX 4070", 12 * gib},
		{"RTX 4070 SUPER", 12 * gib},
		{"RTX 4070 Ti", 12 * gib},
		{"RTX 4070 Ti SUPER", 16 * gib},
		{"RTX 4080", 16 * gib},
		{"RTX 4080 SUPER", 16 * gib},
		{"RTX 4090", 24 * gib},
		{"RTX 4090 D", 24 * gib},
		{"RTX 4500 Ada", 24 * gib},
		{"RTX 5000 Ada", 32 * gib},
		{"RTX 5060", 8 * gib},
		{"RTX 5060 Ti", 16 * gib},
		{"RTX 5070", 12 * gib},
		{"RTX 5070 Ti", 16 * gib},
		{"RTX 5080", 16 * gib},
		{"RTX 5090", 32 * gib},
		{"RTX 6000 Ada", 48 * gib},
		{"RTX A4000", 16 * gib},
		{"RTX A5000", 24 * gib},
		{"RTX A6000", 48 * gib},
		{"RTX PRO 4500 Blackwell", 32 * gib},
		{"RTX PRO 5000 Blackwell", 48 * gib},
		{"RTX PRO 6000 Blackwell", 96 * gib},
		{"T4", 16 * gib},
		{"V100 PCIe 16GB", 16 * gib},
		{"V100 PCIe 32GB", 32 * gib},
		{"V100 SXM2 16GB", 16 * gib},
		{"V100 SXM2 32GB", 32 * gib},
	}
}

//nolint:gochecknoglobals // a constant table that the language cannot write as a constant
var modelTable = Models()

// modelMemory is the memory of a known model as it is sold, in MiB; zero if the model is not known.
func modelMemory(name string) uint64 {
	for i := range modelTable {
		if modelTable[i].Name == name {
			return modelTable[i].MemoryMiB
		}
	}
	return 0
}

// askedModel returns the canonical name of a model that a query names, which may call it as its driver or Vast does;
// the name as it is if the model is not known.
func askedModel(s string) string {
	if known, ok := foldedModel(s, nil); ok {
		return known
	}
	if known := CanonicalModel(s); known != s {
		return askedModel(known)
	}
	switch foldModel(s) {
	case "rtx4070s":
		return "RTX 4070 SUPER"
	case "rtx4070sti":
		return "RTX 4070 Ti SUPER"
	case "rtx4080s":
		return "RTX 4080 SUPER"
	case "rtxpro6000s", "rtxpro6000ws":
		return "RTX PRO 6000 Blackwell"
	case "gh200sxm":
		return "GH200"
	}
	return s
}

// modelFamily returns the models that Vast calls by one name and tells apart by their memory; none for other names.
func modelFamily(s string) []string {
	switch foldModel(s) {
	case "a100sxm", "a100sxm4":
		return []string{"A100 SXM 40GB", "A100 SXM 80GB"}
	case "a100pcie":
		return []string{"A100 PCIe 40GB", "A100 PCIe 80GB"}
	case "v100":
		return []string{"V100 PCIe 16GB", "V100 PCIe 32GB", "V100 SXM2 16GB", "V100 SXM2 32GB"}
	}
	return nil
}

// CanonicalModel returns the market's name for a GPU that its driver calls driverName, such as
// "NVIDIA GeForce RTX 4090" or "NVIDIA A100-SXM4-80GB"; the driver's name less the brand if unknown.
func CanonicalModel(driverName string) string {
	name := strings.TrimSpace(driverName)
	for _, brand := range []string{"NVIDIA ", "GeForce ", "Tesla ", "Quadro "} {
		name = strings.TrimPrefix(name, brand)
	}
	switch {
	case strings.HasPrefix(name, "H100 80GB"), strings.HasPrefix(name, "H100 SXM"):
		return "H100 SXM"
	case strings.HasPrefix(name, "GH200"):
		return "GH200"
	case strings.HasPrefix(name, "RTX PRO 6000 Blackwell"):
		return "RTX PRO 6000 Blackwell"
	}
	name = strings.NewReplacer("SXM4", "SXM", "-PCIE-", "-PCIe-").Replace(name)
	if known, ok := foldedModel(name, nil); ok {
		return known
	}
	if known, ok := foldedModel(strings.TrimSuffix(name, " Generation"), nil); ok {
		return known
	}
	return name
}

// ParseModel reads a model as a person writes it ("rtx4090", "RTX-4090", "any") and returns its canonical
// name. Models in offered are known too. The error is a [*FieldError] with the nearest model.
func ParseModel(s string, offered ...string) (string, error) {
	if strings.EqualFold(s, AnyModel) {
		return AnyModel, nil
	}
	if known, ok := foldedModel(s, offered); ok {
		return known, nil
	}
	return "", unknownModel(s, offered)
}

func unknownModel(s string, offered []string) error {
	return &FieldError{Field: "gpu.model", Problem: quoteClipped(s) + " is not known", Nearest: nearestModel(s, offered)}
}

// foldedModel finds the model that s spells, whatever its case, spaces and dashes.
func foldedModel(s string, offered []string) (string, bool) {
	want := foldModel(s)
	if want == "" {
		return "", false
	}
	for _, m := range Models() {
		if foldModel(m.Name) == want {
			return m.Name, true
		}
	}
	for _, m := range offered {
		if foldModel(m) == want {
			return m, true
		}
	}
	return "", false
}

// nearestModel returns the model with the fewest edits from s, the first by name among equals.
func nearestModel(s string, offered []string) string {
	names := slices.Clone(offered)
	for _, m := range Models() {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	want := foldModel(s)
	return slices.MinFunc(names, func(a, b string) int {
		return cmp.Compare(edits(want, foldModel(a)), edits(want, foldModel(b)))
	})
}

// foldModel keeps the lower-case letters and digits of at most 64 bytes.
func foldModel(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return -1
	}, s[:min(len(s), 64)])
}

// edits is the distance of two short ASCII strings in insertions, deletions, substitutions and swaps of
// neighbours ("4900" is one edit from "4090").
func edits(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitution := last[j-1]
			if a[i-1] != b[j-1] {
				substitution++
			}
			row[j] = min(last[j]+1, row[j-1]+1, substitution)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
