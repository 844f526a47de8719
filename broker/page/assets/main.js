// The frame of the page: routes, theme, what is live, who is signed in.
import { h, say } from './dom.js';
import { enter, get, session } from './api.js';
import * as live from './live.js';
import overview from './overview.js';
import offers from './offers.js';
import model from './model.js';
import calculator from './calculator.js';
import { job, jobs } from './jobs.js';
import { plural } from './format.js';

const views = [
  [/^$/, overview, 'Market'],
  [/^offers$/, offers, 'Offers'],
  [/^model\/([^/]+)$/, model, ''],
  [/^calculator$/, calculator, 'Calculator'],
  [/^jobs$/, jobs, 'Jobs'],
  [/^job\/([^/]+)$/, job, ''],
];

const main = document.getElementById('main');
let leave = null; // ends the view that is shown
let shown = ''; // its path

// route is the fragment: #/path?query.
function route() {
  const text = location.hash.replace(/^#\/?/, '');
  const at = text.indexOf('?');
  return { path: at < 0 ? text : text.slice(0, at), params: new URLSearchParams(at < 0 ? '' : text.slice(at + 1)) };
}

function show() {
  const { path, params } = route();
  leave?.abort();
  leave = new AbortController();
  const [pattern, view, title] = views.find(([p]) => p.test(path)) ?? [/^/, missing, 'Not found'];
  const args = (pattern.exec(path) ?? []).slice(1).map(decodeURIComponent);
  for (const a of document.querySelectorAll('nav a')) {
    const here = a.getAttribute('href') === '#/' + ({ model: '', job: 'jobs' }[path.split('/')[0]] ?? path.split('/')[0]);
    if (here) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  const name = args[0] ?? title;
  document.title = name + ' · Rialto';
  const fresh = path !== shown;
  shown = path;
  const content = view({ args, params, signal: leave.signal });
  main.replaceChildren(content);
  if (fresh && started) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
    say(name);
  }
}

function missing() {
  return h('section', h('h1', 'There is no such page'), h('p', h('a', { href: '#/' }, 'To the market')));
}

// Theme: the system's unless a person chose.
const themes = ['auto', 'light', 'dark'];
const button = document.getElementById('theme');
function theme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = 'Theme: ' + name;
  localStorage.setItem('rialto.theme', name);
}
button.addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'auto';
  theme(themes[(themes.indexOf(now) + 1) % themes.length]);
});
theme(themes.includes(localStorage.getItem('rialto.theme')) ? localStorage.getItem('rialto.theme') : 'auto');

document.querySelector('.skip').addEventListener('click', (e) => {
  e.preventDefault();
  main.focus();
});

// The banner says what is not real, wherever one looks.
const banner = document.getElementById('simulated');
live.watch(() => {
  const rows = live.rows().filter((r) => r.region === 'any' && r.total_gpus > 0);
  const toys = rows.filter((r) => r.simulated);
  banner.hidden = toys.length === 0;
  const text = toys.length === rows.length
    ? 'Every GPU on this market is simulated: nothing here computes, and no price is real.'
    : `${plural(toys.reduce((n, r) => n + r.total_gpus, 0), 'GPU')} on this market are simulated. Rows marked so are not real hardware, and their prices count for nothing else.`;
  if (!banner.hidden && banner.dataset.text !== text) {
    banner.dataset.text = text;
    banner.replaceChildren(h('strong', 'SIMULATED'), ' ', text);
  }
});

// about says whom one deals with.
async function about() {
  try {
    const m = await get('/v1/market');
    document.getElementById('about').replaceChildren(`Broker ${m.version} · `, h('code', m.broker), ` · fee ${m.fee_ppm / 10_000}% of each bill`);
  } catch { /* the status above says that the broker is away */ }
}

// A link of `rialto web` carries a one-time key in its fragment, which never leaves the browser on its own.
const key = /^#key=([A-Z0-9]+)$/.exec(location.hash)?.[1];
if (key) {
  history.replaceState(null, '', '#/');
  try {
    await enter(key);
  } catch (e) {
    banner.hidden = false;
    banner.replaceChildren(h('strong', 'NOT SIGNED IN'), ' ', e.message);
  }
}
document.querySelector('footer a').href = session.broker + '/openapi.json';

let started = false;
addEventListener('hashchange', show);
addEventListener('pagehide', () => leave?.abort());
addEventListener('pageshow', (e) => e.persisted && show());
show();
started = true;
about();
live.start(document.getElementById('live'));
