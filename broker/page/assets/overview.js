// The market at a glance: one row for each model and kind of proof, all regions together.
import { h, swap, table } from './dom.js';
import { count, lasting, percent, plural, price, rate } from './format.js';
import { get } from './api.js';
import * as live from './live.js';
import { series } from './history.js';
import { meter, spark } from './charts.js';
import { quality, tier } from './words.js';

export default function overview({ signal }) {
  const facts = h('dl.facts');
  const prices = h('div', h('p.wait', 'Reading prices …'));
  const lines = new Map(); // sparklines by cell
  const draw = () => {
    const shown = live.rows().filter((r) => r.region === 'any' && r.term === 'on_demand');
    shown.sort((a, b) => a.simulated - b.simulated || b.total_gpus - a.total_gpus || (a.model < b.model ? -1 : 1));
    for (const r of shown) line(r, lines, signal);
    swap(prices, shown.length ? models(shown, lines) : start());
    swap(facts, ...numbers(shown, health));
  };
  let health = null;
  const ask = async () => {
    try {
      health = await get('/v1/market/health', {}, signal);
      draw();
    } catch { /* the numbers stay as they were */ }
  };
  live.watch(draw, signal);
  ask();
  const again = setInterval(() => {
    for (const r of lines.values()) r.old = true;
    ask();
  }, 60_000);
  signal.addEventListener('abort', () => clearInterval(again));
  return h('section',
    h('h1', 'Market'),
    h('p.lede', 'What a GPU costs for an hour, by leases that ran and were paid, and what is on offer beside it.'),
    facts, prices,
    h('details.note', h('summary', 'How to read this'),
      h('p', 'The index comes from executed leases of the last 24 hours: outliers cut off, no operator with more than a fifth of the weight. Asks never flow into it. ',
        quality('firm'), ' means that there were enough leases of enough operators; ', quality('indicative'), ' that there were not, so it shows asks instead; ', quality('stale'), ' that there is nothing to show.'),
      h('p', 'Kinds of proof are kept apart: ', tier('nvml'), ' GPUs were read from the driver by the agent, ', tier('claimed'), ' ones are their owner’s word, and ', tier('simulated'), ' ones do not exist.')));
}

function numbers(rows, health) {
  const sum = (f) => rows.reduce((n, r) => n + f(r), 0);
  const total = sum((r) => r.total_gpus);
  const free = sum((r) => r.available_gpus);
  const fact = (name, value, more) => h('div', h('dt', name), h('dd', value, more && h('small', more)));
  return [
    fact('Available', count(free), ` of ${plural(total, 'GPU')}`),
    fact('Rented', total ? percent(((total - free) * 1e6) / total, 0) : '–', total ? ` ${plural(total - free, 'GPU')}` : ''),
    fact('Offers', count(sum((r) => r.offers)), ` of ${plural(sum((r) => r.providers), 'provider')}`),
    fact('Leases, 24 h', count(sum((r) => r.trades_24h)), health ? ` ${count(Math.round(health.gpu_seconds / 3600))} GPU-hours` : ''),
    fact('Median start', health?.median_start_ms !== undefined ? lasting(health.median_start_ms) : '–', health?.fill_rate_ppm !== undefined ? ` ${percent(health.fill_rate_ppm, 1)} granted` : ''),
  ];
}

function models(rows, lines) {
  const at = (r, gpus) => r.depth.find((d) => d.gpus === gpus);
  return table({
    caption: 'Prices per GPU and hour, all regions',
    rows,
    rowClass: (r) => (r.simulated ? 'toy' : null),
    columns: [
      { name: 'Model', cell: (r) => [h('a.model', { href: modelLink(r), 'data-key': r.cell }, r.model), ' ', tier(r.tier)] },
      { name: 'Index', num: true, cell: (r) => h('span.stack', h('b', price(r.index_nanousd_per_hour)), quality(r.quality)) },
      { name: '7 days', cell: (r) => lines.get(r.cell).node },
      { name: 'Best ask', num: true, cell: (r) => price(r.best_ask_nanousd_per_hour) },
      { name: 'For 8 GPUs', num: true, cell: (r) => (at(r, 8) ? rate(at(r, 8).avg_nanousd_per_hour) : h('span.none', 'too few')) },
      { name: 'Available', cell: (r) => meter(r.available_gpus, r.total_gpus) },
      { name: 'Leases, 24 h', num: true, cell: (r) => count(r.trades_24h) },
    ],
  });
}

export const modelLink = (r) => `#/model/${encodeURIComponent(r.model)}?cell=${encodeURIComponent(r.cell)}`;

// line draws a cell's sparkline once it is known.
function line(r, lines, signal) {
  const entry = lines.get(r.cell) ?? { node: h('span.none', '…'), old: true };
  if (!entry.old) return;
  entry.old = false;
  lines.set(r.cell, entry);
  series(r.cell, r.quality === 'firm' ? 'firm' : 'indicative', signal).then((points) => {
    const drawn = points.length > 1 ? spark(points, r.model) : h('span.none', 'too new');
    entry.node.replaceWith(drawn);
    entry.node = drawn;
  }).catch(() => {});
}

// start says how a market with nothing on it gets something.
function start() {
  return h('div.empty-state',
    h('h2', 'No provider is connected'),
    h('p', 'Nobody offers a GPU here yet. On a host with one, this puts it on the market:'),
    h('pre', `rialto-provider doctor\nrialto-provider run --broker ${location.origin} --price 0.40/h --name my-host`),
    h('p', 'Without a GPU, ', h('code', '--simulate-gpu "RTX 4090:2"'), ' makes two that are labelled simulated, if this broker admits them. The page shows the offer as soon as it is there.'));
}
