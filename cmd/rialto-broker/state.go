package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rialto/cmd/internal/cli"
	"rialto/p2p/identity"
)

// stateDir is the broker's directory.
type stateDir string

func (d stateDir) ledger() string { return filepath.Join(string(d), "ledger") }

func (d stateDir) blocks() string { return filepath.Join(string(d), "blocks") }

func (d stateDir) scratch() string { return filepath.Join(string(d), "scratch") }

func (d stateDir) keyPath() string { return filepath.Join(string(d), "key") }

func (d stateDir) make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return cli.Hint(fmt.Errorf("state directory: %w", err), "choose another one with --state DIR")
	}
	return nil
}

func (d stateDir) key() (identity.Key, error) {
	if err := d.make(); err != nil {
		return identity.Key{}, err
	}
	return identity.LoadOrCreate(d.keyPath())
}

// admin tells the other commands how to reach the running broker.
type admin struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

func (d stateDir) adminPath() string { return filepath.Join(string(d), "admin.json") }

func (d stateDir) readAdmin() (admin, error) {
	text, err := os.ReadFile(d.adminPath())
	if errors.Is(err, fs.ErrNotExist) {
		return admin{}, cli.Hint(fmt.Errorf("no broker was started with --state %s", d), "start one: rialto-broker run --state %s", d)
	}
	if err != nil {
		return admin{}, err
	}
	var a admin
	if err := json.Unmarshal(text, &a); err != nil {
		return admin{}, fmt.Errorf("%s: %w", d.adminPath(), err)
	}
	return a, nil
}

// writeAdmin records where the broker listens. The token stays the same over restarts.
func (d stateDir) writeAdmin(a admin) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	next := d.adminPath() + ".new"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, d.adminPath())
}

// adminToken returns the token of an earlier run, or a new one.
func (d stateDir) adminToken() (string, error) {
	a, err := d.readAdmin()
	if err == nil && a.Token != "" {
		return a.Token, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(d.adminPath()); statErr == nil {
			return "", err
		}
	}
	return "rialto_admin_" + strings.ToLower(rand.Text()), nil
}
