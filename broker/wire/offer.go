package wire

import (
	"fmt"

	"rialto/broker"
	"rialto/p2p/identity"
)

// SealOfferSet signs a provider's offers.
func SealOfferSet(k identity.Key, x broker.OfferSet) ([]byte, error) { return offerSets().seal(k, x) }

// OpenOfferSet checks and decodes a provider's offers. Each names the signer as its provider.
func OpenOfferSet(envelope []byte) (broker.OfferSet, broker.PeerID, error) {
	return offerSets().open(envelope)
}

func offerSets() codec[broker.OfferSet, *OfferSet] {
	return codec[broker.OfferSet, *OfferSet]{
		name: "offerset", max: MaxOfferSet, fresh: func() *OfferSet { return new(OfferSet) },
		encode: encodeOfferSet, decode: decodeOfferSet, signer: offerSetSigner,
	}
}

func offerSetSigner(x broker.OfferSet, signer identity.ID) error {
	for _, o := range x.Offers {
		if o.Provider != broker.PeerID(signer) {
			return fmt.Errorf("offer %s: provider %s, signed by %s: %w", o.ID, o.Provider, signer, broker.ErrForbidden)
		}
	}
	return nil
}

func encodeOfferSet(x broker.OfferSet) *OfferSet {
	return &OfferSet{Boot: x.Boot, Seq: x.Seq, Offers: each(x.Offers, encodeOffer)}
}

func decodeOfferSet(c checker, m *OfferSet) broker.OfferSet {
	x := broker.OfferSet{
		Boot:   c.name("boot", m.GetBoot()),
		Seq:    m.GetSeq(),
		Offers: messages(c, "offers", m.GetOffers(), maxOffers, decodeOffer),
	}
	unique(c, "offers", x.Offers, func(o broker.Offer) broker.OfferID { return o.ID })
	return x
}

func encodeOffer(x broker.Offer) *Offer {
	return &Offer{
		Id: string(x.ID), Provider: string(x.Provider), Host: x.Host, Region: x.Region,
		Gpus: each(x.GPUs, encodeGPU), Free: x.Free, RateNanousdPerHour: int64(x.Rate), Cpus: narrow(x.CPUs),
		MemoryMib: x.MemoryMiB, DiskMib: x.DiskMiB, Images: each(x.Images, encodeImageHeld), Weights: x.Weights,
		Addrs: x.Addrs, Agent: x.Agent, MinBidNanousdPerHour: int64(x.MinBid),
		ReservedRateNanousdPerHour: int64(x.ReservedRate), ReservedMinNs: int64(x.ReservedMin), Tariff: encodeTariff(x.Tariff),
	}
}

func decodeOffer(c checker, m *Offer) broker.Offer {
	x := broker.Offer{
		ID:        broker.OfferID(c.name("id", m.GetId())),
		Provider:  c.peer("provider", m.GetProvider()),
		Host:      c.word("host", m.GetHost()),
		Region:    c.region("region", m.GetRegion()),
		GPUs:      messages(c, "gpus", m.GetGpus(), maxHostGPUs, decodeGPU),
		Free:      list(c, "free", m.GetFree(), maxHostGPUs, checker.name),
		Rate:      c.rate("rate_nanousd_per_hour", m.GetRateNanousdPerHour()),
		CPUs:      c.integer("cpus", m.GetCpus(), 0, maxCPUs),
		MemoryMiB: c.size("memory_mib", m.GetMemoryMib(), maxMemoryMiB),
		DiskMiB:   c.size("disk_mib", m.GetDiskMib(), maxDiskMiB),
		Images:    messages(c, "images", m.GetImages(), maxImages, decodeImageHeld),
		Weights:   list(c, "weights", m.GetWeights(), maxWeights, checker.cid),
		Addrs:     addresses(c, "addrs", m.GetAddrs()),
		Agent:     c.word("agent", m.GetAgent()),
		MinBid:    c.rate("min_bid_nanousd_per_hour", m.GetMinBidNanousdPerHour()),

		ReservedRate: c.rate("reserved_rate_nanousd_per_hour", m.GetReservedRateNanousdPerHour()),
		ReservedMin:  c.duration("reserved_min_ns", m.GetReservedMinNs()),
		Tariff:       decodeTariff(c.in("tariff"), m.GetTariff()),
	}
	if (x.ReservedRate == 0) != (x.ReservedMin == 0) {
		c.failf("reserved_min_ns", "a reserved rate of %v with a least term of %v", x.ReservedRate, x.ReservedMin)
	}
	owned := unique(c, "gpus", x.GPUs, func(g broker.GPU) string { return g.UUID })
	for _, g := range x.GPUs {
		if g.Model != x.GPUs[0].Model {
			c.failf("gpus", "models %q and %q in one offer", x.GPUs[0].Model, g.Model)
		}
	}
	unique(c, "free", x.Free, func(uuid string) string { return uuid })
	for _, uuid := range x.Free {
		if !owned[uuid] {
			c.failf("free", "%q is not a GPU of the offer", uuid)
		}
	}
	return x
}

