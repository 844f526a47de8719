//go:build linux

package images

import (
	"context"
	"errors"
	"fmt"

	"rialto/blockstore"
	"rialto/blockstore/exchange"
	"rialto/broker"
	"rialto/provider"
)

// target is a want whose names were read.
type target struct {
	image   string // empty: weights
	signed  blockstore.Digest
	root    blockstore.CID // that the customer vouches for; zero: none
	sources []exchange.Peer
	trace   blockstore.Trace // what is likely to be read first

	private bool
	unlock  func(context.Context) (blockstore.Key, error) // of what is private; nil: it is shown already
	serial  uint64                                        // tells wants of private things apart
}

var errNotPrivate = errors.New("what a registry has, or what has no root, is not private")

func parseWant(w provider.Want) (target, error) {
	t := target{image: w.Image, trace: w.Trace, private: w.Private, unlock: w.Key}
	var err error
	if w.Root != "" {
		if t.root, err = blockstore.ParseCID(w.Root); err != nil {
			return target{}, fmt.Errorf("root of an image: %w", err)
		}
	}
	if w.Image != "" {
		if t.signed, err = blockstore.ParseDigest(w.Digest); err != nil {
			return target{}, fmt.Errorf("digest of %s: %w", w.Image, err)
		}
	} else if t.root.IsZero() {
		return target{}, errors.New("weights without a root")
	}
	if t.private && (t.root.IsZero() || t.image != "" && !broker.IsLocalImage(t.image)) {
		return target{}, fmt.Errorf("%s: %w", t.name(), errNotPrivate)
	}
	for _, s := range w.Sources {
		t.sources = append(t.sources, exchange.Peer{ID: string(s.Peer), Addrs: s.Addrs})
	}
	return t, nil
}

// key is equal for targets that are the same thing. Where to get it from is the first caller's word. Of what is private
// each caller must show that he has the key, so that no two wants are the same.
func (t target) key() string {
	if t.private {
		return fmt.Sprintf("private %d %v", t.serial, t.root)
	}
	if t.image == "" {
		return t.root.String()
	}
	return t.signed.String() + " " + t.root.String() + " " + t.image
}

// name is what a person knows a target by.
func (t target) name() string {
	if t.image == "" {
		return "weights " + t.root.String()
	}
	return t.image
}

// registered reports whether a registry has the target.
func (t target) registered() bool {
	return t.image != "" && !t.private && !broker.IsLocalImage(t.image)
}
