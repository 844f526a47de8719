package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

const pemType = "PRIVATE KEY"

// maxKeyFile bounds what is read as a key file; a real one has 119 bytes.
const maxKeyFile = 4096

// LoadOrCreate reads the key file at path. If there is none it makes a key and the file, and the folder above
// it when missing. When two processes start at once, both return the key of the one that was first.
// A file that others than its owner can read is refused, except on Windows, where modes say nothing.
func LoadOrCreate(path string) (Key, error) {
	k, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k, err = Generate()
	if err != nil {
		return Key{}, err
	}
	err = store(path, k)
	if errors.Is(err, fs.ErrExist) {
		return load(path)
	}
	if err != nil {
		return Key{}, fmt.Errorf("create identity %s: %w", path, err)
	}
	return k, nil
}

func load(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("load identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("load identity: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return Key{}, fmt.Errorf("load identity %s: mode %04o lets others read it, want 0600: %w", path, mode, ErrInvalid)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return Key{}, fmt.Errorf("load identity: %w", err)
	}
	k, err := parseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("load identity %s: %w", path, err)
	}
	return k, nil
}

func parseKey(text []byte) (Key, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(rest) != 0 {
		return Key{}, fmt.Errorf("want one PEM block %q: %w", pemType, ErrInvalid)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's error may quote the input, which is a secret.
		return Key{}, fmt.Errorf("not PKCS #8: %w", ErrInvalid)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("key of type %T, want Ed25519: %w", parsed, ErrInvalid)
	}
	return newKey(private), nil
}

// store writes k to path whole or not at all, and never over an existing file: the name is made by link(2),
// which, unlike rename(2), fails when the name is taken.
func store(path string, k Key) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private())
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = pem.Encode(f, &pem.Block{Type: pemType, Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a new name in dir durable, where the system can.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
