// Package provider is the vocabulary and the rules of the agent on a GPU host: what it has
// ([Inventory]), where workloads run ([Runtime], [Sandbox]), where images come from ([Images]) and who
// may use which GPU ([Authority]). The provider is the authority over its own GPUs: a lease exists
// because the agent granted it, under an epoch per GPU that only grows. Subpackages touch the world.
package provider

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/tunnel"
)

// ErrNoSandbox reports that no sandbox exists for a lease.
var ErrNoSandbox = errors.New("no such sandbox")

// Inventory is the host's GPUs. Methods are safe for concurrent use.
type Inventory interface {
	// GPUs reads the present state of every GPU.
	GPUs(ctx context.Context) ([]broker.GPU, error)
	// Inject says what a container needs to use the GPUs with these UUIDs and no others.
	Inject(ctx context.Context, uuids []string) (Injection, error)
}

// Injection is what gives a container its GPUs. No hook and nothing of the image is involved.
type Injection struct {
	Devices []string // device nodes on the host, created at the same path
	Mounts  []Mount  // driver files, read-only
	Env     []string // KEY=VALUE
}

// Mount binds a host path into a container.
type Mount struct {
	Source   string // host path
	Target   string // absolute path in the container
	ReadOnly bool
}

// Launch is what a sandbox needs before its image is there.
type Launch struct {
	Lease     broker.LeaseID
	CPUs      int    // whole cores; zero: no limit
	MemoryMiB uint64 // zero: no limit
	DiskMiB   uint64 // what it may write to its root file system; zero: the runtime's default
	PIDs      int64  // zero: the runtime's default
	Hostname  string
}

// Program is what runs in a sandbox.
type Program struct {
	RootFS   string   // read-only directory; the sandbox puts a writable overlay on it
	Args     []string // not empty
	Env      []string // KEY=VALUE
	Workdir  string   // absolute
	User     string   // as in an OCI image config: "", "uid", "uid:gid", "name" or "name:group"
	Mounts   []Mount
	Devices  []string
	Deadline time.Duration // the watchdog ends the workload after this long unless extended
	Notices  bool          // it has [NoticeDir], where Notify leaves files
}

// NoticeDir is where a workload finds what its host has to tell it. It cannot write there.
const NoticeDir = "/run/rialto"

// Exit is how a workload ended.
type Exit struct {
	Code   int    // 128+n when signal n ended it
	Reason string // empty, or why it was ended: "deadline", "out of memory", "stopped"
}

// ExecRequest runs another process in a sandbox.
type ExecRequest struct {
	Args    []string
	Env     []string
	Workdir string
	TTY     bool
	Rows    uint16
	Cols    uint16
	Stdin   io.Reader // nil: none
	Stdout  io.Writer
	Stderr  io.Writer // unused with TTY
	Resize  <-chan Size
}

// Size is a terminal's size in characters.
type Size struct{ Rows, Cols uint16 }

// Stream tells the two outputs of a workload apart.
type Stream uint8

// Streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// LogSink receives a workload's output in order.
type LogSink func(stream Stream, p []byte) error

// Runtime makes sandboxes. Methods are safe for concurrent use.
type Runtime interface {
	// Prepare builds all that does not need the image: network namespace, cgroup, supervisor.
	Prepare(ctx context.Context, l Launch) (Sandbox, error)
	// Adopt returns the sandbox of a lease that an earlier agent process made; ErrNoSandbox if there is none.
	Adopt(ctx context.Context, lease broker.LeaseID) (Sandbox, error)
	// List returns the leases that own anything on this host: processes, namespaces, mounts, cgroups, files.
	List(ctx context.Context) ([]broker.LeaseID, error)
	// Remove deletes everything that a lease owns, whatever is left of it. It is idempotent.
	Remove(ctx context.Context, lease broker.LeaseID) error
}

