package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

const (
	debounce     = 100 * time.Millisecond // changes often come in twos: a lease ends, an image is whole
	offerTimeout = 10 * time.Second
	offerRetry   = 3 * time.Second
)

// Touch says that what we offer may have changed. It does not block.
func (a *Agent) Touch() {
	a.mu.Lock()
	for _, h := range a.brokers {
		h.stale = true
	}
	a.news = true
	a.mu.Unlock()
	signal(a.changed)
}

// signal wakes a receiver without waiting for it.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *Agent) connected(addr string, id identity.ID) {
	a.mu.Lock()
	h := a.brokers[addr]
	h.id, h.connected, h.stale, h.since = id, true, true, time.Now()
	h.advises, a.news = false, true // it may be another version of it
	for _, w := range a.workloads {
		if w.record().Broker == broker.PeerID(id) {
			signal(w.online)
		}
	}
	a.mu.Unlock()
	a.Logger.Info("connected to broker", slog.String("broker", string(id)), slog.String("addr", addr))
	signal(a.changed)
}

func (a *Agent) disconnected(id identity.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.brokers {
		if h.id == id && h.connected {
			h.connected, h.stale, h.since = false, true, time.Now()
			a.Logger.Warn("lost broker", slog.String("broker", string(id)))
		}
	}
}

// advertise sends our offers to every connected broker that has not seen them.
func (a *Agent) advertise(ctx context.Context) error {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
			wait.Reset(debounce)
			continue
		case <-wait.C:
		}
		if !a.sendOffers(ctx) {
			wait.Reset(offerRetry)
		}
	}
}

// sendOffers reports whether every connected broker has our present offers.
func (a *Agent) sendOffers(ctx context.Context) bool {
	a.mu.Lock()
	to := make(map[*home]identity.ID)
	for _, h := range a.brokers {
		if h.connected && h.stale {
			h.stale = false
			to[h] = h.id // it may be another one's by the time of the answer
		}
	}
	a.mu.Unlock()
	if len(to) == 0 {
		return true
	}
	set := a.offerSet(ctx)
	envelope, err := wire.SealOfferSet(a.Key, set)
	if err != nil {
		a.Logger.Error("offers cannot be signed", slog.Any("err", err))
		return false
	}
	all := true
	for h, id := range to {
		ctx, cancel := context.WithTimeout(ctx, offerTimeout)
		answer, err := a.Network.Request(ctx, id, wire.ProtocolOffers, envelope)
		cancel()
		if err == nil {
			if err := a.advise(h, id, set, answer); err != nil {
				a.Logger.Warn("advice is not followed", slog.String("broker", string(id)), slog.Any("err", err))
			}
		}
		if err != nil {
			all = false
			a.mu.Lock()
			h.stale = true
			a.mu.Unlock()
			a.Logger.Warn("broker did not take our offers", slog.String("broker", string(id)), slog.Any("err", err))
		}
	}
	return all
}

// offerSet describes what can be leased now.
func (a *Agent) offerSet(ctx context.Context) broker.OfferSet {
	images, weights, err := a.Images.Held(ctx)
	if err != nil {
		a.Logger.Warn("images that we hold are not known", slog.Any("err", err))
	}
	disk, _ := a.freeDisk()
	addrs := a.Network.Addrs()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.news { // else it is sent again for advice alone, and no job need try us anew
		a.setSeq++
		a.news = false
	}
	set := broker.OfferSet{Boot: a.boot, Seq: a.setSeq}
	for _, model := range models(a.gpus) {
		o := a.offerOf(model, disk)
		o.Images, o.Weights, o.Addrs = images, weights, addrs
		for _, g := range o.GPUs {
			if !a.draining && a.usable(g) {
				o.Free = append(o.Free, g.UUID)
			}
		}
		set.Offers = append(set.Offers, o)
	}
	return set
}

// offerOf describes all GPUs of a model, on a host with so much free disk. The caller holds a.mu.
func (a *Agent) offerOf(model string, diskMiB uint64) broker.Offer {
	if a.DiskPerJobMiB > 0 {
		diskMiB = min(diskMiB, a.DiskPerJobMiB)
	}
	o := broker.Offer{
		ID: offerID(a.self, model), Provider: a.self, Host: a.Host, Region: a.Region, Rate: a.Rate,
		ReservedRate: a.ReservedRate, ReservedMin: a.ReservedMin, MinBid: a.MinBid, Tariff: a.Tariff,
		CPUs: a.CPUs, MemoryMiB: a.MemoryMiB, DiskMiB: diskMiB, Agent: a.Version,
	}
	for _, g := range a.gpus {
		if g.Model == model {
			o.GPUs = append(o.GPUs, g)
		}
	}
	return o
}

// usable reports whether a GPU can be leased now. The caller holds a.mu.
func (a *Agent) usable(g broker.GPU) bool {
	return !g.Busy && g.UnusableCause == "" && a.authority.Free(g.UUID)
}

// freeDisk returns the free disk in MiB, and false when it is not known.
func (a *Agent) freeDisk() (uint64, bool) {
	if a.DiskFree == nil {
		return 0, false
	}
	free, err := a.DiskFree()
	if err != nil {
		a.Logger.Warn("free disk is not known", slog.Any("err", err))
		return 0, false
	}
	return free, true
}

func models(gpus []broker.GPU) []string {
	var names []string
	for _, g := range gpus {
		if !slices.Contains(names, g.Model) {
			names = append(names, g.Model)
		}
	}
	slices.Sort(names)
	return names
}

// offerID names the offer of a model, the same one at every start.
func offerID(self broker.PeerID, model string) broker.OfferID {
	sum := sha256.Sum256([]byte("rialto offer 1\x00" + string(self) + "\x00" + model))
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
	return broker.OfferID("o-" + strings.ToLower(text))
}

func (a *Agent) watchInventory(ctx context.Context) error {
	tick := time.NewTicker(a.Refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.refresh(ctx); err != nil && ctx.Err() == nil {
			a.Logger.Error("GPUs are unavailable", slog.Any("err", err))
		}
	}
}

// refresh reads the inventory. A host whose GPUs cannot be read offers none of them.
func (a *Agent) refresh(ctx context.Context) error {
	a.setAside()
	gpus, err := a.Inventory.GPUs(ctx)
	a.mu.Lock()
	if err != nil {
		gpus = slices.Clone(a.gpus)
		for i := range gpus {
			gpus[i].UnusableCause = "the host cannot read its GPUs"
		}
	}
	for i := range gpus {
		if gpus[i].Simulated {
			gpus[i].Level = broker.LevelClaimed
		}
		// Our own workloads are no reason to call a GPU busy.
		gpus[i].Busy = gpus[i].Busy && a.authority.Free(gpus[i].UUID)
	}
	same := reflect.DeepEqual(gpus, a.gpus)
	a.gpus = gpus
	a.mu.Unlock()
	if !same {
		a.Touch()
	}
	return err
}
