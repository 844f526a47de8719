// Small drawings. Plots are doubles: a pixel is coarser than they are; what is written beside them is exact.
import { h } from './dom.js';
import { plural, usd } from './format.js';

const scale = (from, to, low, high) => (x) => (high === low ? (from + to) / 2 : from + ((x - low) / (high - low)) * (to - from));

// phone says that a drawing is shown small, so that its letters must be large in it.
const phone = () => innerWidth <= 760;

// spark is a line of a few pixels with words for who cannot see it.
export function spark(points, name) {
  const [w, ht] = [112, 28];
  const values = points.map(([, v]) => Number(v));
  const x = scale(2, w - 4, points[0][0], points.at(-1)[0]);
  const y = scale(ht - 3, 3, Math.min(...values), Math.max(...values));
  const at = points.map(([t, v]) => `${x(t).toFixed(1)},${y(Number(v)).toFixed(1)}`);
  const [first, last] = [points[0][1], points.at(-1)[1]];
  const move = first > 0n ? Number(((last - first) * 1000n) / first) / 10 : 0;
  const words = `${name}: ${usd(first, 4)} to ${usd(last, 4)} an hour, ${move >= 0 ? '+' : '−'}${Math.abs(move)}%`;
  return h('span.spark', { title: words },
    h('svg', { viewBox: `0 0 ${w} ${ht}`, width: w, height: ht, role: 'img', 'aria-label': words },
      h('polygon.area', { points: `${x(points[0][0])},${ht} ${at.join(' ')} ${x(points.at(-1)[0])},${ht}` }),
      h('polyline.stroke', { points: at.join(' ') }),
      h('circle.end', { cx: at.at(-1).split(',')[0], cy: at.at(-1).split(',')[1], r: 2.5 })),
    h('small', `${move > 0 ? '+' : move < 0 ? '−' : '±'}${Math.abs(move)}%`));
}

