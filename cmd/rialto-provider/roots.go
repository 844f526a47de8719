package main

import (
	"context"
	"errors"
	"log/slog"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/broker"
	"rialto/p2p"
)

// maxFound is how many hosts a question to the DHT returns: as many as a broker names.
const maxFound = 8

// finder asks the DHT for hosts.
type finder struct{ roots *p2p.Roots }

// Find returns hosts that say they hold a root.
func (f finder) Find(ctx context.Context, root blockstore.CID) []exchange.Peer {
	var peers []exchange.Peer
	for _, p := range f.roots.Find(ctx, p2p.Root(root), maxFound) {
		peers = append(peers, exchange.Peer{ID: string(p.ID), Addrs: p.Addrs})
	}
	return peers
}

// sharing tells others what is whole on this host: the DHT its roots, and Bitswap peers its large files by the names
// that IPFS has for them.
type sharing struct {
	held interface {
		Held(ctx context.Context) (images []broker.ImageHeld, weights []string, err error)
	}
	store blockstore.Getter
	files interface {
		AddFiles(root blockstore.CID, t *blockstore.Tree)
		DropFiles(root blockstore.CID)
	}
	provide func([]p2p.Root) // nil: there is no DHT
	log     *slog.Logger

	changed chan struct{} // holds a token when held has changed
	shared  map[blockstore.CID]struct{}
}

// touch says that what is held has changed. It does not block.
func (s *sharing) touch() {
	select {
	case s.changed <- struct{}{}:
	default: // it is known already
	}
}

// run shares what is held until ctx ends.
func (s *sharing) run(ctx context.Context) error {
	s.touch()
	for {
		select {
		case <-s.changed:
			if err := s.share(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "what is held cannot be shared by root", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// share shares what is held now, in place of what was.
func (s *sharing) share(ctx context.Context) error {
	images, weights, err := s.held.Held(ctx)
	if err != nil {
		return err
	}
	held := make(map[blockstore.CID]treeReader, len(images)+len(weights))
	for _, i := range images {
		err = errors.Join(err, into(held, i.Root, treeOfImage))
	}
	for _, w := range weights {
		err = errors.Join(err, into(held, w, blockstore.LoadTree))
	}
	if err != nil {
		return err
	}
	roots := make([]p2p.Root, 0, len(held))
	for root := range held {
		roots = append(roots, p2p.Root(root))
	}
	if s.provide != nil {
		s.provide(roots)
	}
	for root := range s.shared {
		if _, ok := held[root]; !ok {
			s.files.DropFiles(root)
			delete(s.shared, root)
		}
	}
	for root, read := range held {
		if _, ok := s.shared[root]; ok {
			continue
		}
		tree, err := read(ctx, root, s.store)
		if err != nil { // it may have been evicted just now
			s.log.DebugContext(ctx, "tree of a root cannot be read", "root", root.String(), "err", err)
			continue
		}
		s.files.AddFiles(root, tree)
		s.shared[root] = struct{}{}
	}
	return nil
}

// treeReader reads the tree under a root.
type treeReader func(ctx context.Context, root blockstore.CID, from blockstore.Getter) (*blockstore.Tree, error)

func into(held map[blockstore.CID]treeReader, name string, read treeReader) error {
	root, err := blockstore.ParseCID(name)
	held[root] = read
	return err
}

func treeOfImage(ctx context.Context, root blockstore.CID, from blockstore.Getter) (*blockstore.Tree, error) {
	m, err := blockstore.LoadImage(ctx, root, from)
	if err != nil {
		return nil, err
	}
	return blockstore.LoadTree(ctx, m.Tree, from)
}
