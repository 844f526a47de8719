package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	maxAccounts = 1 << 20 // bytes of a passwd or group file
	maxGroups   = 1 << 10 // of one user; the kernel takes 65,536
	rootName    = "root"
)

// LookupUser resolves a user as an image names it ("", "uid", "uid:gid", "name" or "name:group") in the
// passwd and group files of the root file system at root.
func LookupUser(root, user string) (specs.User, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if hasGroup && (name == "" || group == "") {
		return specs.User{}, fmt.Errorf("user %q: want uid, uid:gid, name or name:group", user)
	}
	if name == "" {
		name = rootName
	}
	accounts, err := readAccounts(root, "/etc/passwd", 7)
	if err != nil {
		return specs.User{}, err
	}
	u := specs.User{}
	id, numeric := parseID(name)
	found := false
	for _, a := range accounts {
		uid, ok := parseID(a[2])
		if !ok || a[0] != name && (!numeric || uid != id) {
			continue
		}
		gid, ok := parseID(a[3])
		if !ok {
			continue
		}
		u.UID, u.GID, name, found = uid, gid, a[0], true
		break
	}
	switch {
	case found:
	case numeric: // a number needs no account
		u.UID, name = id, ""
	case name == rootName: // nor does root, in an image with one static binary
	default:
		return specs.User{}, fmt.Errorf("user %q: not in the image's /etc/passwd", name)
	}
	groups, err := readAccounts(root, "/etc/group", 4)
	if err != nil {
		return specs.User{}, err
	}
	if hasGroup {
		u.GID, err = lookupGroup(groups, group)
		return u, err
	}
	for _, g := range groups {
		gid, ok := parseID(g[2])
		if ok && name != "" && gid != u.GID && slices.Contains(strings.Split(g[3], ","), name) &&
			!slices.Contains(u.AdditionalGids, gid) && len(u.AdditionalGids) < maxGroups {
			u.AdditionalGids = append(u.AdditionalGids, gid)
		}
	}
	return u, nil
}

func lookupGroup(groups [][]string, group string) (uint32, error) {
	for _, g := range groups {
		if gid, ok := parseID(g[2]); ok && g[0] == group {
			return gid, nil
		}
	}
	if gid, ok := parseID(group); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("group %q: not in the image's /etc/group", group)
}

// parseID parses a user or group id. The highest value means "no change" to the kernel and is refused.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<31
}

// readAccounts returns the lines of a colon-separated file in an image that have at least fields fields.
// An image without the file has no lines. The image is hostile: its symbolic links are followed inside it
// only, what is not a regular file is not read, and neither is more than maxAccounts.
func readAccounts(root, name string, fields int) ([][]string, error) {
	f, err := openIn(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseAccounts(io.LimitReader(f, maxAccounts), fields)
}

func parseAccounts(r io.Reader, fields int) ([][]string, error) {
	var lines [][]string
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxAccounts+1)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if f := strings.Split(line, ":"); len(f) >= fields && f[0] != "" && line[0] != '#' {
			lines = append(lines, f)
		}
	}
	return lines, s.Err()
}

// openIn opens a regular file below root for reading, with root as "/" for every symbolic link.
func openIn(root, name string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir) //nolint:errcheck // a path descriptor
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, name, how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root + name, Err: err}
	}
	// A path descriptor opens nothing yet: a FIFO cannot hold us and a device does not notice.
	defer unix.Close(fd) //nolint:errcheck // a path descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: root + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxAccounts {
		return nil, fmt.Errorf("%s of the image is not a regular file of at most %d bytes", name, maxAccounts)
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}
