package blockstore

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// maxFileLinks is how many links a node of a file has at most, in the UnixFS_v1_2025 profile (IPIP-499).
const maxFileLinks = 1024

// NodeCID names a node of IPFS' tree over a large file: CIDv1, codec dag-pb, hash sha2-256. The zero value names
// nothing.
type NodeCID [sha256.Size]byte

// The bytes before the hash in the binary form of a [NodeCID].
const nodePrefix = "\x01\x70\x12\x20"

// String returns the text form, "bafybei…".
func (c NodeCID) String() string {
	return "b" + lowerBase32.EncodeToString(append([]byte(nodePrefix), c[:]...))
}

// FileNode is a node of IPFS' tree over a large file, encoded. Its bytes must not be changed.
type FileNode struct {
	CID  NodeCID
	Data []byte
}

// FileNodes returns the nodes that `ipfs add` makes over a file's blocks under the UnixFS_v1_2025 profile, children
// first, so that the file's root is the last one. There are none for a file of at most one block, which is its own
// root, and for one that is not [Node.Large], whose bytes are no block.
//
// All leaves are equally deep, and each node but the last of its level has 1024 children. A node is dag-pb in its
// canonical form, around a UnixFS message:
//
//	node = { 2: { 1: CID, 2: "", 3: bytes of the child and of all below it } } 1: file
//	file = 2: 2 (a file) 3: bytes of the file below the node { 4: those below each child }
func (t *Tree) FileNodes(n *Node) []FileNode {
	if !n.Large() {
		return nil
	}
	level := make([]fileLink, 0, leaves(n.Size))
	for _, r := range t.Blocks[n.Block : n.Block+leaves(n.Size)] {
		level = append(level, fileLink{prefix: cidPrefix, hash: r.CID, file: uint64(r.Size), total: uint64(r.Size)}) //nolint:gosec // checked: 1 to MaxBlock
	}
	return fileNodes(level, maxFileLinks)
}

// fileNodes builds the levels above some leaves, each node over up to width children.
func fileNodes(level []fileLink, width int) []FileNode {
	var nodes []FileNode
	for len(level) > 1 {
		above := make([]fileLink, 0, (len(level)+width-1)/width)
		for children := range slices.Chunk(level, width) {
			data, link := fileNode(children)
			nodes = append(nodes, FileNode{CID: NodeCID(link.hash), Data: data})
			above = append(above, link)
		}
		level = above
	}
	return nodes
}

// FileCID returns the text form of the CID that `ipfs add` gives a large file under the UnixFS_v1_2025 profile; empty
// for what is not [Node.Large].
func (t *Tree) FileCID(n *Node) string {
	if !n.Large() {
		return ""
	}
	if nodes := t.FileNodes(n); len(nodes) > 0 {
		return nodes[len(nodes)-1].CID.String()
	}
	return t.Blocks[n.Block].CID.String()
}

// fileLink is a child of a node: a leaf or another node.
type fileLink struct {
	prefix string // of its CID
	hash   [sha256.Size]byte
	file   uint64 // bytes of the file in it
	total  uint64 // bytes of it and of all below it
}

// The fields of the two messages, as protobuf writes them before a value: the number, and whether it is a varint or
// has a length.
const (
	pbData, pbLinks              = 1<<3 | 2, 2<<3 | 2
	pbHash, pbName, pbTsize      = 1<<3 | 2, 2<<3 | 2, 3 << 3
	fsType, fsFileSize, fsBlocks = 1 << 3, 3 << 3, 4 << 3
	fsTypeFile                   = 2
)

// fileNode encodes the node over some children.
func fileNode(children []fileLink) ([]byte, fileLink) {
	link := fileLink{prefix: nodePrefix}
	var node, one, file []byte
	for i := range children {
		c := &children[i]
		link.file += c.file
		link.total += c.total
		one = binary.AppendUvarint(append(one[:0], pbHash), uint64(len(c.prefix)+len(c.hash))) //nolint:gosec // never negative
		one = append(append(one, c.prefix...), c.hash[:]...)
		one = append(one, pbName, 0)
		one = binary.AppendUvarint(append(one, pbTsize), c.total)
		node = append(binary.AppendUvarint(append(node, pbLinks), uint64(len(one))), one...) //nolint:gosec // never negative
	}
	file = binary.AppendUvarint([]byte{fsType, fsTypeFile, fsFileSize}, link.file)
	for i := range children {
		file = binary.AppendUvarint(append(file, fsBlocks), children[i].file)
	}
	node = append(binary.AppendUvarint(append(node, pbData), uint64(len(file))), file...) //nolint:gosec // never negative
	link.total += uint64(len(node))                                                       //nolint:gosec // never negative
	link.hash = sha256.Sum256(node)
	return node, link
}
