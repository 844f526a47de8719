package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"rialto/blockstore"
)

// ErrNoImage reports that the registry does not have the image, or not for the platform.
var ErrNoImage = errors.New("no such image")

// Registry reaches OCI registries. The zero value is ready: anonymous, for linux/amd64.
type Registry struct {
	Transport http.RoundTripper // nil: the library's default
	Keychain  authn.Keychain    // nil: anonymous
	Platform  v1.Platform       // zero: linux/amd64
}

// Resolve returns the digest of the platform's manifest, which is what a customer signs and what a
// provider announces. The reference may carry a digest itself.
func (r Registry) Resolve(ctx context.Context, reference string) (blockstore.Digest, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return blockstore.Digest{}, fmt.Errorf("image name %q: %w", reference, err)
	}
	d, err := remote.Get(ref, r.options(ctx)...)
	if err != nil {
		return blockstore.Digest{}, registryError(reference, err)
	}
	if d.MediaType.IsIndex() {
		raw, err := d.RawManifest()
		if err != nil {
			return blockstore.Digest{}, registryError(reference, err)
		}
		return choose(raw, r.platform(), reference)
	}
	return blockstore.ParseDigest(d.Digest.String())
}

// Open reads manifest and config of the image that a signed digest names, in the repository of the
// reference. The reference's own tag or digest does not count.
func (r Registry) Open(ctx context.Context, reference string, signed blockstore.Digest) (*Source, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", reference, err)
	}
	repo := ref.Context()
	d, err := remote.Get(repo.Digest(signed.String()), r.options(ctx)...)
	if err != nil {
		return nil, registryError(reference, err)
	}
	var index []byte
	if d.MediaType.IsIndex() {
		if index, err = d.RawManifest(); err != nil {
			return nil, registryError(reference, err)
		}
		digest, err := choose(index, r.platform(), reference)
		if err != nil {
			return nil, err
		}
		if d, err = remote.Get(repo.Digest(digest.String()), r.options(ctx)...); err != nil {
			return nil, registryError(reference, err)
		}
	}
	img, err := d.Image()
	if err != nil {
		return nil, registryError(reference, err)
	}
	m, err := newSource(img, index)
	if err != nil {
		return nil, registryError(reference, err)
	}
	return m, nil
}

// OpenLayout reads an image from an OCI layout directory. The zero digest means the only one for the platform.
// The zero platform means linux/amd64.
func OpenLayout(dir string, signed blockstore.Digest, platform v1.Platform) (*Source, error) {
	platform = orLinux(platform)
	list, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	var outer []byte
	for range 3 { // index.json, perhaps an index that it lists, then a manifest
		raw, err := list.RawManifest()
		if err != nil {
			return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		if outer == nil || sha256.Sum256(raw) == signed {
			outer = raw
		}
		index, err := list.IndexManifest()
		if err != nil {
			return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		next, found := pick(index, platform, signed)
		if !found {
			break
		}
		if next.MediaType.IsIndex() {
			if list, err = list.ImageIndex(next.Digest); err != nil {
				return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
			}
			continue
		}
		img, err := list.Image(next.Digest)
		if err != nil {
			return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		return newSource(img, outer)
	}
	return nil, fmt.Errorf("OCI layout %s: %w for %v", dir, ErrNoImage, platform)
}

// pick returns the descriptor with the digest, else an index, else the first for the platform.
func pick(index *v1.IndexManifest, platform v1.Platform, signed blockstore.Digest) (v1.Descriptor, bool) {
	var fallback v1.Descriptor
	found := false
	for _, d := range index.Manifests {
		if d.Digest.String() == signed.String() {
			return d, true
		}
		fits := d.Platform == nil || d.Platform.Satisfies(platform)
		if !found && (d.MediaType.IsIndex() || d.MediaType.IsImage() && fits) {
			fallback, found = d, true
		}
	}
	return fallback, found
}

// choose returns the digest that an index has for a platform.
func choose(index []byte, platform v1.Platform, reference string) (blockstore.Digest, error) {
	list, err := v1.ParseIndexManifest(strings.NewReader(string(index)))
	if err != nil {
		return blockstore.Digest{}, fmt.Errorf("index of %s: %w", reference, err)
	}
	var have []string
	for _, d := range list.Manifests {
		if d.Platform == nil || !d.MediaType.IsImage() {
			continue
		}
		if d.Platform.Satisfies(platform) {
			return blockstore.ParseDigest(d.Digest.String())
		}
		have = append(have, d.Platform.String())
	}
	return blockstore.Digest{}, fmt.Errorf("%s: %w for %v, only for %s", reference, ErrNoImage, platform, strings.Join(have, ", "))
}

func (r Registry) platform() v1.Platform { return orLinux(r.Platform) }

func orLinux(p v1.Platform) v1.Platform {
	if p.OS == "" {
		return v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	return p
}

func (r Registry) options(ctx context.Context) []remote.Option {
	opts := []remote.Option{
		remote.WithContext(ctx),
		remote.WithPlatform(r.platform()),
		remote.WithUserAgent("rialto"),
	}
	if r.Transport != nil {
		opts = append(opts, remote.WithTransport(r.Transport))
	}
	if r.Keychain != nil {
		opts = append(opts, remote.WithAuthFromKeychain(r.Keychain))
	}
	return opts
}

// registryError keeps the registry's own words and marks the answer "not there".
func registryError(reference string, err error) error {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		if te.StatusCode == http.StatusNotFound || te.StatusCode == http.StatusUnauthorized {
			return fmt.Errorf("%s: %w: %w", reference, ErrNoImage, err)
		}
	}
	return fmt.Errorf("%s: %w", reference, err)
}
