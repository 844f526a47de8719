package image

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// OpenArchive reads an image from a file that `docker save` wrote. The tag says which one, where there are several;
// empty: the only one.
func OpenArchive(file, tag string) (*Source, error) {
	var want *name.Tag
	if tag != "" {
		t, err := name.NewTag(tag)
		if err != nil {
			return nil, fmt.Errorf("archive %s: tag %q: %w", file, tag, err)
		}
		want = &t
	}
	img, err := tarball.ImageFromPath(file, want)
	if err != nil {
		if manifest, merr := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(file) }); merr == nil && len(manifest) > 1 && tag == "" {
			var tags []string
			for _, d := range manifest {
				tags = append(tags, d.RepoTags...)
			}
			return nil, fmt.Errorf("archive %s: %d images; say which: %s", file, len(manifest), strings.Join(tags, ", "))
		}
		return nil, fmt.Errorf("archive %s: %w", file, err)
	}
	s, err := newSource(img, nil)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", file, err)
	}
	return s, nil
}
