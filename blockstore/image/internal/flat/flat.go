// Package flat turns the layers of an image into one tree of files, in memory.
//
// [Read] takes a layer's tar stream in as it comes: the data of large files becomes blocks at once, that of small
// ones goes to a [Spool], and all else is kept as a list of entries. [FS.Apply] then lays the layers over each
// other, as a container runtime would on a disk.
//
// # What a layer cannot do
//
// Every path is resolved one component at a time below the root: absolute symlinks and ".." in a symlink stay inside,
// as they would in the container; ".." in an entry's own name is refused. The last component is never followed, and
// what is in the way of an entry is replaced, never written through. A hard link needs a target inside. Device nodes
// and pipes are left out and counted: the sandbox makes those that a container needs, and a 0/0 character device
// would be a hole in an overlay. Of extended attributes those are kept that blockstore.KeepXattr names: others would
// steer the overlay that is put on top. Counts, bytes, path lengths and depth are bounded by [Limits].
//
// Modification times are kept: Python trusts compiled files by them.
package flat

import (
	"errors"
	"fmt"
)

// ErrRefused reports an image that asks for what no image may have.
var ErrRefused = errors.New("image refused")

// EntryError says which entry of which layer could not be applied.
type EntryError struct {
	Layer int // counted from 1
	Name  string
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("layer %d: %q: %v", e.Layer, e.Name[:min(len(e.Name), 200)], e.Err)
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// Limits bound an image. Zero fields get defaults.
type Limits struct {
	Entries int   // of all layers; default 2 million: the largest public images have a tenth
	Bytes   int64 // of all files of all layers; default 256 GiB
	Depth   int   // of a path; default 128
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 30
	}
	if l.Depth == 0 {
		l.Depth = 128
	}
	return l
}
