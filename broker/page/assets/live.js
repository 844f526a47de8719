// What the market is now: one row for each cell, from /v1/prices and then from the stream of changes.
import { follow, get } from './api.js';

const cells = new Map();
const watchers = new Set();
let queued = false;
let loaded = false;

export const rows = () => [...cells.values()].sort((a, b) => (a.cell < b.cell ? -1 : 1));
export const row = (cell) => cells.get(cell);
export const ready = () => loaded;

// watch calls a function now and after changes, at most once a frame and with the kinds of change, until the signal.
export function watch(fn, signal) {
  watchers.add(fn);
  signal?.addEventListener('abort', () => watchers.delete(fn), { once: true });
  if (loaded) fn(new Set());
}

const kinds = new Set();
function changed(kind) {
  kinds.add(kind);
  if (queued) return;
  queued = true;
  setTimeout(() => {
    queued = false;
    const now = new Set(kinds);
    kinds.clear();
    for (const fn of watchers) fn(now);
  }, 50);
}

async function read(signal) {
  const all = await get('/v1/prices', {}, signal);
  cells.clear();
  for (const p of all.prices) cells.set(p.cell, p);
  loaded = true;
  changed('all');
}

// apply takes an event of the stream. A cell that is not known yet is read with the others.
function apply(name, data) {
  const known = cells.get(data.cell);
  switch (name) {
    case 'price':
      cells.set(data.cell, { ...known, ...data });
      break;
    case 'offer':
      if (known) Object.assign(known, { offers: data.offers, providers: data.providers, available_gpus: data.available_gpus, total_gpus: data.total_gpus });
      else read().catch(() => {});
      break;
    case 'depth':
      if (known) Object.assign(known, { depth: data.depth, available_gpus: data.available_gpus, levels: data.levels, left_out: data.left_out, bids: data.bids, bids_left_out: data.bids_left_out, best_ask_nanousd_per_hour: data.levels[0]?.nanousd_per_hour ?? 0n });
      break;
    case 'reset':
      read().catch(() => {});
      return;
  }
  changed(name);
}

// start follows the market while somebody looks at it, and says in an element whether it does. A page that is hidden lets go
// of its stream: without HTTP/2 a browser has six connections to a broker, for all its tabs.
export function start(status) {
  const text = status.querySelector('#live-text');
  const state = (s, why) => {
    status.dataset.state = s;
    text.textContent = why ?? { live: 'live', lost: 'connection lost, trying again', off: 'not live' }[s];
  };
  let looking = null;
  const look = async () => {
    if (document.hidden || looking) return;
    looking = new AbortController();
    const { signal } = looking;
    try {
      await load(signal, state);
      await follow('/v1/stream', { on: apply, state, signal }); // which begins with what is true now
    } catch (e) {
      if (!signal.aborted) state('off', e.message);
    }
  };
  const rest = () => {
    looking?.abort();
    looking = null;
  };
  addEventListener('pagehide', rest);
  addEventListener('pageshow', look);
  document.addEventListener('visibilitychange', () => (document.hidden ? rest() : look()));
  look();
}

// load reads all cells, as often as it takes.
async function load(signal, state) {
  for (let wait = 500; !signal.aborted; wait = Math.min(2 * wait, 15_000)) {
    try {
      await read(signal);
      return;
    } catch (e) {
      if (e.status === 401) throw e;
      state('lost');
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}
