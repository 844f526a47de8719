// What some GPU-hours would cost, on the cheapest offers and on the index.
import { h, say, swap, table } from './dom.js';
import { Problem, get } from './api.js';
import { amount, count, lasting, mib, plural, rate, usd } from './format.js';
import * as live from './live.js';
import { expected } from './offers.js';
import { quotePanel } from './quote.js';
import { beside, carried, charges, divided, perHour, prices, usual } from './tariff.js';
import { country, evidence, quality } from './words.js';

// Countries of the European Union, which the market has no word for.
const eu = 'AT,BE,BG,HR,CY,CZ,DK,EE,FI,FR,DE,GR,HU,IE,IT,LV,LT,LU,MT,NL,PL,PT,RO,SK,SI,ES,SE';
const places = { '': 'anywhere', [eu]: 'the European Union', 'US,CA': 'the United States or Canada', 'NO,IS,CH,GB': 'Norway, Iceland, Switzerland, Britain', 'JP,KR,TW,SG,IN': 'East and South Asia' };

// nanoOf reads a decimal number as billionths, or returns null.
export function nanoOf(text) {
  const m = /^(\d{1,7})(?:\.(\d{1,9}))?$/.exec(text.trim());
  return m ? BigInt(m[1]) * 1_000_000_000n + BigInt((m[2] ?? '').padEnd(9, '0')) : null;
}

// costOf is a rate in nanodollars an hour over billionths of an hour, rounded half to even as the broker does.
export function costOf(ratePerHour, nanoHours) {
  return divided(ratePerHour * nanoHours, 1_000_000_000n);
}

// sized reads a decimal number of some unit as whole ones of a smaller; null: it is none, or out of range.
function sized(text, unit, least, most) {
  const n = nanoOf(text);
  if (n === null) return null;
  const whole = (n * unit) / 1_000_000_000n;
  return whole < least || whole > most ? null : whole;
}

// runMS is billionths of an hour as the milliseconds that a search takes: 1 to 30 days of them.
export function runMS(nanoHours) {
  const ms = (nanoHours * 3_600_000n) / 1_000_000_000n;
  const most = 2_592_000_000n;
  return String(ms < 1n ? 1n : ms > most ? most : ms);
}

