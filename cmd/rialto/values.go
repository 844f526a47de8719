package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"rialto/broker"
)

// value is a flag that is parsed where it is given, so that its error names it.
type value[T any] struct {
	to    *T
	parse func(string) (T, error)
	kind  string
	text  string
}

// Set implements pflag.Value.
func (v *value[T]) Set(s string) error {
	parsed, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.to, v.text = parsed, s
	return nil
}

// String implements pflag.Value.
func (v *value[T]) String() string { return v.text }

// Type implements pflag.Value.
func (v *value[T]) Type() string { return v.kind }

// list is a flag that may be given many times.
type list[T any] struct {
	to    *[]T
	parse func(string) (T, error)
	kind  string
	texts []string
}

// Set implements pflag.Value.
func (l *list[T]) Set(s string) error {
	parsed, err := l.parse(s)
	if err != nil {
		return err
	}
	*l.to, l.texts = append(*l.to, parsed), append(l.texts, s)
	return nil
}

// String implements pflag.Value.
func (l *list[T]) String() string { return strings.Join(l.texts, ",") }

// Type implements pflag.Value.
func (l *list[T]) Type() string { return l.kind }

// maxGPUs is the most GPUs that one job can ask for on one host.
const maxGPUs = 16

// parseGPU reads "MODEL", "MODEL:COUNT", "any" or "any:COUNT".
func parseGPU(s string) (broker.GPURequest, error) {
	model, count, counted := strings.Cut(s, ":")
	model = strings.Join(strings.Fields(model), " ")
	if model == "" {
		return broker.GPURequest{}, fmt.Errorf("%q: want MODEL, MODEL:COUNT or any:COUNT, such as 'RTX 4090:2'", s)
	}
	if strings.EqualFold(model, broker.AnyModel) {
		model = broker.AnyModel
	}
	r := broker.GPURequest{Model: model, Count: 1}
	if counted {
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > maxGPUs {
			return broker.GPURequest{}, fmt.Errorf("%q: %q GPUs: want a count from 1 to %d", s, count, maxGPUs)
		}
		r.Count = n
	}
	return r, nil
}

// pair is KEY=VALUE.
type pair struct{ key, value string }

// parseEnv reads KEY=VALUE.
func parseEnv(s string) (pair, error) {
	key, v, ok := strings.Cut(s, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \t\x00") || strings.ContainsRune(v, 0) {
		return pair{}, fmt.Errorf("%q: want KEY=VALUE", s)
	}
	return pair{key, v}, nil
}

// mount is a name or CID of weights and where they appear in the container.
type mount struct{ name, path string }

// parseMount reads NAME:/path.
func parseMount(s string) (mount, error) {
	name, path, ok := strings.Cut(s, ":")
	if !ok || name == "" || !strings.HasPrefix(path, "/") || strings.Contains(path, "/../") || strings.HasSuffix(path, "/..") {
		return mount{}, fmt.Errorf("%q: want NAME:/absolute/path, with NAME from `rialto weights ls`", s)
	}
	return mount{name, path}, nil
}

// forward is a local TCP address that leads to a port in the container.
type forward struct {
	local  netip.AddrPort
	remote uint16
}

func (f forward) String() string { return fmt.Sprintf("%s → %d", f.local, f.remote) }

// arg is what parseForward reads as f.
func (f forward) arg() string {
	if f.local.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return fmt.Sprintf("%d:%d", f.local.Port(), f.remote)
	}
	return fmt.Sprintf("%s:%d", f.local, f.remote)
}

// parseForward reads REMOTE, LOCAL:REMOTE or ADDRESS:LOCAL:REMOTE. Without an address only this
// machine can connect; local port 0 takes a free one.
func parseForward(s string) (forward, error) {
	bad := func(what string) (forward, error) {
		return forward{}, fmt.Errorf("%q: %s; want LOCAL:REMOTE such as 8080:80", s, what)
	}
	parts := strings.Split(s, ":")
	address := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if strings.HasPrefix(s, "[") || len(parts) > 2 {
		i := strings.LastIndex(s, ":")
		j := strings.LastIndex(s[:max(i, 0)], ":")
		if j < 0 {
			return bad("too few ports")
		}
		a, err := netip.ParseAddr(strings.Trim(s[:j], "[]"))
		if err != nil {
			return bad("local address is not an IP address")
		}
		address, parts = a, []string{s[j+1 : i], s[i+1:]}
	}
	ports := make([]uint16, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return bad(fmt.Sprintf("%q is not a port (0…65535)", p))
		}
		ports[i] = uint16(n)
	}
	remote := ports[len(ports)-1]
	if remote == 0 {
		return bad("port 0 in the container")
	}
	return forward{local: netip.AddrPortFrom(address, ports[0]), remote: remote}, nil
}

// parseRegion reads an ISO 3166-1 alpha-2 country code.
func parseRegion(s string) (string, error) {
	if !regexp.MustCompile(`^[A-Za-z]{2}$`).MatchString(s) {
		return "", fmt.Errorf("%q: want a two-letter country code, such as DE", s)
	}
	return strings.ToUpper(s), nil
}

// parseQuery returns a query in canonical form.
func parseQuery(s string) (string, error) {
	f, err := broker.ParseFilter(s)
	return f.String(), err
}

// environment joins pairs; the last of equal keys wins.
func environment(pairs []pair) map[string]string {
	if len(pairs) == 0 {
		return nil
	}
	env := make(map[string]string, len(pairs))
	for _, p := range pairs {
		env[p.key] = p.value
	}
	return env
}
