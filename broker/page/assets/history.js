// Series of prices: the newest row of each interval, oldest first, as [milliseconds, nanodollars an hour].
import { get } from './api.js';

export const steps = { '1m': 60, '5m': 300, '1h': 3600, '1d': 86400 };

// bars returns a cell's rows; where a row revises an earlier one, that which came last counts.
export async function bars(cell, quality, step, from, signal) {
  const h = await get('/v1/prices/history', { cell, quality, step, from: from?.toISOString() }, signal);
  const by = new Map();
  for (const b of h.bars) by.set(b.start, b);
  return [...by.values()].sort((a, b) => (a.start < b.start ? -1 : 1));
}

export const points = (rows, field = 'close_nanousd_per_hour') => rows.filter((b) => b[field] > 0n).map((b) => [Date.parse(b.start), b[field]]);

// A few at a time: a market has many models, and an address may ask so often only.
let running = 0;
const waiting = [];
async function slot(fn) {
  if (running >= 4) await new Promise((go) => waiting.push(go));
  running++;
  try {
    return await fn();
  } finally {
    running--;
    waiting.shift()?.();
  }
}

// series is a week of a cell, by hours, or by minutes where the market is younger than a few hours.
export function series(cell, quality, signal) {
  return slot(async () => {
    const week = new Date(Math.floor(Date.now() / 3.6e6) * 3.6e6 - 7 * 864e5);
    const hours = points(await bars(cell, quality, '1h', week, signal));
    return hours.length > 3 ? hours : points(await bars(cell, quality, '1m', week, signal));
  });
}