// meter shows how many of all are free.
export function meter(free, all) {
  const width = all ? (100 * free) / all : 0;
  return h('span.meter', h('svg', { viewBox: '0 0 100 6', width: 72, height: 6, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    h('rect.rest', { width: 100, height: 6, rx: 3 }), h('rect.part', { width, height: 6, rx: 3 })),
  h('span', `${free} `, h('small', `of ${all}`)), h('span.unseen', ` free, ${plural(all - free, 'GPU')} rented`));
}

// depthChart draws an order book: GPUs on offer at a price or less as steps up to the right, and GPUs that are bid for at
// a price or more as steps up to the left. Both are {nanousd_per_hour, gpus}, the best first; one may be empty.
export function depthChart(asks, bids, name) {
  const [w, ht, left, bottom] = [phone() ? 400 : 560, 200, 44, 26];
  const count = (levels) => levels.reduce((n, l) => n + l.gpus, 0);
  const most = Math.max(count(asks), count(bids));
  const rates = [...asks, ...bids].map((l) => Number(l.nanousd_per_hour));
  const [low, high] = [Math.min(...rates), Math.max(...rates)];
  const margin = (high - low) * 0.08 || low * 0.05;
  const x = scale(left, w - 8, low - margin, high + margin);
  const y = scale(ht - bottom, 10, 0, most);
  const steps = (levels, edge) => {
    let sum = 0;
    let path = '';
    for (const l of levels) {
      path += `${path ? 'H' : 'M'}${x(Number(l.nanousd_per_hour)).toFixed(1)}${path ? '' : ` ${y(0)}`}`;
      path += `V${y((sum += l.gpus)).toFixed(1)}`;
    }
    return path && `${path}H${edge}`;
  };
  const [ask, bid] = [steps(asks, w - 8), steps(bids, left)];
  const side = (levels, words) => (levels.length ? `${plural(count(levels), 'GPU')} ${words} from ${usd(levels[0].nanousd_per_hour)} to ${usd(levels.at(-1).nanousd_per_hour)} an hour` : '');
  const words = `${name}: ${[side(asks, 'on offer'), side(bids, 'bid for')].filter(Boolean).join('; ')}; the tables beside have each step`;
  return h('svg.chart', { viewBox: `0 0 ${w} ${ht}`, role: 'img', 'aria-label': words },
    grid(ticks(0, most, 3).filter(Number.isInteger), y, left, w - 8, (v) => String(v)),
    ask ? [h('path.area', { d: `${ask}V${y(0)}Z` }), h('path.stroke', { d: `M${left} ${y(0)}H${ask.slice(1).split(' ')[0]}${ask.slice(ask.indexOf('V'))}` })] : null,
    bid ? [h('path.area.bid', { d: `${bid}V${y(0)}Z` }), h('path.stroke.bid', { d: bid })] : null,
    h('text', { x: left, y: ht - 8 }, usd(BigInt(low), 3)),
    h('text', { x: w - 8, y: ht - 8, 'text-anchor': 'end' }, usd(BigInt(high), 3)));
}

// ticks are round values between two.
function ticks(low, high, about) {
  const raw = (high - low) / about || Math.abs(high) / 2 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

function grid(values, y, from, to, label) {
  return values.map((v) => [h('line.grid', { x1: from, x2: to, y1: y(v), y2: y(v) }), h('text', { x: from - 7, y: y(v) + 4, 'text-anchor': 'end' }, label(v))]);
}

// lineChart draws prices over time. Series are {name, class, points: [[ms, nano], …]}; the first is the one that is read out.
// A drag over a part zooms in; so do + and −; arrows move the cursor, Home and Escape show all again.
export function lineChart({ series, name }) {
  const [w, ht, left, bottom] = [phone() ? 420 : 920, 280, 58, 26];
  let main = series[0].points;
  let whole = wholeOf(main);
  let range = whole;
  let cursor = main.length - 1;
  let drag = null;
  const svg = h('svg.chart', { viewBox: `0 0 ${w} ${ht}`, 'aria-hidden': 'true' });
  const read = h('output.readout', { 'aria-live': 'polite' });
  const all = h('button', { type: 'button', onclick: () => zoom(whole) }, 'Show all');
  const frame = h('div.plot', { tabindex: '0', role: 'slider', 'aria-orientation': 'horizontal', 'aria-label': `${name} over time. Arrows move, plus and minus zoom, Home shows all.`, 'aria-valuemin': 0, 'aria-valuemax': main.length - 1 }, svg);
  let x;
  const shownOf = (points) => points.filter(([t]) => t >= range[0] && t <= range[1]);
  const time = (t) => new Date(t).toLocaleString('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

  function draw() {
    const values = series.flatMap((s) => shownOf(s.points)).map(([, v]) => Number(v) / 1e9);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = (high - low) * 0.12 || high * 0.05 || 1;
    x = scale(left, w - 10, range[0], range[1]);
    const y = scale(ht - bottom, 12, low - pad, high + pad);
    const [at, value] = main[cursor];
    const days = range[1] - range[0] > 2 * 864e5;
    const stamps = [0, 1, 2, 3, 4].map((i) => range[0] + ((range[1] - range[0]) * i) / 4);
    svg.replaceChildren(
      ...grid(ticks(low - pad, high + pad, 4), y, left, w - 10, (v) => usd(BigInt(Math.round(v * 1e9)))).flat(),
      ...stamps.map((t, i) => h('text', { x: x(t), y: ht - 6, 'text-anchor': i === 0 ? 'start' : i === 4 ? 'end' : 'middle' },
        new Date(t).toLocaleString('en-GB', days ? { day: 'numeric', month: 'short' } : { hour: '2-digit', minute: '2-digit' }))),
      ...series.map((s) => h('polyline', { class: s.class, points: shownOf(s.points).map(([t, v]) => `${x(t).toFixed(1)},${y(Number(v) / 1e9).toFixed(1)}`).join(' ') })),
      ...(at >= range[0] && at <= range[1] ? [h('line.cursor', { x1: x(at), x2: x(at), y1: 8, y2: ht - bottom }), h('circle.end', { cx: x(at), cy: y(Number(value) / 1e9), r: 4 })] : []),
      ...(drag ? [h('rect.drag', { x: Math.min(...drag), y: 8, width: Math.abs(drag[1] - drag[0]), height: ht - bottom - 8 })] : []));
    const said = `${time(at)}: ${usd(value, 4)}/h`;
    read.textContent = said;
    frame.setAttribute('aria-valuenow', cursor);
    frame.setAttribute('aria-valuetext', said);
    frame.dataset.from = Math.round(range[0]);
    frame.dataset.to = Math.round(range[1]);
    all.hidden = range[0] === whole[0] && range[1] === whole[1];
  }
  function zoom([from, to]) {
    const least = 2 * ((whole[1] - whole[0]) / Math.max(main.length - 1, 2));
    if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
    from = Math.max(whole[0], Math.min(from, whole[1] - (to - from)));
    range = [from, Math.min(whole[1], Math.max(to, from + least))];
    if (!shownOf(main).length) range = whole;
    nearest((range[0] + range[1]) / 2, main[cursor][0] < range[0] || main[cursor][0] > range[1]);
    draw();
  }
  function nearest(t, move = true) {
    if (!move) return;
    cursor = main.reduce((best, [at], i) => (Math.abs(at - t) < Math.abs(main[best][0] - t) ? i : best), 0);
  }
  const place = (e) => {
    const box = svg.getBoundingClientRect();
    return Math.min(w - 10, Math.max(left, ((e.clientX - box.left) / box.width) * w));
  };
  const timeAt = (px) => range[0] + ((px - left) / (w - 10 - left)) * (range[1] - range[0]);
  frame.addEventListener('pointerdown', (e) => {
    drag = [place(e), place(e)];
    frame.setPointerCapture(e.pointerId);
  });
  frame.addEventListener('pointermove', (e) => {
    if (drag) drag[1] = place(e);
    nearest(timeAt(place(e)));
    draw();
  });
  const end = () => {
    const d = drag;
    drag = null;
    if (d && Math.abs(d[1] - d[0]) > 8) zoom([timeAt(Math.min(...d)), timeAt(Math.max(...d))]);
    else draw();
  };
  frame.addEventListener('pointerup', end);
  frame.addEventListener('pointercancel', () => { drag = null; draw(); });
  frame.addEventListener('keydown', (e) => {
    const middle = main[cursor][0];
    const span = range[1] - range[0];
    const keys = {
      ArrowLeft: () => { cursor = Math.max(0, cursor - 1); },
      ArrowRight: () => { cursor = Math.min(main.length - 1, cursor + 1); },
      '+': () => zoom([middle - span / 4, middle + span / 4]),
      '=': () => zoom([middle - span / 4, middle + span / 4]),
      '-': () => zoom([middle - span, middle + span]),
      Home: () => zoom(whole),
      Escape: () => zoom(whole),
    };
    if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    keys[e.key]();
    const at = main[cursor][0];
    if (at < range[0] || at > range[1]) zoom([at - span / 2, at + span / 2]);
    draw();
  });
  draw();
  const node = h('figure.figure', { 'aria-label': name }, h('figcaption', h('span.keys', series.map((s) => h('span', h('i', { class: s.class }), s.name))), read, all), frame);
  // update draws what came since, and leaves a person's zoom and place as they are.
  const update = (next) => {
    const [atEnd, at, zoomed] = [cursor === main.length - 1, main[cursor][0], !all.hidden];
    series = next;
    main = series[0].points;
    whole = wholeOf(main);
    if (!zoomed) range = whole;
    if (atEnd) cursor = main.length - 1;
    else nearest(at);
    frame.setAttribute('aria-valuemax', main.length - 1);
    draw();
  };
  return { node, update };
}

const wholeOf = (points) => [points[0][0], Math.max(points.at(-1)[0], points[0][0] + 60_000)];
