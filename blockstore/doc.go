// Package blockstore is the vocabulary of content-addressed data: a [CID] names a [Block] of at most
// 1 MiB by its hash, a [Manifest] lists the blocks that an OCI image or a directory of weights
// consists of, [Cut] decides where blocks begin and end, and a [Store] keeps them.
// The package does no I/O of its own. Subpackages touch the world: disk, peers, registries.
//
// # Blocks
//
// Every block is raw bytes under a CIDv1 with codec raw and hash sha2-256, so its name is also the
// OCI digest of those bytes, and any Bitswap node understands it. A Block value cannot exist with
// bytes that do not hash to its CID: it is made by [NewBlock] or [Verify] only.
//
// # The manifest
//
// An image is the raw OCI platform manifest, the raw OCI config, and for each layer the uncompressed
// tar stream as a list of blocks. Nobody needs to be trusted for it: sha256 of the OCI manifest must
// be the digest that the customer signed, sha256 of the config is in the OCI manifest, and sha256 over
// each layer's stream is a diff_id of the config. Weights are one tar stream with neither OCI part;
// the customer signs the root CID itself. Equal images have equal roots wherever they are imported.
//
// The encoding is canonical: a value has one encoding, and a decoder accepts no other. All integers
// are minimal unsigned varints (u); a digest is 32 bytes (d).
//
//	body   = u(kind: 1 image, 2 directory)
//	         u(length) OCI manifest   u(length) OCI config   (both absent in a directory)
//	         u(layers) { d(sha256 of the stream) u(blocks) { d(sha256 of the block) u(size) } }
//	root   = "rialto manifest 1\n" u(0) body                  if that is at most 1 MiB
//	       = "rialto manifest 1\n" u(n) u(length) n × d       else: the body, cut each 1 MiB
//
// The root CID is the CID of the root block.
//
// # Cutting
//
// The cut follows the tar format, so that an unchanged file gives unchanged blocks wherever it lies in
// the stream. The data of a file of at least 64 KiB is cut each 1 MiB from its own start and at its
// end; such a leaf has the CID that `ipfs add` gives it under the UnixFS_v1_2025 profile. What lies
// between (headers, small files, padding) is packed. A pack ends before a large file, at 1 MiB, and
// after a small file once it holds 512 KiB, or once it holds 128 KiB and the file's name says so: the
// name decides, not the count, so that a changed file moves no boundary but its own pack's.
package blockstore
