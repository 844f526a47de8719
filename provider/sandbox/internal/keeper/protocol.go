package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rialto/provider"
)

// Names in a sandbox's directory.
const (
	SocketFile  = "control"     // where the supervisor answers
	ConfigFile  = "config.json" // the OCI spec
	RootFSDir   = "rootfs"      // where the overlay is mounted, in the supervisor's mount namespace only
	DiskFile    = "disk.img"    // the file system of what the workload writes, unless that is not limited
	DiskDir     = "disk"        // where it is mounted, in the supervisor's mount namespace only
	UpperDir    = "upper"       // in DiskDir or what is mounted there: what the workload wrote
	WorkDir     = "work"        // beside it: the overlay's own
	LogDir      = "log"         // see LogWriter
	startedFile = "started"     // exists once the program ran
	exitFile    = "exit.json"   // how it ended; written once, durable before anyone is told
	runcDir     = "runc"        // runc's state
	errFile     = "supervisor.err"
)

// DiskInherited is the argument after a supervisor's directory when descriptor 4 is a mount for DiskDir.
const DiskInherited = "disk"

// Operations of a supervisor.
const (
	OpStart  = "start"
	OpExtend = "extend"
	OpStop   = "stop"
	OpExec   = "exec"
	OpWait   = "wait"
)

// maxMessage bounds a request: it is one packet of a seqpacket socket, which the kernel caps near 200 KiB.
const maxMessage = 128 << 10

// ErrGone reports that the supervisor does not answer: it ended, or was killed.
var ErrGone = errors.New("supervisor is gone")

// Request is one packet to the supervisor; a connection carries one request and one Reply. Closing the
// connection before the reply gives up the request: an exec is then killed.
type Request struct {
	Op       string
	Start    *Start        `json:",omitempty"`
	Duration time.Duration `json:",omitempty"` // extend: deadline from now; stop: grace
	Reason   string        `json:",omitempty"` // stop
	Exec     *Exec         `json:",omitempty"` // its standard streams travel as descriptors
}

// Start says how to start what ConfigFile describes.
type Start struct {
	RuncPath   string
	CgroupPath string
	LowerDir   string // the read-only image
	Deadline   time.Duration
	LogLimit   int64
}

// Exec is another process for the sandbox.
type Exec struct {
	Process json.RawMessage // an OCI process
	TTY     bool            // then one descriptor is sent, a terminal, else three
}

// Reply answers a Request.
type Reply struct {
	Error string         `json:",omitempty"`
	Exit  *provider.Exit `json:",omitempty"` // wait, stop
	Code  int            `json:",omitempty"` // exec
}

// Call sends a request to the supervisor of dir and returns its reply. It returns ErrGone if nobody
// answers. The files stay the caller's.
func Call(ctx context.Context, dir string, q Request, files ...*os.File) (Reply, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return Reply{}, err
	}
	if len(b) > maxMessage {
		return Reply{}, fmt.Errorf("%s request of %d bytes: more than %d", q.Op, len(b), maxMessage)
	}
	c, err := dial(dir)
	if err != nil {
		return Reply{}, err
	}
	defer func() { _ = c.Close() }() // the reply is here or will not come
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	reply, err := exchange(c, b, rights)
	if ctx.Err() != nil {
		return Reply{}, ctx.Err()
	}
	if err != nil {
		return Reply{}, err
	}
	if reply.Error != "" {
		return Reply{}, errors.New(reply.Error)
	}
	return reply, nil
}

func exchange(c *net.UnixConn, request, rights []byte) (Reply, error) {
	if _, _, err := c.WriteMsgUnix(request, rights, nil); err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	buf := make([]byte, maxMessage)
	n, err := c.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return Reply{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if n == 0 {
		return Reply{}, ErrGone
	}
	var r Reply
	if err := json.Unmarshal(buf[:n], &r); err != nil {
		return Reply{}, fmt.Errorf("supervisor's reply: %w", err)
	}
	return r, nil
}

// Listen makes the socket of dir, which its supervisor inherits: who dials is then never too early.
func Listen(dir string) (*os.File, error) {
	var f *os.File
	err := atDir(dir, func(addr *net.UnixAddr) error {
		l, err := net.ListenUnix(addr.Net, addr)
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		f, err = l.File()
		return errors.Join(err, l.Close())
	})
	return f, err
}

func dial(dir string) (*net.UnixConn, error) {
	var c *net.UnixConn
	err := atDir(dir, func(addr *net.UnixAddr) error {
		var err error
		c, err = net.DialUnix(addr.Net, nil, addr)
		return err
	})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return c, err
}

// atDir names the socket of dir through a descriptor, because a socket's path may have 107 bytes only.
func atDir(dir string, use func(*net.UnixAddr) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a path descriptor
	return use(&net.UnixAddr{Net: "unixpacket", Name: filepath.Join("/proc/self/fd", strconv.Itoa(fd), SocketFile)})
}

// ReadExit returns how the sandbox in dir ended, and whether that is on record.
func ReadExit(dir string) (provider.Exit, bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, exitFile))
	if errors.Is(err, os.ErrNotExist) {
		return provider.Exit{}, false, nil
	}
	if err != nil {
		return provider.Exit{}, false, err
	}
	var e provider.Exit
	if err := json.Unmarshal(b, &e); err != nil {
		return provider.Exit{}, false, fmt.Errorf("%s: %w", filepath.Join(dir, exitFile), err)
	}
	return e, true, nil
}

// Started reports whether the program in dir ever ran.
func Started(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, startedFile))
	return err == nil
}

// writeDurable replaces dir/name in one step and returns when the disk has it.
func writeDurable(dir, name string, b []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
