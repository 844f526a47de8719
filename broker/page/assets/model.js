// A model: its price over time, its order book, what is on offer.
import { h, swap, table } from './dom.js';
import { Problem, get, session } from './api.js';
import { amount, count, percent, plural, price, rate, usd, when } from './format.js';
import { bars, points } from './history.js';
import * as live from './live.js';
import { depthChart, lineChart, meter } from './charts.js';
import { quality, regions, terms, tier } from './words.js';
import { offerColumns } from './offers.js';

const order = ['on_demand', ...Object.keys(terms)];
const spans = { '1m': 'minutes', '5m': '5 minutes', '1h': 'hours', '1d': 'days' };

export default function model({ args: [name], params, signal }) {
  const box = h('section', h('h1', name), h('p.wait', 'Reading prices …'));
  let built = null;
  live.watch((kinds) => {
    const cells = live.rows().filter((r) => r.model === name);
    if (!cells.length) {
      if (live.ready()) swap(box, h('h1', name), h('p', 'Nothing of this model was offered or traded here yet. ', h('a', { href: '#/' }, 'To the market')));
      return;
    }
    const asked = params.get('cell');
    const cell = (cells.find((r) => r.cell === asked) ?? cells.toSorted((a, b) => (a.term !== 'on_demand') - (b.term !== 'on_demand') || (a.region !== 'any') - (b.region !== 'any') || a.simulated - b.simulated || b.trades_24h - a.trades_24h)[0]).cell;
    if (!built) {
      built = page(name, cell, params.get('step'), signal);
      box.replaceChildren(...built.nodes);
    }
    built.update(kinds);
  }, signal);
  return box;
}

