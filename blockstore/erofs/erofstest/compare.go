package erofstest

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
)

// Compare walks what is mounted at dir and reports every difference to the tree: names, attributes, and each byte.
func Compare(tb testing.TB, dir string, f *Files) {
	tb.Helper()
	t := f.Tree
	names := make(map[int]int) // of files
	children := make(map[int][]string)
	for i := 1; i < len(t.Nodes); i++ {
		n := &t.Nodes[i]
		children[n.Parent] = append(children[n.Parent], n.Name)
		if n.Kind == blockstore.Link {
			names[n.Link]++
		} else {
			names[i]++
		}
	}
	inode := make(map[uint64]int)
	for i := range t.Nodes {
		first := i
		if t.Nodes[i].Kind == blockstore.Link {
			first = t.Nodes[i].Link
		}
		n := &t.Nodes[first]
		path := filepath.Join(dir, t.Path(i))
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			tb.Errorf("%.80q: %v", t.Path(i), err)
			continue
		}
		if other, ok := inode[st.Ino]; ok && other != first {
			tb.Errorf("%.80q has the inode of %.80q", t.Path(i), t.Path(other))
		}
		inode[st.Ino] = first
		compareStat(tb, t.Path(i), n, &st, names[first])
		compareXattrs(tb, path, n)
		switch n.Kind {
		case blockstore.Dir:
			compareDir(tb, path, children[i])
		case blockstore.Symlink:
			if got, err := os.Readlink(path); err != nil || got != n.Target {
				tb.Errorf("%.80q: target of %d bytes, %v; want %d", t.Path(i), len(got), err, len(n.Target))
			}
		default:
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, f.Content(n)) {
				tb.Errorf("%.80q: %d bytes, %v; want %d others", t.Path(i), len(got), err, n.Size)
			}
		}
		if tb.Failed() {
			return // one difference is enough to look at
		}
	}
}

func compareStat(tb testing.TB, path string, n *blockstore.Node, st *unix.Stat_t, names int) {
	tb.Helper()
	mode := map[blockstore.Kind]uint32{blockstore.Dir: unix.S_IFDIR, blockstore.File: unix.S_IFREG, blockstore.Symlink: unix.S_IFLNK}[n.Kind]
	if st.Mode != mode|uint32(n.Mode) || st.Uid != n.UID || st.Gid != n.GID {
		tb.Errorf("%.80q: mode %o, owner %d:%d; want %o, %d:%d", path, st.Mode, st.Uid, st.Gid, n.Mode, n.UID, n.GID)
	}
	if st.Mtim.Sec != n.Sec || st.Mtim.Nsec != int64(n.Nsec) {
		tb.Errorf("%.80q: changed at %d.%09d, want %d.%09d", path, st.Mtim.Sec, st.Mtim.Nsec, n.Sec, n.Nsec)
	}
	if n.Kind == blockstore.File && st.Size != n.Size {
		tb.Errorf("%.80q: %d bytes, want %d", path, st.Size, n.Size)
	}
	if n.Kind != blockstore.Dir && st.Nlink != uint64(names) {
		tb.Errorf("%.80q: %d names, want %d", path, st.Nlink, names)
	}
}

func compareDir(tb testing.TB, path string, want []string) {
	tb.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		tb.Errorf("%.80q: %v", path, err)
	}
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		tb.Errorf("%.80q: %d entries, want %d others", path, len(got), len(want))
	}
}

func compareXattrs(tb testing.TB, path string, n *blockstore.Node) {
	tb.Helper()
	got, err := Xattrs(path)
	if err != nil {
		tb.Errorf("%.80q: attributes: %v", path, err)
		return
	}
	want := make(map[string]string)
	for _, x := range n.Xattrs {
		want[x.Name] = string(x.Value)
	}
	if !maps.Equal(got, want) {
		tb.Errorf("%.80q: attributes %.200q, want %.200q", path, got, want)
	}
}

// Xattrs returns the extended attributes of a file, of a symlink itself.
func Xattrs(path string) (map[string]string, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		all[name] = string(value[:n])
	}
	return all, nil
}
