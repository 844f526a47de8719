// Package blockstore is the vocabulary of content-addressed data: a [CID] names a [Block] of at most 1 MiB by its
// hash, a [Tree] is a file system whose data is in blocks, an [Image] is a tree with the OCI manifest and config that
// it comes from, a [Layout] is a tree's data as a device, and a [Store] keeps blocks.
// The package does no I/O of its own. Subpackages touch the world: disk, peers, registries, mounts.
//
// # Blocks
//
// Every block is raw bytes under a CIDv1 with codec raw and hash sha2-256, so its name is also the OCI digest of those
// bytes, and any Bitswap node understands it. A Block value cannot exist with bytes that do not hash to its CID: it
// is made by [NewBlock] or [Verify] only.
//
// # Trees
//
// A tree is what the layers of an image add up to, or a directory of weights. Its root CID depends on the files'
// names, attributes and contents alone: not on the layers, the order of their entries or their compression, nor on
// the machine. No file system image is part of it: each host writes its own from the tree, so that a kernel never
// parses bytes that a stranger wrote.
//
// A file of at least 64 KiB is cut each 1 MiB from its own start; such a leaf has the CID that `ipfs add` gives it
// under the UnixFS_v1_2025 profile, and the nodes that IPFS puts over them follow from the tree: see [Tree.FileNodes].
// Smaller files lie one behind the other in packs, in the order of the tree, each
// content once. A pack ends once it holds 512 KiB, or once it holds 32 KiB and the file's path says so: the path
// decides, so that a changed file moves no boundary but its own pack's. Attributes are in the tree and not in the
// packs: an image that was built again with new times has the same blocks.
//
// The encoding is canonical: a value has one encoding, and a decoder accepts no other. All integers are minimal
// unsigned varints (u); s is u(length) and the bytes; a digest is 32 bytes (d); z is u of the zigzag form.
//
//	tree  = u(nodes) node… u(blocks) { d u(size) }
//	node  = u(directories closed since the node before) kind(1) s(name) rest
//	rest  = link: u(nodes back to the first name)
//	        else: u(mode) u(uid) u(gid) z(seconds) u(nanoseconds) u(xattrs) { s(name) s(value) }
//	              symlink: s(target)
//	              file:    u(size), if not empty u(block), if smaller than 64 KiB u(offset)
//	image = s(OCI manifest) s(OCI config) d(tree)
//	root  = "rialto tree 1\n" or "rialto image 1\n", then
//	        u(0) body                  if that is at most 1 MiB in all
//	        u(n) u(length) n × d       else: the body, cut each 1 MiB
//
// The root CID is the CID of the root block.
//
// # Private trees
//
// A customer may keep an image or weights from the hosts that hold their blocks. His machine encrypts each block before
// it is hashed, under a key of its own ([Salt.Key], [Key.Crypt]). The block's name is the hash of the encrypted bytes, so
// that everybody can keep it, compare it with its name and hand it on, as any other. Equal files of one customer are one
// block still; those of two customers never are, because each has a salt of his own. k is a key of 32 bytes, ⟨…⟩ is
// encrypted under the root's key:
//
//	private tree  = u(blocks) { d u(size) } ⟨ "rialto tree 1\n" u(nodes) node… blocks × k ⟩
//	private image = d(tree) ⟨ "rialto image 1\n" s(OCI manifest) s(OCI config) k(tree) ⟩
//	root          = "rialto private tree 1\n" or "rialto private image 1\n", and as above
//
// So whoever knows a root can fetch, count and delete what belongs to it, and one key opens it. The words in front tell a
// wrong key from the right one. What is not hidden: how many blocks there are and how large they are, how long the
// list of files is, which blocks two trees of one customer share, and which blocks a run reads.
package blockstore
