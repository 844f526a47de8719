//go:build linux

package unpack

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh." // bookkeeping of an old driver
	xattrPrefix    = "SCHILY.xattr."
	capabilities   = "security.capability"
)

// entry applies one entry of a layer.
func (t *Tree) entry(h *tar.Header, data io.Reader) error {
	if t.stats.Entries++; t.stats.Entries > t.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", ErrRefused, t.limits.Entries)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if h.Uid < 0 || h.Gid < 0 || h.Uid > 1<<32-2 || h.Gid > 1<<32-2 {
		return fmt.Errorf("%w: impossible owner", ErrRefused)
	}
	dir, base, err := cleanName(h.Name, t.limits.Depth)
	if err != nil {
		return err
	}
	if base == "" {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the root is a directory", ErrRefused)
		}
		t.meta["."] = h
		return nil
	}
	parent, err := t.places.resolve(dir, true, t.implied)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return t.white(parent, base)
	}
	real := path.Join(parent, base)
	switch h.Typeflag {
	case tar.TypeDir:
		err = t.directory(real, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		err = t.file(parent, base, h, data)
	case tar.TypeSymlink:
		err = t.symlink(parent, base, h)
	case tar.TypeLink:
		err = t.link(parent, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		t.stats.Skipped++
		err = t.places.remove(real) // it hides what was there
	default:
		err = fmt.Errorf("%w: entry of type %q", ErrRefused, h.Typeflag)
	}
	if err != nil {
		return err
	}
	t.mark(real)
	return nil
}

// implied notes a directory that has no entry of its own, so far.
func (t *Tree) implied(real string) {
	t.meta[real] = &tar.Header{Mode: 0o755}
	t.mark(real)
}

// white removes what lower layers put at a name, or with the opaque mark all that they put in a directory.
func (t *Tree) white(parent, base string) error {
	if t.own == nil {
		return nil // nothing is below the first layer
	}
	if base == whiteoutOpaque {
		return t.pruneChildren(parent)
	}
	name := strings.TrimPrefix(base, whiteout)
	if strings.HasPrefix(base, whiteoutAUFS) {
		return nil
	}
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout of %q", ErrRefused, name)
	}
	return t.prune(path.Join(parent, name))
}

func (t *Tree) prune(real string) error {
	if _, own := t.own[real]; !own {
		return t.places.remove(real)
	}
	info, err := t.places.root.Lstat(real)
	if err != nil || !info.IsDir() {
		return ignore(err, fs.ErrNotExist)
	}
	return t.pruneChildren(real)
}

func (t *Tree) pruneChildren(real string) error {
	children, err := fs.ReadDir(t.places.root.FS(), real)
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := t.prune(path.Join(real, c.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) directory(real string, h *tar.Header) error {
	err := t.places.root.Mkdir(real, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := t.places.root.Lstat(real)
		if statErr != nil {
			return statErr
		}
		if err = nil; !info.IsDir() {
			if err := t.places.remove(real); err != nil {
				return err
			}
			err = t.places.root.Mkdir(real, 0o700)
		}
	}
	if err != nil {
		return err
	}
	t.meta[real] = h
	return nil
}

// make calls create, and once more when something was in the way.
func (t *Tree) make(parent, base string, create func(dir int) error) error {
	dir, err := t.places.dir(parent)
	if err != nil {
		return err
	}
	err = create(dir)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := t.places.remove(path.Join(parent, base)); err != nil {
		return err
	}
	if dir, err = t.places.dir(parent); err != nil { // removing may have closed it
		return err
	}
	return create(dir)
}

func (t *Tree) file(parent, base string, h *tar.Header, data io.Reader) error {
	if h.Size > t.limits.Bytes-t.stats.Bytes {
		return fmt.Errorf("%w: more than %d bytes", ErrRefused, t.limits.Bytes)
	}
	t.stats.Bytes += h.Size
	fd := -1
	err := t.make(parent, base, func(dir int) (err error) {
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = t.fill(fd, data)
	if err == nil {
		err = t.attributes(fd, h)
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return t.times(parent, base, h)
}

func (t *Tree) fill(fd int, data io.Reader) error {
	for {
		n, err := data.Read(t.buf)
		for p := t.buf[:n]; len(p) > 0; {
			w, err := unix.Write(fd, p)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			p = p[w:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// attributes sets owner, extended attributes and mode, in the order in which they do not undo each other.
func (t *Tree) attributes(fd int, h *tar.Header) error {
	mode := uint32(h.Mode & 0o7777) //nolint:gosec // masked
	if t.asRoot {
		if h.Uid != 0 || h.Gid != 0 {
			if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
				return err
			}
		}
	} else {
		mode &= 0o777
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok {
			continue
		}
		if !strings.HasPrefix(name, "user.") && (name != capabilities || !t.asRoot) {
			t.stats.Skipped++
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(v), 0); err != nil {
			t.stats.Skipped++ // not every file system has them
		}
	}
	return nil
}

func (t *Tree) times(parent, base string, h *tar.Header) error {
	dir, err := t.places.dir(parent)
	if err != nil {
		return err
	}
	return setTimes(dir, base, h)
}

func setTimes(dir int, base string, h *tar.Header) error {
	var ts unix.Timespec
	if !h.ModTime.IsZero() {
		ts = unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	}
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *Tree) symlink(parent, base string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
		return fmt.Errorf("%w: impossible symlink", ErrRefused)
	}
	err := t.make(parent, base, func(dir int) error { return unix.Symlinkat(h.Linkname, dir, base) })
	if err != nil {
		return err
	}
	dir, err := t.places.dir(parent)
	if err != nil {
		return err
	}
	if t.asRoot && (h.Uid != 0 || h.Gid != 0) {
		if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return setTimes(dir, base, h)
}

// link makes a second name of a file that an entry made before.
func (t *Tree) link(parent, base string, h *tar.Header) error {
	dir, name, err := cleanName(h.Linkname, t.limits.Depth)
	if err != nil {
		return err
	}
	if name == "" {
		return fmt.Errorf("%w: hard link to a directory", ErrRefused)
	}
	from, err := t.places.resolve(dir, false, nil)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	target := path.Join(from, name)
	info, err := t.places.root.Lstat(target)
	switch {
	case err != nil:
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	case info.IsDir():
		return fmt.Errorf("%w: hard link to a directory", ErrRefused)
	case target == path.Join(parent, base):
		return nil
	}
	return t.make(parent, base, func(dir int) error {
		old, err := t.places.root.Open(from)
		if err != nil {
			return err
		}
		defer old.Close()
		return unix.Linkat(int(old.Fd()), name, dir, base, 0) //nolint:gosec // a descriptor fits an int
	})
}

// finishDir sets a directory's attributes, if it is still one.
func (t *Tree) finishDir(real string, h *tar.Header) error {
	info, err := t.places.root.Lstat(real)
	if err != nil || !info.IsDir() {
		return ignore(err, fs.ErrNotExist, syscall.ENOTDIR)
	}
	f, err := t.places.root.Open(real)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd()) //nolint:gosec // a descriptor fits an int
	if err := setTimes(fd, ".", h); err != nil {
		return err
	}
	return t.attributes(fd, h)
}

func deepestFirst(meta map[string]*tar.Header) []string {
	return slices.SortedFunc(maps.Keys(meta), func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), cmp.Compare(a, b))
	})
}

func ignore(err error, harmless ...error) error {
	for _, h := range harmless {
		if errors.Is(err, h) {
			return nil
		}
	}
	return err
}
