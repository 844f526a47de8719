// Offers: a search in the query language that explains itself.
import { h, say, swap, table } from './dom.js';
import { Problem, get, send } from './api.js';
import { amount, count, lasting, mib, percent, plural, rate, usd } from './format.js';
import * as live from './live.js';
import { country, evidence, tier } from './words.js';
import { modelLink } from './overview.js';
import { charges, prices } from './tariff.js';

const page = 100; // offers of one answer
const examples = ['gpu_ram>=24', 'price<=0.50/h', 'num_gpus=2', 'region in [DE,FR,NL,SE]', 'verified=true', 'reliability>99%', 'compute_cap>=8.9'];

export default function offers({ params, signal }) {
  const q = params.get('q') ?? '';
  const sort = params.get('sort') ?? '';
  const go = (next) => {
    const p = new URLSearchParams();
    const all = { q, sort, ...next };
    for (const name of ['q', 'sort']) if (all[name]) p.set(name, all[name]);
    location.hash = '#/offers' + (p.size ? '?' + p : '');
  };
  const input = h('input', { id: 'q', name: 'q', value: q, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', maxlength: 4096, 'aria-describedby': 'q-help q-problem', placeholder: 'all offers' });
  const problem = h('p.problem', { id: 'q-problem', role: 'alert' });
  const said = h('div', { id: 'said' });
  const answer = h('div', { id: 'answer' }, h('p.wait', 'Searching …'));
  const alone = q ? detail(q, signal) : null; // they stay open while offers change
  const form = h('form.query', {
    role: 'search',
    onsubmit: (e) => {
      e.preventDefault();
      if (input.value.trim() === q) load();
      else go({ q: input.value.trim() });
    },
  }, h('label', { for: 'q' }, 'Query'), input, h('button.main', { type: 'submit' }, 'Search'));
  const add = (text) => go({ q: join([...q ? [input.value.trim()] : [], text]) });
  const help = h('p.help', { id: 'q-help' }, 'Conditions with spaces between, all of which hold. Add one: ',
    examples.map((x) => [h('button.chip.add', { type: 'button', onclick: () => add(x) }, x), ' ']));

  let limit = page;
  let before = '';
  async function load() {
    try {
      const found = await pages(q, sort, limit, signal);
      problem.textContent = '';
      input.removeAttribute('aria-invalid');
      swap(said, explained(found, go));
      swap(answer, list(found, sort, go), more(found, () => { limit += page; load(); }));
      if (alone) alone.hidden = false;
      const now = `${plural(found.matched, 'offer')} of ${count(found.total)} match`;
      if (now !== before) say(now);
      before = now;
    } catch (e) {
      if (signal.aborted) return;
      if (!(e instanceof Problem)) throw e;
      input.setAttribute('aria-invalid', 'true');
      swap(problem, e.message, e.nearest && !e.message.includes(e.nearest) ? ` Did you mean ${e.nearest}?` : null, ' ', fix(e, q, go));
      swap(said);
      swap(answer);
      if (alone) alone.hidden = true;
    }
  }
  load();
  // What is on offer changed somewhere: look again, at most twice a second.
  let due = 0;
  live.watch((kinds) => {
    if (!due && (kinds.has('offer') || kinds.has('depth') || kinds.has('all'))) due = setTimeout(() => { due = 0; load(); }, 500);
  }, signal);
  signal.addEventListener('abort', () => clearTimeout(due));
  return h('section', h('h1', 'Offers'), form, help, problem, said, alone, answer, legend());
}

const join = (conditions) => conditions.filter((c) => c !== '').join(' ');

// pages reads as many pages as are shown.
async function pages(q, sort, limit, signal) {
  const first = await get('/v1/offers', { q, sort, limit: page }, signal);
  for (let last = first; last.next_cursor && first.offers.length < limit;) {
    last = await get('/v1/offers', { q, sort, limit: page, cursor: last.next_cursor }, signal);
    first.offers.push(...last.offers);
    first.next_cursor = last.next_cursor;
  }
  return first;
}

// fix puts the nearest name where the unknown one is.
function fix(e, q, go) {
  const word = e.field.replace(/^query\./, '');
  if (!e.nearest || !word || !q.includes(word)) return null;
  return h('button.quiet', { type: 'button', onclick: () => go({ q: q.replace(word, e.nearest) }) }, `Use ${e.nearest}`);
}

const isFree = (p) => /^free>=\d+$/.test(p);

// replaced is the applied query with one condition exchanged, or dropped.
export function replaced(applied, predicate, by = '') {
  return join(applied.map((p) => (p === predicate ? by : p)).filter((p) => !isFree(p)));
}

// explained says in sentences what the search did, with buttons that undo it.
function explained(found, go) {
  const { applied, total, matched, waiting } = found;
  const conditions = applied.filter((p) => !isFree(p));
  const busy = waiting ? ` ${plural(waiting, 'more', 'more')} would, but ${waiting === 1 ? 'is' : 'are'} rented out.` : '';
  const parts = [h('p.sum', h('b', plural(matched, 'offer')), ` of ${count(total)} ${matched === 1 ? 'matches' : 'match'}.`, busy)];
  if (conditions.length) {
    parts.push(h('ul.applied', { 'aria-label': 'Conditions' }, conditions.map((p) => {
      const gone = found.eliminated.find((x) => x.predicate === p);
      return h('li', h('code', p), gone ? [` leaves out ${plural(gone.count, 'offer')}`, gone.nearest ? `, the nearest: ${gone.nearest}` : ''] : ' leaves out none', ' ',
        h('button.quiet', { type: 'button', 'aria-label': `Drop ${p}`, title: 'Drop this condition', 'data-key': 'drop ' + p, onclick: () => go({ q: replaced(applied, p) }) }, '✕'));
    })));
  }
  if (found.nearest.length) {
    parts.push(h('div.nearest', h('h2', matched ? 'Near misses' : 'Nothing matches; nearest are'), h('ul', found.nearest.map((n) => h('li',
      h('b', n.offer.model), ` on ${n.offer.host} at `, rate(n.offer.rate_nanousd_per_hour), ' ', evidence(n.offer), ` has ${n.has}, not `, h('code', n.predicate), ' ',
      n.admit
        ? h('button', { type: 'button', 'data-key': 'admit ' + n.offer.id + n.admit, onclick: () => go({ q: replaced(applied, n.predicate, n.admit) }) }, `Relax to ${n.admit}`)
        : h('button', { type: 'button', onclick: () => go({ q: replaced(applied, n.predicate) }) }, `Drop ${n.predicate}`))))));
  }
  return h('div.explained', parts);
}

// expected is what a job on an offer is expected to cost, and how much of that is no bill.
export function expected(o) {
  const { run_nanousd: run, disk_nanousd: disk, traffic_nanousd: traffic, start_nanousd: start, failure_nanousd: failure, total_nanousd: total } = o.expected_cost;
  const short = (n) => usd(n, 4);
  const beside = charges(o) ? `disk ${short(disk)}, traffic ${short(traffic)}, ` : '';
  return h('span.stack', { title: `run ${short(run)}, ${beside}start ${short(start)}, failures ${short(failure)}` }, amount(total), h('small', `+${usd(total - run - disk - traffic, 4)}`));
}

// whole is the price of a GPU, and what it is with disk and traffic if that is more.
const whole = (o) => h('span.stack', h('b', rate(o.rate_nanousd_per_hour)), charges(o) && h('small', { title: 'with the disk and the traffic of a job, which a limit on the price is compared with' }, 'all in ', rate(o.all_in_nanousd_per_hour)), prices(o));

// offerColumns are what an offer is shown as.
export const offerColumns = [
  { name: 'Model', cell: (o) => [h('a.model', { href: modelLink({ model: o.model, cell: '' }), 'data-key': 'offer ' + o.provider + o.id }, o.model), ' ', evidence(o)] },
  { name: 'Price per GPU', num: true, sort: 'price', cell: whole },
  { name: 'Expected, 1 h', num: true, cell: expected },
  { name: 'Ready in', num: true, sort: 'ready_s', cell: (o) => h('span.stack', lasting(o.ready_ms), o.fill_rate_ppm < 1_000_000 ? h('small', `keeps ${percent(o.fill_rate_ppm, 0)} of holds`) : null) },
  { name: 'Free', num: true, sort: 'free', cell: (o) => h('span', `${o.free} `, h('small', `of ${o.gpus}`)) },
  { name: 'Memory', num: true, sort: 'gpu_ram', cell: (o) => h('span', { title: `${o.gpu_memory_mib} MiB as its driver reports it` }, mib(o.gpu_memory_sold_mib)) },
  { name: 'Where', sort: 'region', cell: (o) => h('span.pile', country(o.region), h('small', { title: o.provider }, o.host)) },
  { name: 'Reliability', num: true, sort: 'reliability', cell: (o) => h('span.stack', percent(o.reliability_ppm, 2), h('small', o.seen_ms ? `${lasting(o.seen_ms)} seen, ${o.failures} lost` : 'never seen')) },
  { name: 'With each GPU', cell: (o) => h('span.pile', h('small', `${o.cpus_per_gpu} CPUs, ${mib(o.memory_mib_per_gpu)}`), h('small', { title: 'driver' }, o.driver ? `${o.driver}, CUDA ${o.cuda}` : 'driver not said')) },
];

function list(found, sort, go) {
  const some = found.offers.length || !found.busy.length;
  return h('div',
    some && table({
      caption: 'Offers that match' + (sort ? '' : ', cheapest expected cost first'), rows: found.offers, columns: offerColumns, sorted: sort, onsort: (s) => go({ sort: s }),
      rowClass: (o) => (o.simulated ? 'toy' : null),
      empty: found.total ? 'No offer matches. What is above says why, and what would.' : ['Nobody offers anything: ', h('a', { href: '#/' }, 'how to start a provider'), '.'],
    }),
    found.busy.length > 0 && table({ caption: 'Rented out now; these would match', rows: found.busy, columns: offerColumns.map((c) => ({ ...c, sort: null })), rowClass: () => 'busy' }));
}

function legend() {
  return h('details.note', h('summary', 'What the evidence means'), h('ul',
    h('li', tier('nvml'), ' The provider’s agent read model, memory and driver from the GPU’s own driver. Better than a word, no proof against a forger.'),
    h('li', tier('claimed'), ' The owner says so.'),
    h('li', tier('simulated'), ' Not a real GPU; for demonstrations.'),
    h('li', 'Expected is what offers are ranked by: the rate for an hour, and what the start, holds that are not kept and failures are expected to waste of it. You are billed the rate, from ready to the end, and disk and traffic where a host charges for them.'),
    h('li', 'All in is the price of a GPU-hour with the disk, 10 GiB, and the traffic, 1 GB each way, of a job that runs for an hour. A limit on the price is compared with it. Traffic is what goes through the job’s tunnel: images and weights cost nothing.'),
    h('li', 'Ready in is from the lease to the running container, from starts that the market measured; without an image named it is the host’s own part.'),
    h('li', 'Reliability is the market’s own count: the chance that an hour passes without failure, by ready leases it saw on the host.')));
}

function more(found, next) {
  if (!found.next_cursor) return null;
  return h('p', h('button', { type: 'button', 'data-key': 'more', onclick: next }, `Show more of ${count(found.matched)}`));
}

// detail says what each condition does alone, when it is opened.
function detail(q, signal) {
  const body = h('div');
  const open = async (e) => {
    if (!e.target.open) return;
    try {
      const x = await send('POST', '/v1/offers:explain', { q }, signal);
      swap(body, table({
        caption: 'What each condition does', rows: x.predicates, columns: [
          { name: 'Condition', cell: (p) => h('code', p.predicate) },
          { name: 'Leaves out', num: true, cell: (p) => count(p.eliminated) },
          { name: 'Without it match', num: true, cell: (p) => count(p.without) },
          { name: 'Cheapest that fails it alone', cell: (p) => (p.cheapest ? h('span', `${p.cheapest.offer.model} on ${p.cheapest.offer.host} at `, rate(p.cheapest.offer.rate_nanousd_per_hour), `: ${p.cheapest.has}`) : 'none') },
        ],
      }));
    } catch (err) {
      if (!signal.aborted) swap(body, h('p.problem', err.message));
    }
  };
  return h('details.note', { ontoggle: open }, h('summary', 'What each condition does alone'), body);
}