function page(name, cell, step, signal) {
  const link = (c, s = '') => `#/model/${encodeURIComponent(name)}?cell=${encodeURIComponent(c)}` + (s ? '&step=' + s : '');
  const facts = h('dl.facts');
  const cells = h('nav.tabs', { 'aria-label': 'Kinds of proof and regions' });
  const steps = h('nav.tabs', { 'aria-label': 'Intervals' });
  const history = h('div', h('p.wait', 'Reading history …'));
  const numbers = h('div');
  const asTable = h('details.note', h('summary', 'The same as a table'), numbers);
  let chart = null;
  let charted = ''; // what the chart shows: quality and step
  const book = h('div');
  const list = h('div');
  const outlook = h('div');
  const wash = h('p.note');
  let drawn = '';

  async function drawHistory() {
    const r = live.row(cell);
    const q = r.quality === 'firm' ? 'firm' : 'indicative';
    try {
      let s = step;
      let rows = await bars(cell, q, s ?? '1h', undefined, signal);
      if (!s && points(rows).length < 4) rows = await bars(cell, q, (s = '1m'), undefined, signal);
      s ??= '1h';
      swap(steps, Object.entries(spans).map(([id, text]) => h('a', { href: link(cell, id), 'data-key': 'step ' + id, 'aria-current': id === s ? 'true' : null }, text)));
      const index = points(rows);
      if (index.length < 2) {
        swap(history, h('p.none', `There is no ${q} price by ${spans[s]} yet: the first comes when two ${spans[s]} are over.`));
        return;
      }
      const asks = points(rows, 'best_ask_nanousd_per_hour');
      const series = [{ name: `index, ${q}`, class: 'stroke', points: index }, ...(asks.length > 1 ? [{ name: 'best ask', class: 'ask', points: asks }] : [])];
      if (chart && charted === q + s && history.contains(chart.node)) {
        chart.update(series);
      } else {
        charted = q + s;
        chart = lineChart({ name: `${q} index of ${name}`, series });
        swap(history, chart.node, asTable);
      }
      swap(numbers, table({
        caption: `${q} prices by ${spans[s]}, newest first`, rows: rows.toReversed().slice(0, 200), columns: [
          { name: 'From', cell: (b) => when(b.start) }, { name: 'Close', num: true, cell: (b) => price(b.close_nanousd_per_hour) },
          { name: 'Low', num: true, cell: (b) => price(b.low_nanousd_per_hour) }, { name: 'High', num: true, cell: (b) => price(b.high_nanousd_per_hour) },
          { name: 'Paid, by GPU-hours', num: true, cell: (b) => price(b.vwap_nanousd_per_hour) }, { name: 'Leases', num: true, cell: (b) => count(b.trades) },
        ],
      }));
    } catch (e) {
      if (e instanceof Problem && !signal.aborted) swap(history, h('p.problem', e.message));
    }
  }

  async function drawBook() {
    try {
      const r = live.row(cell);
      const all = r.levels ? r : (await get('/v1/book', { model: name, tier: r.tier, region: r.region, term: r.term }, signal)).books[0];
      const [asks, bids] = [all?.levels ?? [], all?.bids ?? []];
      const most = 8; // of each side in its table
      const side = (caption, levels, none) => table({
        caption, narrow: true, rows: levels.slice(0, most), empty: none, columns: [
          { name: 'Price', cell: (l) => rate(l.nanousd_per_hour) }, { name: 'GPUs', num: true, cell: (l) => count(l.gpus) },
        ],
      });
      const rest = (levels, leftOut, word) => levels.length > most && `${plural(levels.length - most + (leftOut ?? 0), word)} not in the table. `;
      swap(book, h('h2', 'Order book'), asks.length || bids.length
        ? h('div.pair', depthChart(asks, bids, name), h('div.sides', side('Asks, free now', asks, 'Nothing can be leased now.'), side('Bids, waiting', bids, 'No order stands.')))
        : h('p.none', 'Nothing can be leased now, and no order stands.'),
      h('p.none', rest(asks, all?.left_out, 'dearer ask'), rest(bids, all?.bids_left_out, 'lower bid'), 'Below the asks? An order waits for its price: ',
        h('code', `rialto order '${name}, <= ${usd(asks[0]?.nanousd_per_hour ?? 400_000_000n, 2).slice(1)}/h, until Friday' IMAGE`), '.'));
    } catch { /* what was there stays */ }
  }

  async function drawOffers() {
    try {
      const r = live.row(cell);
      const word = name.replaceAll(' ', '_');
      const q = `gpu_name=${/^[\w.-]+$/.test(word) ? word : JSON.stringify(name)} simulated=${r.simulated}`;
      const found = await get('/v1/offers', { q, limit: 50 }, signal);
      swap(list, table({ caption: 'Offers, all regions', rows: [...found.offers, ...found.busy], columns: offerColumns.map((c) => ({ ...c, sort: null })), empty: 'Nobody offers one now.', rowClass: (o) => (o.free ? null : 'busy') }),
        h('p', h('a', { href: '#/offers?q=' + encodeURIComponent(q) }, 'Search among them')));
    } catch { /* what was there stays */ }
  }

  async function drawOutlook() {
    try {
      const f = await get('/v1/prices/forecast', { cell, quality: live.row(cell).quality === 'firm' ? 'firm' : 'indicative' }, signal);
      if (f.points.length) swap(outlook, h('details.note', h('summary', 'Forecast, and how wrong such forecasts were'), table({
        caption: `From ${plural(f.hours, 'hour')} of history`, rows: f.points, columns: [
          { name: 'In', cell: (p) => (p.hours < 48 ? plural(p.hours, 'hour') : plural(p.hours / 24, 'day')) },
          { name: 'Expected', num: true, cell: (p) => price(p.p50_nanousd_per_hour) },
          { name: '80% between', num: true, cell: (p) => (p.p10_nanousd_per_hour > 0n ? `${usd(p.p10_nanousd_per_hour, 3)} and ${usd(p.p90_nanousd_per_hour, 3)}` : 'not known yet') },
          { name: 'Mean error', num: true, cell: (p) => (p.backtests ? `${percent(p.backtest_mape_ppm)} in ${plural(p.backtests, 'test')}` : 'not known yet') },
          { name: 'Method', cell: (p) => h('span', { title: p.why }, p.method) },
        ],
      })));
    } catch { /* a cell without a price has no forecast */ }
  }

  // What it would take to move the index: only a firm one rests on leases that could be made up.
  async function drawWash() {
    try {
      const w = await get(`/v1/prices/${encodeURIComponent(cell)}/wash`, {}, signal);
      const by = (n) => (n > 0n ? amount(n, 2) : 'more than any');
      swap(wash, w.quality === 'firm' && ['To raise it by 1%, one operator would have to trade ', by(w.one_operator_nanousd), ' with himself, three ', by(w.three_operators_nanousd), `. Concentration of operators (HHI): ${count(w.hhi)} of 10,000.`]);
    } catch { /* nothing was printed yet */ }
  }

  function update(kinds) {
    const r = live.row(cell);
    if (!r) return;
    const fact = (term, value, more) => h('div', h('dt', term), h('dd', value, more && h('small', more)));
    swap(facts,
      fact('Index', price(r.index_nanousd_per_hour), [' ', quality(r.quality)]),
      fact('Best ask', price(r.best_ask_nanousd_per_hour)),
      fact('Middle half paid', r.p25_nanousd_per_hour > 0n ? [amount(r.p25_nanousd_per_hour, 3), ' – ', amount(r.p75_nanousd_per_hour, 3)] : '–', r.p25_nanousd_per_hour > 0n ? '/h' : ''),
      fact('Leases, 24 h', count(r.trades_24h), ` of ${plural(r.operators_24h, 'operator')}`),
      fact('Available', meter(r.available_gpus, r.total_gpus)));
    swap(cells, live.rows().filter((x) => x.model === name).toSorted((a, b) => order.indexOf(a.term) - order.indexOf(b.term) || a.simulated - b.simulated || (a.tier < b.tier ? 1 : a.tier > b.tier ? -1 : 0) || (a.region !== 'any') - (b.region !== 'any') || (a.region < b.region ? -1 : 1))
      .map((x) => h('a', { href: link(x.cell, step), 'data-key': x.cell, 'aria-current': x.cell === cell ? 'true' : null }, regions[x.region] ?? x.region, terms[x.term] && `, ${terms[x.term]}`, ' ', tier(x.tier))));
    const first = drawn === '';
    if (first || (kinds.has('price') && drawn !== r.printed_at)) {
      drawn = r.printed_at ?? '-';
      drawHistory();
    }
    if (first) drawOutlook();
    if (first) drawWash();
    if (first || kinds.has('depth') || kinds.has('offer')) {
      drawBook();
      drawOffers();
    }
  }

  const r = live.row(cell);
  const receipt = h('p.note', 'Index and receipt: ', h('code', `rialto prices verify '${cell}'`), ' computes the newest print again from the leases behind it; the receipt itself is at ',
    h('a', { href: `${session.broker}/v1/prices/${encodeURIComponent(cell)}/receipt` }, 'the API'), '.');
  return {
    nodes: [h('h1', name, terms[r.term] && `, ${terms[r.term]}`, ' ', tier(r.tier)), cells, facts, h('h2', 'Price'), steps, history, outlook, book, h('h2', 'On offer'), list, receipt, wash],
    update,
  };
}
