package vast

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"rialto/broker"
)

// row is one offer, instance or machine as a client reads it: cells in order, of which a client may pick some.
type row []cell

// cell is one value: nil for what nobody knows, text, bool, int64, json.Number, or whatever else encodes.
type cell struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (r row) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, c := range r {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(c.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.key, err)
		}
		b.WriteString(strconv.Quote(c.key)) // our own names: plain ASCII
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (r row) value(key string) any {
	for _, c := range r {
		if c.key == key {
			return c.value
		}
	}
	return nil
}

// pick keeps the cells that are wanted; no names, or *, means all.
func (r row) pick(keys []string) row {
	if len(keys) == 0 || slices.Contains(keys, "*") {
		return r
	}
	var out row
	for _, c := range r {
		if slices.Contains(keys, c.key) {
			out = append(out, c)
		}
	}
	return out
}

// sorting is one key of an order.
type sorting struct {
	key  string
	down bool
}

// order sorts rows by keys, those with equal ones as they were. What nobody knows comes last.
func order(rows []row, by []sorting) {
	slices.SortStableFunc(rows, func(a, b row) int {
		for _, k := range by {
			x, y := a.value(k.key), b.value(k.key)
			if (x == nil) != (y == nil) {
				if y == nil {
					return -1
				}
				return 1
			}
			n := compare(x, y)
			if k.down {
				n = -n
			}
			if n != 0 {
				return n
			}
		}
		return 0
	})
}

// compare orders two values of one column.
func compare(x, y any) int {
	if a, ok := figure(x); ok {
		if b, ok := figure(y); ok {
			return cmp.Compare(a, b)
		}
	}
	return strings.Compare(fmt.Sprint(x), fmt.Sprint(y))
}

// figure is a number that is good enough to be sorted by.
func figure(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

const (
	idBits    = 48
	countBits = 5 // of an offer's id: more than the GPUs of any job
)

// hashed is 48 bits that name something of the market, never zero.
func hashed(kind string, parts ...string) int64 {
	sum := sha256.Sum256([]byte("rialto vast 1\x00" + kind + "\x00" + strings.Join(parts, "\x00")))
	return max(1, int64(binary.BigEndian.Uint64(sum[:])>>(64-idBits))) //nolint:gosec // 48 bits
}

// offerID names an offer, rented with a number of GPUs.
func offerID(o *broker.Offer, count int) int64 {
	return hashed("offer", string(o.Provider), string(o.ID))<<countBits | int64(count)
}

// offerCount is the number of GPUs that an offer's id stands for.
func offerCount(id int64) int { return int(id & (1<<countBits - 1)) }

// hostID names a provider: Vast's machine_id and host_id are one here.
func hostID(p broker.PeerID) int64 { return hashed("host", string(p)) }

// instanceID names a job.
func instanceID(j broker.JobID) int64 { return hashed("instance", string(j)) }

// accountID names an account.
func accountID(a broker.AccountID) int64 { return hashed("account", string(a)) }

// isOwner reports whether an account is a provider's own, whose id is its peer id.
func isOwner(a broker.AccountID) bool { return strings.HasPrefix(string(a), "12D3KooW") }

// seconds is a time as Vast writes it; nil for none.
func seconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return json.Number(strconv.FormatFloat(float64(t.UnixMicro())/1e6, 'f', 3, 64))
}

// known is a text, or nil if it is empty.
func known(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// vastModel is what Vast calls a GPU model; several of ours may have one name there.
func vastModel(model string) string {
	switch model {
	case "A100 SXM 40GB", "A100 SXM 80GB":
		return "A100 SXM4"
	case "A100 PCIe 40GB", "A100 PCIe 80GB":
		return "A100 PCIE"
	case "V100 PCIe 16GB", "V100 PCIe 32GB", "V100 SXM2 16GB", "V100 SXM2 32GB":
		return "Tesla V100"
	case "T4", "P100":
		return "Tesla " + model
	case "H100 PCIe":
		return "H100 PCIE"
	case "RTX 4070 SUPER":
		return "RTX 4070S"
	case "RTX 4070 Ti SUPER":
		return "RTX 4070S Ti"
	case "RTX 4080 SUPER":
		return "RTX 4080S"
	case "RTX 4090 D":
		return "RTX 4090D"
	case "RTX 4000 Ada", "RTX 4500 Ada", "RTX 5000 Ada", "RTX 6000 Ada":
		return strings.TrimSuffix(model, " Ada") + "Ada"
	}
	return model
}
