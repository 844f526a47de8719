package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// imageKey names the cached image; change it when the recipe below changes.
const imageKey = "debian-bookworm-python3-v1"

// Image returns an OCI layout with a Debian root file system and python3, made by debootstrap on first use
// (about a minute) and cached.
func (l *Lab) Image(ctx context.Context) (string, error) {
	dir := filepath.Join(l.cfg.Cache, imageKey)
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(l.cfg.Cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(l.cfg.Cache, "image-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // the cache only keeps what was renamed
	root, tar, oci := filepath.Join(tmp, "root"), filepath.Join(tmp, "layer.tar"), filepath.Join(tmp, "oci")
	for _, args := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=python3-minimal,python3", "bookworm", root},
		{"tar", "--sort=name", "--numeric-owner", "--one-file-system", "-C", root, "-cf", tar, "."},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("make image: %s: %w: %s", args[0], err, lastLines(out))
		}
	}
	layer, err := tarball.LayerFromFile(tar)
	if err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	if img, err = withConfig(img); err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	p, err := layout.Write(oci, empty.Index)
	if err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	if err := p.AppendImage(img); err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	return dir, os.Rename(oci, dir)
}

func withConfig(img v1.Image) (v1.Image, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config.Cmd = []string{"python3"}
	cfg.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return mutate.ConfigFile(img, cfg)
}

// Registry starts Debian's docker-registry on the host and pushes the image into it. It returns the
// reference by which every host of the lab can pull it.
func (l *Lab) Registry(ctx context.Context, h *Host) (*Proc, string, error) {
	layoutDir, err := l.Image(ctx)
	if err != nil {
		return nil, "", err
	}
	addr := h.Addr.String() + ":5000"
	config := l.Path("registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n",
		l.Path("registry"), addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	p, err := h.Start("registry", "docker-registry", "serve", config)
	if err != nil {
		return nil, "", err
	}
	if err := p.await(ctx, "the registry's answer", func(ctx context.Context) error {
		_, err := h.get(ctx, "http://"+addr+"/v2/")
		return err
	}); err != nil {
		return nil, "", err
	}
	ref := addr + "/python:3"
	return p, ref, h.Push(ctx, layoutDir, ref)
}

// Push copies the one image of an OCI layout into the lab's registry, from inside the host's namespace.
func (h *Host) Push(ctx context.Context, layoutDir, ref string) error {
	index, err := layout.ImageIndexFromPath(layoutDir)
	if err != nil {
		return fmt.Errorf("cached image: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("cached image: %w", err)
	}
	if len(manifest.Manifests) != 1 {
		return fmt.Errorf("cached image: want one manifest, have %d", len(manifest.Manifests))
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return fmt.Errorf("cached image: %w", err)
	}
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: h.Dial}
	defer transport.CloseIdleConnections()
	if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	return nil
}

// get fetches a page from inside the host's namespace.
func (h *Host) get(ctx context.Context, url string) (string, error) {
	transport := &http.Transport{DialContext: h.Dial}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

func lastLines(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) > 600 {
		b = b[len(b)-600:]
	}
	return string(b)
}
