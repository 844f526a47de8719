package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of an exec request.
const (
	maxWords = 4096
	maxPath  = 4096
)

// execRequest is the body of POST /v1/exec.
type execRequest struct {
	Args    []string `json:"args"`
	Env     []string `json:"env,omitempty"`
	Workdir string   `json:"workdir,omitempty"`
	TTY     bool     `json:"tty,omitempty"`
	Rows    uint16   `json:"rows,omitempty"`
	Cols    uint16   `json:"cols,omitempty"`
	Stdin   bool     `json:"stdin,omitempty"`
}

// parseExec decodes strictly: one JSON object, known fields, no NUL that would end a C string early.
func parseExec(data []byte) (execRequest, error) {
	var r execRequest
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return execRequest{}, fmt.Errorf("exec request: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return execRequest{}, errors.New("exec request: more than one value")
	}
	switch {
	case len(r.Args) == 0 || r.Args[0] == "":
		return execRequest{}, errors.New("exec request: no program in args")
	case len(r.Args) > maxWords || len(r.Env) > maxWords:
		return execRequest{}, fmt.Errorf("exec request: more than %d args or env", maxWords)
	case len(r.Workdir) > maxPath || strings.ContainsRune(r.Workdir, 0):
		return execRequest{}, errors.New("exec request: bad workdir")
	case r.Workdir != "" && r.Workdir[0] != '/':
		return execRequest{}, errors.New("exec request: workdir is not absolute")
	}
	for _, a := range r.Args {
		if strings.ContainsRune(a, 0) {
			return execRequest{}, errors.New("exec request: NUL in args")
		}
	}
	for _, e := range r.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return execRequest{}, fmt.Errorf("exec request: env %q is not KEY=VALUE", clip(e))
		}
	}
	return r, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not 1 to 65535", clip(s))
	}
	return uint16(n), nil
}

func parseFrom(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("from %q is not a number of bytes", clip(s))
	}
	return n, nil
}
