// Numbers for people. Money is BigInt in nanodollars from the wire to the screen.
import { h } from './dom.js';

const nanoPerUSD = 1_000_000_000n;

// usd writes nanodollars as dollars: exactly, with at least two decimals, or rounded half to even to a number of places.
export function usd(nano, places) {
  let n = BigInt(nano);
  const sign = n < 0n ? '−' : '';
  if (n < 0n) n = -n;
  if (places !== undefined) {
    const unit = 10n ** BigInt(9 - places);
    const rest = n % unit;
    n -= rest;
    if (rest * 2n > unit || (rest * 2n === unit && (n / unit) % 2n === 1n)) n += unit;
  }
  const whole = (n / nanoPerUSD).toString().replace(/\B(?=(\d{3})+$)/g, ',');
  let part = (n % nanoPerUSD).toString().padStart(9, '0').replace(/0+$/, '').padEnd(2, '0');
  if (places !== undefined) part = part.padEnd(Math.min(places, 9), '0');
  return `${sign}$${whole}.${part}`;
}

// amount is money on the screen: short, with the exact value for a pointer and for programs.
export function amount(nano, places = 4, unit = '') {
  const short = usd(nano, places).replace(/(\.\d\d\d*?)0+$/, '$1');
  return h('data', { value: String(nano), title: usd(nano) + unit }, short + unit);
}

export const rate = (nano, places) => amount(nano, places, '/h');

// price is a rate, or a dash where there is none.
export const price = (nano) => (nano && BigInt(nano) > 0n ? rate(nano) : none());

export function none(text = 'none') {
  return h('span.none', h('span', { 'aria-hidden': 'true' }, '–'), h('span.unseen', text));
}

export const count = (n) => Number(n).toLocaleString('en-US');

// plural counts things: plural(1, 'offer'), plural(2, 'offer').
export const plural = (n, one, many = one + 's') => `${count(n)} ${n === 1 ? one : many}`;

export function mib(n) {
  if (!n) return '–';
  if (n >= 1 << 20) return trim(n / (1 << 20), 1) + ' TiB';
  return n >= 1024 ? trim(n / 1024, 1) + ' GiB' : n + ' MiB';
}

export function bytes(n) {
  for (const [unit, size] of [['TB', 1e12], ['GB', 1e9], ['MB', 1e6], ['kB', 1e3]]) if (n >= size) return trim(n / size, 1) + ' ' + unit;
  return n + ' B';
}

const trim = (x, places) => String(Number(x.toFixed(places)));

export function percent(ppm, places = 1) {
  return trim(Number(ppm) / 1e4, places) + '%';
}

// lasting writes milliseconds as two units at most.
export function lasting(ms) {
  ms = Number(ms);
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return trim(s, 1) + ' s';
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// when writes a time as a person nearby would, with the exact one for a pointer.
export function when(text) {
  if (!text) return none();
  const t = new Date(text);
  const today = new Date().toDateString() === t.toDateString();
  const short = t.toLocaleString('en-GB', today ? { hour: '2-digit', minute: '2-digit', second: '2-digit' } : { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
  return h('time', { datetime: t.toISOString(), title: t.toISOString() }, short);
}
