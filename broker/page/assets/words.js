// Words that mean something, with their meaning.
import { chip } from './dom.js';

const qualities = {
  firm: 'from executed leases of several operators',
  indicative: 'from asks: too few leases were executed',
  stale: 'no price: neither leases nor asks',
};

export const quality = (q) => chip(q, q, qualities[q]);

const tiers = {
  simulated: ['SIMULATED', 'not a real GPU'],
  claimed: ['claimed', 'the owner’s word, nothing more'],
  nvml: ['nvml', 'read from the driver by the provider’s agent'],
};

// tier says how far a GPU's description is proved.
export const tier = (t) => chip(t, tiers[t]?.[0] ?? t, tiers[t]?.[1] ?? 'proved as: ' + t);

// evidence is an offer's tier.
export const evidence = (o) => tier(o.simulated ? 'simulated' : o.level);

export const regions = { any: 'all regions', africa: 'Africa', americas: 'Americas', asia: 'Asia', europe: 'Europe', oceania: 'Oceania' };

// terms are how a lease is bought where it is not on demand. Their prices are never blended.
export const terms = { interruptible: 'interruptible', reserved: 'reserved' };

const names = new Intl.DisplayNames(['en'], { type: 'region' });

// country is a country code with its name.
export function country(code) {
  if (!code) return 'not said';
  try {
    return names.of(code);
  } catch {
    return code;
  }
}