func encodeGPU(x broker.GPU) *GPU {
	return &GPU{
		Uuid: x.UUID, Model: x.Model, MemoryMib: x.MemoryMiB, Driver: x.Driver, Cuda: x.CUDA,
		ComputeMajor: narrow(x.ComputeMajor), ComputeMinor: narrow(x.ComputeMinor), PciBus: x.PCIBus,
		PowerLimitMw: x.PowerLimitMW, Level: Level(x.Level), Simulated: x.Simulated,
		DeviceMinor: narrow(x.DeviceMinor), Busy: x.Busy, UnusableCause: clean(x.UnusableCause),
	}
}

func decodeGPU(c checker, m *GPU) broker.GPU {
	if _, ok := Level_name[int32(m.GetLevel())]; !ok {
		c.failf("level", "%d is not known", m.GetLevel())
	}
	if m.GetSimulated() && m.GetLevel() != Level_LEVEL_CLAIMED {
		c.failf("level", "%v of a simulated GPU", m.GetLevel())
	}
	return broker.GPU{
		UUID:          c.name("uuid", m.GetUuid()),
		Model:         c.name("model", m.GetModel()),
		MemoryMiB:     c.size("memory_mib", m.GetMemoryMib(), maxMemoryMiB),
		Driver:        c.word("driver", m.GetDriver()),
		CUDA:          c.word("cuda", m.GetCuda()),
		ComputeMajor:  c.integer("compute_major", m.GetComputeMajor(), 0, maxCompute),
		ComputeMinor:  c.integer("compute_minor", m.GetComputeMinor(), 0, maxCompute),
		PCIBus:        c.word("pci_bus", m.GetPciBus()),
		PowerLimitMW:  c.size("power_limit_mw", m.GetPowerLimitMw(), maxPowerMW),
		Level:         broker.Level(m.GetLevel()),
		Simulated:     m.GetSimulated(),
		DeviceMinor:   c.integer("device_minor", m.GetDeviceMinor(), -1, maxMinor-1),
		Busy:          m.GetBusy(),
		UnusableCause: c.message("unusable_cause", m.GetUnusableCause()),
	}
}

func encodeTariff(x broker.Tariff) *Tariff {
	if x == (broker.Tariff{}) {
		return nil
	}
	return &Tariff{DiskNanousdPerGibHour: int64(x.Disk), IngressNanousdPerGb: int64(x.Ingress), EgressNanousdPerGb: int64(x.Egress)}
}

func decodeTariff(c checker, m *Tariff) broker.Tariff {
	return broker.Tariff{
		Disk:    c.rate("disk_nanousd_per_gib_hour", m.GetDiskNanousdPerGibHour()),
		Ingress: c.money("ingress_nanousd_per_gb", m.GetIngressNanousdPerGb()),
		Egress:  c.money("egress_nanousd_per_gb", m.GetEgressNanousdPerGb()),
	}
}

func encodeImageHeld(x broker.ImageHeld) *ImageHeld {
	return &ImageHeld{Digest: x.Digest, Root: x.Root}
}

func decodeImageHeld(c checker, m *ImageHeld) broker.ImageHeld {
	return broker.ImageHeld{Digest: c.digest("digest", m.GetDigest()), Root: c.cid("root", m.GetRoot())}
}

// unique refuses items with equal keys and returns the keys.
func unique[X any, K comparable](c checker, field string, items []X, key func(X) K) map[K]bool {
	seen := make(map[K]bool, len(items))
	for _, item := range items {
		k := key(item)
		if seen[k] {
			c.failf(field, "%v is there twice", k)
		}
		seen[k] = true
	}
	return seen
}
