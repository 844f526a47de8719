//go:build linux

package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxPath     = 4095 // PATH_MAX without the end
	maxName     = 255  // NAME_MAX
	maxSymlinks = 40   // as in the kernel
	openDirs    = 128
)

// places finds directories below a root. A real path has no symlink in it; "." is the root.
type places struct {
	root *os.Root
	real map[string]string   // a directory's path as named in layers -> its real path
	dirs map[string]struct{} // real paths that are directories
	open map[string]*os.File // directories at real paths
}

func newPlaces(root *os.Root) places {
	return places{
		root: root,
		real: make(map[string]string),
		dirs: make(map[string]struct{}),
		open: make(map[string]*os.File),
	}
}

func (p *places) close() error {
	p.forget()
	return p.root.Close()
}

// forget empties the caches. It must follow the removal of anything but a file.
func (p *places) forget() {
	clear(p.real)
	clear(p.dirs)
	p.closeDirs()
}

func (p *places) closeDirs() {
	for _, f := range p.open {
		f.Close()
	}
	clear(p.open)
}

// cleanName splits an entry's name into the path of its directory and its last component. Both are
// empty for the root itself.
func cleanName(name string, depth int) (dir, base string, err error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", "", fmt.Errorf("%w: impossible path", ErrRefused)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", "", fmt.Errorf("%w: path with \"..\"", ErrRefused)
		case len(part) > maxName:
			return "", "", fmt.Errorf("%w: name of %d bytes", ErrRefused, len(part))
		}
		parts = append(parts, part)
	}
	if len(parts) > depth {
		return "", "", fmt.Errorf("%w: path of %d components", ErrRefused, len(parts))
	}
	if len(parts) == 0 {
		return "", "", nil
	}
	last := len(parts) - 1
	return strings.Join(parts[:last], "/"), parts[last], nil
}

// resolve returns the real path of a directory named in a layer, following symlinks as the container
// would. With create, missing directories are made, and made is called with their real paths.
func (p *places) resolve(dir string, create bool, made func(real string)) (string, error) {
	if real, ok := p.real[dir]; ok {
		return real, nil
	}
	todo := split(dir)
	cur := "."
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, part)
		if _, known := p.dirs[next]; known {
			cur = next
			continue
		}
		info, err := p.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && create:
			if err := p.root.Mkdir(next, 0o700); err != nil {
				return "", err
			}
			made(next)
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxSymlinks {
				return "", fmt.Errorf("%w: too many symlinks", ErrRefused)
			}
			target, err := p.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				cur = "."
			}
			todo = append(split(target), todo...)
			if len(todo) > maxPath {
				return "", fmt.Errorf("%w: impossible path", ErrRefused)
			}
			continue
		case !info.IsDir():
			return "", fmt.Errorf("%w: %q is not a directory", ErrRefused, next)
		}
		p.dirs[next] = struct{}{}
		cur = next
	}
	p.real[dir] = cur
	return cur, nil
}

// split returns the components of a path that are not empty and not ".".
func split(dir string) []string {
	var parts []string
	for part := range strings.SplitSeq(dir, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// dir returns a descriptor of the directory at a real path. It is good until the next call.
func (p *places) dir(real string) (int, error) {
	f, ok := p.open[real]
	if !ok {
		var err error
		if f, err = p.root.Open(real); err != nil {
			return 0, err
		}
		if len(p.open) >= openDirs {
			p.closeDirs()
		}
		p.open[real] = f
	}
	return int(f.Fd()), nil //nolint:gosec // a descriptor fits an int
}

// remove deletes whatever is at a real path.
func (p *places) remove(real string) error {
	info, err := p.root.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		p.forget()
	}
	return p.root.RemoveAll(real)
}