export default function calculator({ params, signal }) {
  const asked = { hours: params.get('hours') ?? '8', gpus: params.get('gpus') ?? '1', memory: params.get('memory') ?? '24', place: params.get('place') ?? '', image: params.get('image') ?? '', disk: params.get('disk') ?? '', traffic: params.get('traffic') ?? '', real: params.get('real') ?? '1' };
  const field = (id, label, input, help) => h('div.field', h('label', { for: id }, label), input, help && h('small', { id: id + '-help' }, help));
  const number = (id, more) => h('input', { id, name: id, inputmode: 'decimal', autocomplete: 'off', value: asked[id], required: true, 'aria-describedby': id + '-help', ...more });
  const place = h('select', { id: 'place', name: 'place' }, Object.entries(places).map(([v, text]) => h('option', { value: v, selected: v === asked.place }, text)));
  const real = h('input', { id: 'real', name: 'real', type: 'checkbox', checked: asked.real === '1' });
  const problem = h('p.problem', { role: 'alert', id: 'calc-problem' });
  const answer = h('div');
  const panel = quotePanel(signal);
  const rest = h('div');
  const form = h('form.calc', {
    onsubmit: (e) => {
      e.preventDefault();
      const p = new URLSearchParams();
      for (const [k, v] of new FormData(form)) if (v !== '' && k !== 'real') p.set(k, v);
      p.set('real', real.checked ? '1' : '0');
      const next = '#/calculator?' + p;
      if (next === location.hash) compute();
      else location.hash = next;
    },
  },
  field('hours', 'GPU-hours', number('hours'), 'of all GPUs together'),
  field('gpus', 'GPUs at once', number('gpus', { inputmode: 'numeric' }), 'on one host, 1 to 16'),
  field('memory', 'Memory per GPU, GB', number('memory'), 'at least, as cards are sold'),
  field('place', 'Where', place),
  field('disk', 'Disk, GiB', number('disk', { required: false, placeholder: '10' }), 'that the job may write'),
  field('traffic', 'Traffic, GB', number('traffic', { required: false, placeholder: '1' }), 'each way, that you pay for at most'),
  field('image', 'Image size, GB', number('image', { required: false, placeholder: 'optional' }), 'for the time to fetch it'),
  h('div.field.last', h('span.check', real, h('label', { for: 'real' }, 'Real GPUs only')), h('button.main', { type: 'submit' }, 'Calculate')));

  async function compute() {
    const hours = nanoOf(asked.hours);
    const gpus = /^([1-9]|1[0-6])$/.test(asked.gpus) ? BigInt(asked.gpus) : null;
    const memory = nanoOf(asked.memory);
    const disk = asked.disk === '' ? BigInt(usual.diskMiB) : sized(asked.disk, 1024n, 16n, 16_777_215n);
    const traffic = asked.traffic === '' ? BigInt(usual.traffic) : sized(asked.traffic, 1_000_000_000n, 1n, 1_000_000_000_000_000n);
    const wrong = hours === null || hours === 0n ? 'GPU-hours: want a number above zero, such as 8 or 0.5'
      : gpus === null ? 'GPUs at once: want 1 to 16'
        : memory === null ? 'Memory per GPU: want a number of GB, such as 24'
          : disk === null ? 'Disk: want 0.016 to 16383 GiB, or nothing'
            : traffic === null ? 'Traffic: want a number of GB above zero, at most 1000000, or nothing'
              : asked.image !== '' && nanoOf(asked.image) === null ? 'Image size: want a number of GB, or nothing' : '';
    problem.textContent = wrong;
    if (wrong) {
      swap(answer);
      swap(rest);
      panel.offer(null);
      return;
    }
    const q = [`num_gpus=${gpus}`, `gpu_ram>=${asked.memory}`, asked.place && `region in [${asked.place}]`, asked.real === '1' && 'simulated=false'].filter(Boolean).join(' ');
    try {
      const found = await get('/v1/offers', { q, run_ms: runMS(hours / gpus), limit: 20, disk_mib: asked.disk && disk, traffic_bytes: asked.traffic && traffic }, signal);
      result(found, q, { hours, gpus, disk, traffic });
    } catch (e) {
      if (!signal.aborted && e instanceof Problem) problem.textContent = e.message;
    }
  }

  // partsOf is what a job costs on an offer, as far as it is billed.
  function partsOf(o, { hours, gpus, disk, traffic }) {
    const parts = { gpus: costOf(o.rate_nanousd_per_hour, hours), disk: costOf(perHour(o, disk), hours / gpus), traffic: carried(o, traffic) };
    return { ...parts, all: parts.gpus + parts.disk + parts.traffic };
  }

  function result(found, q, job) {
    const { hours, gpus } = job;
    const query = h('p', 'The search behind this: ', h('a', { href: '#/offers?q=' + encodeURIComponent(q) }, h('code', q)), `. It left ${count(found.matched)} of ${plural(found.total, 'offer')}.`);
    if (!found.offers.length) {
      swap(answer, h('div.empty-state', h('h2', 'No offer fits'), found.eliminated.length ? h('ul', found.eliminated.map((x) => h('li', h('code', x.predicate), ` leaves out ${plural(x.count, 'offer')}`, x.nearest ? `, the nearest: ${x.nearest}` : ''))) : null, query));
      swap(rest);
      panel.offer(null);
      say('No offer fits');
      return;
    }
    const best = found.offers[0];
    const parts = partsOf(best, job);
    const cost = parts.gpus; // the index is of GPUs alone
    const index = (o) => live.rows().find((r) => r.model === o.model && r.region === 'any' && r.term === 'on_demand' && r.tier === (o.simulated ? 'simulated' : o.level));
    const wall = hours / gpus;
    const r = index(best);
    const onIndex = r && r.index_nanousd_per_hour > 0n ? costOf(r.index_nanousd_per_hour, hours) : null;
    swap(answer,
      h('p.total', amount(parts.all), h('small', ` for ${asked.hours} GPU-hours on ${best.model}, ${best.host}, ${country(best.region)}`), ' ', evidence(best)),
      h('p', `That is ${plural(Number(gpus), 'GPU')} for ${duration(wall)}. `, onIndex !== null
        ? [`On the index of ${best.model} its GPUs would be `, amount(onIndex), ' ', quality(r.quality), cost === onIndex ? ': the offer asks just that.' : cost < onIndex ? `: the offer is ${usd(onIndex - cost, 4)} below it.` : `: the offer is ${usd(cost - onIndex, 4)} above it.`]
        : `There is no index of ${best.model} yet.`),
      charges(best) && [h('p', amount(parts.gpus), ' of it are for GPUs, ', amount(parts.disk), ' for the disk, ', amount(parts.traffic), ' for traffic, if so much is carried.'),
        beside(best, Number(job.disk), Number(job.traffic))]);
    panel.offer(best, Number(gpus), Number((wall * 3600n) / 1_000_000n), { disk: asked.disk && Number(job.disk), traffic: asked.traffic && Number(job.traffic) });
    swap(rest,
      table({
        caption: 'Those that fit, cheapest expected cost first', rows: found.offers, rowClass: (o) => (o.simulated ? 'toy' : null), columns: [
          { name: 'Model', cell: (o) => [h('b', o.model), ' ', evidence(o)] },
          { name: 'Total', num: true, cell: (o) => h('b', amount(partsOf(o, job).all)) },
          { name: 'Expected', num: true, cell: expected },
          { name: 'Ready in', num: true, cell: (o) => lasting(o.ready_ms) },
          { name: 'On the index', num: true, cell: (o) => (index(o)?.index_nanousd_per_hour > 0n ? amount(costOf(index(o).index_nanousd_per_hour, hours)) : 'no index') },
          { name: 'Per GPU', num: true, cell: (o) => h('span.stack', rate(o.rate_nanousd_per_hour), prices(o)) },
          { name: 'Memory', num: true, cell: (o) => mib(o.gpu_memory_sold_mib) },
          { name: 'Free', num: true, cell: (o) => `${o.free} of ${o.gpus}` },
          { name: 'Region', cell: (o) => country(o.region) },
          { name: 'Host', cell: (o) => o.host },
        ],
      }), query, h('h2', 'What this does not include'), h('ul.plain',
        h('li', 'The start: the meter runs only while the container does, so fetching the image costs time and no money. Expected counts that time and the host’s failures at the rate, to rank by; it is no bill.', asked.image ? ` ${asked.image} GB take about ${fetching(nanoOf(asked.image))} at 1 Gbit/s from a registry; from hosts that have it less, and a container starts before it is all there.` : ''),
        h('li', 'Offers that end or change their price while the job waits: a job’s own limit (', h('code', '--max-price'), ') holds whatever happens.'),
        h('li', 'Traffic beyond what you pay for: it costs nothing, and is slow on a host that charges for traffic. Images and weights cost nothing.'),
        h('li', 'Storage elsewhere, and taxes. The broker’s fee is inside the price.')));
    say(`${usd(parts.all, 4)} on ${best.model}`);
  }

  const duration = (nanoHours) => {
    const minutes = Number((nanoHours * 60n) / 1_000_000_000n);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const fetching = (nanoGB) => {
    const s = Math.ceil(Number(nanoGB) / 1e9 * 8);
    return s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${s % 60} s`;
  };
  if (live.ready()) compute(); // else with the first prices, which it compares with
  let due = 0;
  live.watch((kinds) => {
    if (!due && (kinds.has('offer') || kinds.has('depth') || kinds.has('all'))) due = setTimeout(() => { due = 0; compute(); }, kinds.has('all') ? 0 : 500);
  }, signal);
  signal.addEventListener('abort', () => clearTimeout(due));
  return h('section', h('h1', 'Calculator'), h('p.lede', 'GPU-hours to money, from what is on offer now.'), form, problem, answer, panel.node, rest);
}
