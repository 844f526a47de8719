package exchange

import (
	"context"
	"maps"

	"github.com/ipfs/boxo/bitswap/message"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"rialto/blockstore"
)

// servedPeers is how many peers are metered. Beyond it, whoever was served least is not remembered.
const servedPeers = 4096

// Served counts what was served since the start.
type Served struct {
	Blocks int64
	Bytes  int64
}

// Stats counts what was served and fetched since the start, by either protocol.
type Stats struct {
	ServedBlocks int64
	ServedBytes  int64
	Peers        map[string]Served // whom it was served to, by peer id; at most 4096 peers
	Fetched      map[string]Served // who served us, by peer id; likewise, and those of downloads under way
}

// Stats returns the counters.
func (x *Exchange) Stats() Stats {
	s, fetched, downloads := x.counted()
	for d := range downloads { // not under mu, which is taken while a download's is held
		gain(fetched, d.Fetched())
	}
	s.Fetched = make(map[string]Served, len(fetched))
	for p, n := range fetched {
		s.Fetched[p] = *n
	}
	return s
}

// counted returns what was counted until now, and the downloads that were not.
func (x *Exchange) counted() (s Stats, fetched map[string]*Served, downloads map[*Download]struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s = Stats{ServedBlocks: x.stats.Blocks, ServedBytes: x.stats.Bytes, Peers: make(map[string]Served, len(x.served))}
	for p, n := range x.served {
		s.Peers[p.String()] = *n
	}
	fetched = make(map[string]*Served, len(x.fetched))
	for p, n := range x.fetched {
		fetched[p] = new(*n)
	}
	return s, fetched, maps.Clone(x.downloads)
}

// gain adds what a download brought. Whoever served least is not remembered beyond servedPeers.
func gain(all map[string]*Served, f Fetched) {
	for p, n := range f.Peers {
		if p == "" { // Bitswap did not say
			continue
		}
		if all[p] == nil {
			if len(all) >= servedPeers {
				forgetLeast(all)
			}
			all[p] = new(Served)
		}
		all[p].Bytes += n
		all[p].Blocks += f.Blocks[p]
	}
}

// forgetLeast makes room for one more.
func forgetLeast[K comparable](all map[K]*Served) {
	var least K
	first := true
	for k, n := range all {
		if first || n.Bytes < all[least].Bytes {
			least, first = k, false
		}
	}
	delete(all, least)
}

// count counts a block that was served.
func (x *Exchange) count(p peer.ID, size int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.served[p] == nil {
		if len(x.served) == servedPeers {
			forgetLeast(x.served)
		}
		x.served[p] = new(Served)
	}
	for _, n := range []*Served{x.served[p], &x.stats} {
		n.Blocks++
		n.Bytes += int64(size)
	}
}

// public reports whether a peer may have a block over Bitswap.
func (x *Exchange) public(_ peer.ID, c cid.Cid) bool {
	if ours, ok := fromCID(c); ok {
		return x.cfg.Public == nil || x.cfg.Public(ours)
	}
	return x.files.public(c, x.cfg.Public)
}

// usable parses peers and leaves out ourselves and those that sent wrong bytes before.
func (x *Exchange) usable(peers []Peer) []peer.AddrInfo {
	var infos []peer.AddrInfo
	for _, p := range peers {
		id, err := peer.Decode(p.ID)
		if err != nil || id == x.cfg.Host.ID() || x.bad(id) {
			continue
		}
		info := peer.AddrInfo{ID: id}
		for _, a := range p.Addrs {
			m, err := multiaddr.NewMultiaddr(a)
			if err != nil {
				continue
			}
			if transport, named := peer.SplitAddr(m); transport != nil && (named == "" || named == id) {
				info.Addrs = append(info.Addrs, transport)
			}
		}
		infos = append(infos, info)
	}
	return infos
}

func (x *Exchange) bad(id peer.ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.wrong[id] >= strikes
}

// strike counts a wrong block against its sender.
func (x *Exchange) strike(p peer.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.wrong[p]++; x.wrong[p] == strikes {
		x.cfg.Logger.Warn("peer sends wrong blocks and is not asked any more", "peer", p.String())
	}
}

// tracer sees every Bitswap message.
type tracer struct{ x *Exchange }

func (t tracer) MessageSent(p peer.ID, m message.BitSwapMessage) {
	for _, b := range m.Blocks() {
		t.x.count(p, len(b.RawData()))
	}
}

func (t tracer) MessageReceived(from peer.ID, m message.BitSwapMessage) {
	dontHaves, blocks := m.DontHaves(), m.Blocks()
	if len(dontHaves) == 0 && len(blocks) == 0 {
		return
	}
	t.x.mu.Lock()
	downloads := maps.Clone(t.x.downloads)
	t.x.mu.Unlock()
	for d := range downloads {
		d.mu.Lock()
		if d.swap != nil {
			d.swap.dontHave(from, dontHaves)
		}
		d.mu.Unlock()
	}
	for _, b := range blocks {
		t.x.judge(from, b.Cid(), len(b.RawData()), downloads)
	}
}

// judge counts a block that nobody asked for against its sender. One that is here already is only late.
func (x *Exchange) judge(from peer.ID, c cid.Cid, size int, downloads map[*Download]struct{}) {
	ours, ok := fromCID(c)
	for d := range downloads {
		if d.wanted(ours, from, size) {
			return
		}
	}
	if has, err := x.cfg.Store.Has(context.Background(), ours); ok && (err != nil || has) {
		return
	}
	x.mu.Lock()
	_, late := x.late[ours]
	x.mu.Unlock()
	if late {
		return
	}
	x.strike(from)
	for d := range downloads {
		d.mu.Lock()
		if d.swap != nil {
			d.swap.poison(from, ours, size)
		}
		d.mu.Unlock()
	}
}

// wanted reports whether a block that came over Bitswap was asked for, and counts it if that was too late.
func (d *Download) wanted(c blockstore.CID, from peer.ID, size int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.items[c] == nil {
		return false
	}
	if d.swap != nil && d.swap.s.lanes[0].flights[c] == nil {
		if _, ours := d.swap.peers[from]; ours {
			d.wasted += int64(size)
		}
	}
	return true
}
