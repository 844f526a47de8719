package wire

import (
	"time"

	"rialto/blockstore"
)

// Operations of a call.
const (
	OpAdd      = "add"      // serve Root, whose Table is in a file; does nothing if it is served already
	OpMount    = "mount"    // mount Root, which is served, at At; Tree is a file with its names
	OpRemove   = "remove"   // forget Root as soon as nobody has it open
	OpList     = "list"     // what is served
	OpTrace    = "trace"    // first touches of Root
	OpFailures = "failures" // the latest ones
	OpEnd      = "end"      // end once nothing is open and nobody is connected
)

// Request is the body of a [Call].
type Request struct {
	Op       string
	Root     blockstore.CID `json:",omitzero"`
	Table    string         `json:",omitempty"` // path
	Secret   Secret         `json:",omitempty"` // of a private tree's table
	Tree     string         `json:",omitempty"` // path
	Names    blockstore.CID `json:",omitzero"`  // root of what Tree has the names of; zero: Root
	At       string         `json:",omitempty"` // path
	Deadline time.Duration  `json:",omitempty"` // of a read
	Forget   bool           `json:",omitempty"` // remove: its blocks are about to go
}

// Response is the body of a [Reply].
type Response struct {
	Error    string    `json:",omitempty"`
	Served   []Served  `json:",omitempty"`
	Trace    []Touch   `json:",omitempty"`
	Failures []Failure `json:",omitempty"`
	PID      int       `json:",omitempty"` // of the server: end
}

// Served is a tree that the server serves.
type Served struct {
	Root blockstore.CID
	Open int // how often it is open
}

// Touch is the first read of a block.
type Touch struct {
	Block int           // number in the tree
	After time.Duration // since the mount
}

// Failure is a read that got an error because a block was not there in time.
type Failure struct {
	Time   time.Time
	Root   blockstore.CID // of the tree that was read
	CID    blockstore.CID
	Reason string
}

// Names of a server's directory.
const (
	SocketFile = "control"
	DeviceDir  = "fuse" // where the devices are: ROOT, and ROOT.direct without the kernel's cache
	LogFile    = "log"
	Direct     = ".direct"
)
