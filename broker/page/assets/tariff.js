// What a host charges for beside its GPUs: its disk by the GiB-hour, and traffic by the GB.
import { h } from './dom.js';
import { amount, bytes, mib, usd } from './format.js';

// What a job may write and has carried for money if it does not say.
export const usual = { diskMiB: 10_240, traffic: 1_000_000_000 };

const nano = (n) => BigInt(n ?? 0);
const disk = (t) => nano(t.disk_nanousd_per_gib_hour);
const ingress = (t) => nano(t.ingress_nanousd_per_gb);
const egress = (t) => nano(t.egress_nanousd_per_gb);

export const chargesDisk = (t) => disk(t) > 0n;
export const chargesTraffic = (t) => ingress(t) > 0n || egress(t) > 0n;
export const charges = (t) => chargesDisk(t) || chargesTraffic(t);

// perMonth is the price of a GiB for a month of 720 hours, as disks are priced elsewhere.
export const perMonth = (t) => amount(disk(t) * 720n, 4);

// perGB is the price of traffic: the same both ways, or in and out.
export function perGB(t) {
  const [into, out] = [ingress(t), egress(t)];
  if (into === out) return [amount(into, 4), ' for a GB'];
  return [into > 0n && [amount(into, 4), ' for a GB in'], into > 0n && out > 0n && ', ', out > 0n && [amount(out, 4), ' for a GB out']];
}

// prices are small lines below the price of a GPU; null: the host charges for nothing else.
export function prices(t) {
  if (!charges(t)) return null;
  const [into, out] = [ingress(t), egress(t)];
  return [
    chargesDisk(t) && h('small', { title: 'for a GiB of disk for a month of 720 hours' }, perMonth(t), '/GiB-month'),
    chargesTraffic(t) && h('small', { title: 'for 10⁹ bytes through the job’s tunnel' }, into === out ? amount(into, 4) : [amount(into, 4), ' in, ', amount(out, 4), ' out'], '/GB'),
  ];
}

// flags say to the command line how much disk and traffic a job wants; undefined and '': what is usual.
export function flags(diskMiB, traffic) {
  const units = [['GB', 1_000_000_000], ['MB', 1_000_000], ['B', 1]];
  const [unit, size] = units.find(([, n]) => traffic % n === 0) ?? units[2];
  const disk = diskMiB % 1024 === 0 ? `${diskMiB / 1024}GiB` : `${diskMiB}MiB`;
  return (diskMiB ? ` --disk ${disk}` : '') + (traffic ? ` --traffic ${traffic / size}${unit}` : '');
}

// divided rounds half to even, as the broker does.
export function divided(n, by) {
  const [whole, rest] = [n / by, n % by];
  return whole + (rest * 2n > by || (rest * 2n === by && whole % 2n === 1n) ? 1n : 0n);
}

// perHour is what so many MiB of a host's disk cost an hour.
export const perHour = (t, diskMiB) => divided(disk(t) * BigInt(diskMiB), 1024n);

// carried is what so many bytes each way cost.
export const carried = (t, n) => divided(ingress(t) * BigInt(n), 1_000_000_000n) + divided(egress(t) * BigInt(n), 1_000_000_000n);

// usedUp reports whether a job's tunnel carried more than is paid for, in a direction that has a price.
export const usedUp = (j) => (ingress(j) > 0n && (j.ingress_bytes ?? 0) > j.traffic_bytes) || (egress(j) > 0n && (j.egress_bytes ?? 0) > j.traffic_bytes);

// beside says what a host charges for beside its GPUs, and how much of it a job may use.
export function beside(t, diskMiB, traffic) {
  if (!charges(t)) return null;
  return h('p', 'Beside its GPUs the host charges ', chargesDisk(t) && [perMonth(t), ' for a GiB of disk a month'], chargesDisk(t) && chargesTraffic(t) && ', and ', chargesTraffic(t) && perGB(t),
    ': you pay for ', chargesDisk(t) && `${mib(diskMiB)} of disk`, chargesDisk(t) && chargesTraffic(t) && ' and ', chargesTraffic(t) && `${bytes(traffic)} of traffic each way at most`, '.');
}

// flow is what a tunnel carried.
export const flow = (x) => `${bytes(x.ingress_bytes ?? 0)} in, ${bytes(x.egress_bytes ?? 0)} out`;

// part is what of a cost disk or traffic are, for a table.
export const part = (n) => usd(nano(n));