// Sandbox is one lease's container with its own network namespace. Methods are safe for concurrent use.
type Sandbox interface {
	// Netns is the path of the network namespace; it has only a loopback interface until a tunnel is added.
	Netns() string
	// Start runs the program once and returns when its process exists.
	Start(ctx context.Context, p Program) error
	// Started reports whether Start succeeded, also in an earlier agent process.
	Started() bool
	// Exec runs another process and returns its exit code.
	Exec(ctx context.Context, r ExecRequest) (int, error)
	// Logs feeds what the workload printed to sink, from the beginning, and with follow until it ended.
	Logs(ctx context.Context, follow bool, sink LogSink) error
	// Dial connects to a TCP port of the workload inside the namespace, on its loopback addresses.
	Dial(ctx context.Context, port uint16) (net.Conn, error)
	// Listen opens a TCP listener inside the namespace.
	Listen(ctx context.Context, address string) (net.Listener, error)
	// Extend moves the watchdog's deadline to d from now.
	Extend(ctx context.Context, d time.Duration) error
	// Notify leaves a file in NoticeDir, whole or not at all, in place of one of that name.
	Notify(ctx context.Context, name string, content []byte) error
	// Stop asks the workload to end (SIGTERM) and kills it after grace.
	Stop(ctx context.Context, grace time.Duration, reason string) error
	// Wait returns how the workload ended.
	Wait(ctx context.Context) (Exit, error)
	// Delete removes everything. It is idempotent.
	Delete(ctx context.Context) error
}

// Want names an image or weights to have on the host.
type Want struct {
	Image   string // as the customer wrote it: a registry's, or a local one that peers alone have; empty for weights
	Digest  string // digest of manifest or index that the customer signed; empty for weights
	Root    string // CID that the customer's signed spec names; empty: none; required for weights
	Sources []broker.BlockSource
	Trace   blockstore.Trace // what a run like this one read first, as far as anybody knows; a hint
	// Private says that Root is a private one. Key then waits for its key, and is called when everything else that a
	// start needs is here. Nil: somebody else showed it already, and only its blocks are wanted.
	Private bool
	Key     func(ctx context.Context) (blockstore.Key, error) `json:"-"`
}

// Image is a root file system that is shown on the host, and how to run it.
type Image struct {
	RootFS     string // read-only directory on the host, until Release
	Root       string // CID of the image, or of the weights
	Digest     string // digest of the platform's OCI manifest; empty for weights
	Entrypoint []string
	Cmd        []string
	Env        []string
	Workdir    string
	User       string
	Fetched    broker.Fetched // so far: blocks that nobody waits for may still be on their way
	Release    func()         // ends the use of RootFS. What a container has mounted of it stays
	// Trace returns which blocks of the image were read first, in order, since Ensure; nil when others had read it before,
	// or when nobody can tell. Nil itself: never.
	Trace func(ctx context.Context) (blockstore.Trace, error)
}

// Images brings images and weights onto the host, verified, from the host itself, peers or the registry.
// Methods are safe for concurrent use; concurrent wants of one image share the work.
type Images interface {
	Ensure(ctx context.Context, w Want, progress func(broker.Fetched)) (Image, error)
	// Held lists the images and weights that are whole here and served to peers.
	Held(ctx context.Context) (images []broker.ImageHeld, weights []string, err error)
	// Settle says that whoever used something before this process has asked for it again, or has ended. Until then all
	// that an earlier process showed counts as in use.
	Settle(ctx context.Context) error
	// Yield deletes what nobody uses, so that about so many bytes more are free on the disk, or as many as there are;
	// blockstore.ErrNoSpace if there are none.
	Yield(ctx context.Context, bytes int64) error
	// Advise takes what a broker knows of what is here, in place of what it said before: it decides what goes when room
	// is needed, until then.
	Advise(from broker.PeerID, roots []broker.RootAdvice, until time.Time)
}

// Tunnels opens the provider's end of a lease's tunnel inside a network namespace.
type Tunnels interface {
	Open(ctx context.Context, netns string, name string, c tunnel.Config) (tunnel.Device, error)
	// Remove deletes what a process that died left of a device outside its namespace. It is idempotent, and
	// leaves a device alone that some process serves.
	Remove(ctx context.Context, name string) error
}
