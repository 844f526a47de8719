package exchange

import (
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"rialto/blockstore"
)

const (
	// maxFileNodes bounds the bytes of nodes that are kept in memory: those over 640 GB of large files.
	maxFileNodes = 32 << 20
	// leafBytes is about what a leaf takes in a node.
	leafBytes = 51
)

// AddFiles serves the large files under a tree's root to Bitswap peers by the CIDs that `ipfs add` gives them, until
// DropFiles. The tree's blocks should be in the store. The nodes over all such files are in memory, 51 KB for each
// GiB: beyond 32 MiB, the files of the tree that was added first are served block by block only.
func (x *Exchange) AddFiles(root blockstore.CID, t *blockstore.Tree) { x.files.add(root, t) }

// DropFiles ends what AddFiles began.
func (x *Exchange) DropFiles(root blockstore.CID) { x.files.drop(root) }

// files has the nodes over the large files of some trees. They follow from the trees, so that nobody stores them.
// Methods are safe for concurrent use.
type files struct {
	max int // bytes of nodes

	mu    sync.RWMutex
	size  int // bytes of nodes; those of several trees count for each
	trees []fileTree
	nodes map[blockstore.NodeCID]*sharedNode
}

// fileTree is the nodes over a tree's files.
type fileTree struct {
	root  blockstore.CID
	nodes []blockstore.FileNode // each once
	size  int
}

// sharedNode is a node, and whose it is.
type sharedNode struct {
	data  []byte
	roots []blockstore.CID
}

func newFiles(most int) *files {
	return &files{max: most, nodes: make(map[blockstore.NodeCID]*sharedNode)}
}

// listFiles returns the nodes over a tree's files, and false if they are more than most bytes.
func listFiles(root blockstore.CID, t *blockstore.Tree, most int) (fileTree, bool) {
	ft := fileTree{root: root}
	seen := make(map[blockstore.NodeCID]struct{})
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if n.Size/blockstore.MaxBlock*leafBytes > int64(most) {
			return ft, false
		}
		for _, node := range t.FileNodes(n) {
			if _, dup := seen[node.CID]; dup {
				continue
			}
			seen[node.CID] = struct{}{}
			ft.nodes = append(ft.nodes, node)
			ft.size += len(node.Data)
		}
		if ft.size > most {
			return ft, false
		}
	}
	return ft, true
}

func (f *files) add(root blockstore.CID, t *blockstore.Tree) {
	ft, ok := listFiles(root, t, f.max)
	if !ok || len(ft.nodes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(root)
	for f.size+ft.size > f.max {
		f.remove(f.trees[0].root)
	}
	f.trees = append(f.trees, ft)
	f.size += ft.size
	for _, n := range ft.nodes {
		shared := f.nodes[n.CID]
		if shared == nil {
			shared = &sharedNode{data: n.Data}
			f.nodes[n.CID] = shared
		}
		shared.roots = append(shared.roots, root)
	}
}

func (f *files) drop(root blockstore.CID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(root)
}

// remove forgets a tree, if it is known. The caller holds mu.
func (f *files) remove(root blockstore.CID) {
	i := slices.IndexFunc(f.trees, func(t fileTree) bool { return t.root == root })
	if i < 0 {
		return
	}
	for _, n := range f.trees[i].nodes {
		shared := f.nodes[n.CID]
		shared.roots = slices.DeleteFunc(shared.roots, func(r blockstore.CID) bool { return r == root })
		if len(shared.roots) == 0 {
			delete(f.nodes, n.CID)
		}
	}
	f.size -= f.trees[i].size
	f.trees = slices.Delete(f.trees, i, i+1)
}

// get returns a node's bytes; nil: there is no such node.
func (f *files) get(c cid.Cid) []byte {
	ours, ok := fromNode(c)
	if !ok {
		return nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if shared := f.nodes[ours]; shared != nil {
		return shared.data
	}
	return nil
}

// public reports whether strangers may have a node, which is as public as one of the roots that it belongs to.
func (f *files) public(c cid.Cid, root func(blockstore.CID) bool) bool {
	ours, ok := fromNode(c)
	if !ok {
		return false
	}
	f.mu.RLock()
	var roots []blockstore.CID
	if shared := f.nodes[ours]; shared != nil {
		roots = slices.Clone(shared.roots)
	}
	f.mu.RUnlock()
	return root == nil || slices.ContainsFunc(roots, root)
}

// fromNode returns our form of a node's name, if it is one.
func fromNode(c cid.Cid) (blockstore.NodeCID, bool) {
	sum, ok := sha256Of(c, cid.DagProtobuf)
	return blockstore.NodeCID(sum), ok
}

// sha256Of returns the hash in a CIDv1 of a codec and sha2-256.
func sha256Of(c cid.Cid, codec uint64) (sum blockstore.Digest, ok bool) {
	if !c.Defined() || c.Version() != 1 || c.Type() != codec {
		return sum, false
	}
	mh, err := multihash.Decode(c.Hash())
	if err != nil || mh.Code != multihash.SHA2_256 || len(mh.Digest) != len(sum) {
		return sum, false
	}
	return blockstore.Digest(mh.Digest), true
}
