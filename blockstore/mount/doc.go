// Package mount makes file trees of content-addressed blocks appear in the host's file system, before their blocks
// are here ([Lazy], [Loop], [FUSE]) or once they all are ([Sealed]). Whatever the tier, the tree has the same names,
// attributes and bytes, and is read-only.
//
// # Tiers
//
// [Lazy]: an EROFS image of the tree's metadata in a local file, whose data lie on a virtual device: a file that a
// process of its own serves through FUSE. The kernel does names, attributes, caching and reading ahead; only data
// that were never read pass through the process. [Loop] is the same behind loop devices, for kernels before 6.12.
// [FUSE] is for hosts where neither works: the process serves names, too.
//
// [Sealed]: the metadata point at the store's own pack files, and at one file with the small files, which needs to be
// padded to pages. No process of ours is in the path, and nothing is lost when the agent or the server ends.
//
// # Who knows what
//
// The agent has a [Source] for each tree, which knows blocks. The server (internal/server) knows slots of a device and where
// verified bytes of blocks lie, because the agent told it. It outlives the agent: reads of what it knows go on; others
// wait for the next agent, up to the read's deadline, and then fail with an I/O error. The reason, with what the source
// said, is in [Mounts.Failures]. If the server dies, reads of what the kernel has not cached fail. No reader ever gets
// zeros, or bytes that were not compared with a block's name.
//
// That last sentence needs care: some kernels give zeros where a file-backed EROFS gets part of what it asked for
// (6.18.44 gives an error). [Probe] tries it. On such a kernel the device is used past the page cache, in requests that are
// all or nothing, and leaves alternate between two names of it, so that no request spans two.
//
// # Private trees
//
// The packs of a private tree hold what is encrypted. The server decrypts what is read, in place, so that such a tree is
// never sealed. It gets the blocks' keys from the agent, keeps them in its memory alone, and forgets them with the tree,
// once that is unmounted and nobody has anything of it open. So they outlive the agent, and the next one serves the tree
// on without them. Names and attributes are on the disk while the tree is mounted, in a directory for root alone that
// goes with the mount; so is, in the kernel's cache, what was read. Who may mount a private tree is the caller's business.
//
// # The agent's life
//
// After a start: New, Run in the background, List for what is mounted still, Mount for each tree that is wanted (which
// mounts nothing, but says where blocks come from now), Unmount for the others. Before an end for good: Close after Run.
// Before a restart: nothing.
//
// # Contract for the source's files
//
// A pack file's bytes at an announced place, and of a leaf in a sealed tree, must not change while the tree is
// mounted, and a pack must not be made shorter. Deleting the file is harmless.
//
// # Directory
//
//	server-V/            the server of protocol version V: socket, log, and the mount point of its devices
//	tables/ROOT.*        what the server is told of a tree: slots, and for the FUSE tier names
//	meta/ROOT-*.erofs    metadata; beside each such file stands its sha256
//	sealed/ROOT/         metadata, small files, and a record of both
//	private/ROOT/        the same of a private tree, made for each mount and deleted with it: slots, names, metadata
//	mounts/TIER-ROOT/    record and mount point of a mount
//
// ROOT is the tree's CID.
package mount
