// A customer's jobs: the list, and one job's timeline, events, log and bill.
import { chip, h, say, swap, table } from './dom.js';
import { Problem, follow, get, session } from './api.js';
import { amount, bytes, count, lasting, mib, percent, rate, usd, when } from './format.js';
import { beside, chargesDisk, chargesTraffic, flow, part, perGB, perMonth, usedUp } from './tariff.js';
import { tier } from './words.js';
import { logPanel } from './log.js';

const over = new Set(['done', 'failed', 'expired', 'cancelled', 'preempted']);
const ends = (s) => over.has(s);

const states = {
  queued: 'waits for an offer', holding: 'a provider is asked for GPUs', quoted: 'a host holds GPUs at a price that it signed, until you accept', leased: 'GPUs are leased, the container starts', ready: 'the container runs', running: 'the container runs',
  done: 'the container ended by itself', failed: 'it could not be run', expired: 'no offer came in time', cancelled: 'ended by the customer', preempted: 'displaced by a higher bid',
};

const state = (j) => chip(j.state, j.state === 'done' && j.exit_code ? `done, exit ${j.exit_code}` : j.state, states[j.state]);

// furthest behind comes first: what a gang's state is, as the broker tells it.
const path = ['queued', 'holding', 'quoted', 'leased', 'ready', 'running'];

// gangState is the state of the node that is furthest behind; when all have ended, done only if all are.
function gangState(nodes) {
  const open = nodes.filter((j) => !ends(j.state)).toSorted((a, b) => path.indexOf(a.state) - path.indexOf(b.state));
  return (open[0] ?? nodes.find((j) => j.state !== 'done') ?? nodes.find((j) => j.exit_code) ?? nodes[0]);
}

const sum = (nodes, field) => nodes.reduce((n, j) => n + j[field], 0n);

// grouped puts the nodes of a gang behind a row of their own, by rank.
export function grouped(list) {
  const out = [];
  const seen = new Set();
  for (const j of list) {
    if (!j.gang) {
      out.push(j);
    } else if (!seen.has(j.gang)) {
      seen.add(j.gang);
      const nodes = list.filter((n) => n.gang === j.gang).toSorted((a, b) => (a.rank ?? 0) - (b.rank ?? 0));
      const s = gangState(nodes);
      out.push({ ...s, id: j.gang, all: nodes, accepted: nodes[0].accepted, host: undefined, cost_nanousd: sum(nodes, 'cost_nanousd'), billed_ms: 0 }, ...nodes.map((n) => ({ ...n, node: true })));
    }
  }
  return out;
}

const rank = (j) => `[${j.rank ?? 0}]`;

// signIn asks for a token, which stays in this tab.
function signIn(why, again) {
  const input = h('input', { id: 'token', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, 'aria-describedby': 'token-help' });
  const problem = h('p.problem', { role: 'alert' }, why);
  return h('form.signin', {
    onsubmit: async (e) => {
      e.preventDefault();
      session.token = input.value.trim();
      try {
        await get('/v1/account');
        again();
      } catch (err) {
        session.token = '';
        problem.textContent = err instanceof Problem ? err.message : String(err);
      }
    },
  }, h('p', 'To see your jobs, paste your account’s token.'), h('label', { for: 'token' }, 'Token'), h('div.query', input, h('button.main', { type: 'submit' }, 'Sign in')), problem,
  h('p.help', { id: 'token-help' }, 'It is kept in this tab only, is sent to this broker only, and is gone when you close the tab. ', h('code', 'rialto web'), ' opens this page signed in with the login of the command line, and adds logs.'));
}

// signedIn shows what a token may see, or asks for one.
function signedIn(box, signal, fill) {
  const start = async (why = '') => {
    if (!session.token) {
      swap(box, session.local ? h('p.problem', { role: 'alert' }, why) : signIn(why, start));
      return;
    }
    try {
      await fill();
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Problem && e.status === 401) {
        session.token = '';
        start(e.message);
      } else if (e instanceof Problem) {
        swap(box, h('p.problem', { role: 'alert' }, e.message));
      } else {
        throw e;
      }
    }
  };
  start();
  return start;
}

export function jobs({ signal }) {
  const box = h('div', h('p.wait', 'Reading jobs …'));
  let limit = 50;
  const fill = async () => {
    const [account, list] = await Promise.all([get('/v1/account', {}, signal), get('/v1/jobs', { limit }, signal)]);
    const fact = (name, value) => h('div', h('dt', name), h('dd', value));
    swap(box,
      h('p.who', `${account.name} `, !session.local && h('button.quiet', { type: 'button', 'data-key': 'out', onclick: () => { session.token = ''; start(); } }, 'Sign out')),
      h('dl.facts', fact('Available', amount(account.available_nanousd, 2)), fact('Held for jobs', amount(account.held_nanousd, 2)), fact('Spent', amount(account.spent_nanousd, 4)), fact('Limits', limits(account.limits))),
      table({
        caption: 'Jobs, newest first', rows: grouped(list.jobs), rowClass: (j) => (j.node ? 'node' : null), empty: ['No job yet. ', h('code', 'rialto run --gpu any IMAGE -- COMMAND'), ' starts one.'], columns: [
          { name: 'Job', cell: (j) => (j.all ? h('b', `${j.nodes} hosts at once`) : h('a.model', { href: '#/job/' + encodeURIComponent(j.id), 'data-key': j.id }, j.node && [h('span.rank', rank(j)), ' '], h('code', j.id))) },
          { name: 'State', cell: (j) => [state(j), j.simulated ? [' ', tier('simulated')] : null] },
          { name: 'Image', cell: (j) => h('span.cut', { title: [j.image, ...(j.command ?? [])].join(' ') }, j.image.replace(/^docker\.io\/(library\/)?/, '')) },
          { name: 'GPUs', cell: (j) => `${j.all ? `${j.nodes} × ` : ''}${j.gpu_count} × ${j.gpu_model}` },
          { name: 'Host', cell: (j) => j.host ?? '–' },
          { name: 'Ran', num: true, cell: (j) => (j.billed_ms ? lasting(j.billed_ms) : '–') },
          { name: 'Cost', num: true, cell: (j) => amount(j.cost_nanousd) },
          { name: 'Accepted', cell: (j) => when(j.accepted) },
        ],
      }),
      list.next && limit < 500 && h('button', { type: 'button', 'data-key': 'more', onclick: () => { limit = Math.min(500, limit + 150); fill(); } }, 'Show more'));
  };
  const start = signedIn(box, signal, fill);
  const again = setInterval(() => { if (session.token && !document.hidden) fill().catch(() => {}); }, 3000);
  signal.addEventListener('abort', () => clearInterval(again));
  return h('section', h('h1', 'Jobs'), box);
}

// limits are what the account may spend, as it set itself.
function limits(l) {
  const set = [['job', l?.job_nanousd], ['day', l?.day_nanousd], ['total', l?.total_nanousd]].filter(([, n]) => n > 0n);
  if (!set.length) return h('small', 'none: ', h('code', 'rialto account limit --day 20'), ' sets one');
  return set.map(([per, n]) => h('span.limit', amount(n, 2), h('small', { job: ' a job', day: ' a day', total: ' in all' }[per])));
}

export function job({ args: [id], signal }) {
  const box = h('div', h('p.wait', 'Reading the job …'));
  signedIn(box, signal, async () => {
    const head = h('div');
    const gang = h('div');
    const steps = h('div');
    const bill = h('div');
    const events = h('ol.events');
    const show = async () => {
      const j = await get('/v1/jobs/' + encodeURIComponent(id), {}, signal);
      const l = j.lease ? await get(`/v1/jobs/${encodeURIComponent(id)}/lease`, {}, signal) : null;
      swap(head, summary(j, l));
      if (j.gang) swap(gang, members(await get(`/v1/jobs/${encodeURIComponent(id)}/nodes`, {}, signal), id));
      if (l) {
        swap(steps, timeline(l));
        if (l.state === 'ended') swap(bill, await receipt(id, signal));
      }
      return j;
    };
    const first = await show();
    swap(box, head, gang, steps, bill, h('h2', 'Events'), events, logPanel(first, ends, signal));
    let due = 0;
    const seen = new Set();
    follow(`/v1/jobs/${encodeURIComponent(id)}/events`, {
      signal,
      on: (name, e) => {
        if (name === 'end') {
          show().catch(() => {});
          return false;
        }
        if (seen.has(e.seq)) return true;
        seen.add(e.seq);
        events.append(h('li', when(e.time), ' ', chip(e.state, e.state, states[e.state]), ' ', h('span', e.text)));
        say(e.text);
        if (!due) due = setTimeout(() => { due = 0; show().catch(() => {}); }, 200);
        return true;
      },
    }).catch((e) => events.append(h('li.problem', e.message)));
    // The meter moves without events.
    const again = setInterval(() => { if (!document.hidden) show().then((j) => ends(j.state) && clearInterval(again)).catch(() => {}); }, 5000);
    signal.addEventListener('abort', () => clearInterval(again));
  });
  return h('section', h('p', h('a', { href: '#/jobs' }, 'Jobs')), h('h1', 'Job ', h('code', id)), box);
}

function summary(j, l) {
  const fact = (name, value, more) => h('div', h('dt', name), h('dd', value, more && h('small', more)));
  return [
    h('p', state(j), ' ', j.simulated && tier('simulated'), ' ', states[j.state], j.error && [': ', h('span.problem', j.error)], waiting(j)),
    h('p', h('code', [j.image, ...(j.command ?? [])].join(' '))),
    h('dl.facts',
      fact('GPUs', `${j.gpu_count} × ${l?.model ?? j.gpu_model}`), fact('Host', j.host ?? '–'), fact('Cost so far', amount(j.cost_nanousd)),
      fact('Billed', j.billed_ms ? lasting(j.billed_ms) : '–', ` of at most ${lasting(j.max_duration_ms)}`), fact('Held', amount(j.held_nanousd, 2)),
      fact('Disk', mib(j.disk_mib), chargesDisk(j) ? [' ', amount(j.disk_cost_nanousd ?? 0n), ' so far'] : j.lease && ' costs nothing here'),
      fact('Traffic', flow(j), chargesTraffic(j) ? [' ', amount(j.traffic_cost_nanousd ?? 0n), ' so far'] : j.lease && ' costs nothing here')),
    beside(j, j.disk_mib, j.traffic_bytes),
    usedUp(j) && h('p.problem', `The ${bytes(j.traffic_bytes)} each way that you pay for are used up: more costs nothing, and may be slow. `, h('code', '--traffic'), ' pays for more the next time.'),
  ];
}

// waiting says what a job waits for, and how long.
function waiting(j) {
  if (j.state !== 'queued') return null;
  const limit = j.max_rate_nanousd_per_hour > 0n && [' at ', rate(j.max_rate_nanousd_per_hour), ' for each GPU or less'];
  return [limit, j.good_until && [', until ', when(j.good_until)], j.ahead > 0 && `; ${j.ahead} before it`];
}

// members are the nodes of a gang, of which one is shown.
function members(g, id) {
  return table({
    caption: `One of ${g.nodes.length} hosts that run it at once`, rows: g.nodes, rowClass: (j) => (j.id === id ? 'here' : null), columns: [
      { name: 'Node', cell: (j) => [h('span.rank', rank(j)), ' ', j.id === id ? h('code', { 'aria-current': 'true' }, j.id) : h('a', { href: '#/job/' + encodeURIComponent(j.id), 'data-key': j.id }, h('code', j.id))] },
      { name: 'State', cell: (j) => state(j) },
      { name: 'Host', cell: (j) => j.host ?? '–' },
      { name: 'Ran', num: true, cell: (j) => (j.billed_ms ? lasting(j.billed_ms) : '–') },
      { name: 'Cost', num: true, cell: (j) => amount(j.cost_nanousd) },
    ],
  });
}

// timeline draws the start-up steps as bars beside their names and times.
function timeline(l) {
  if (!l.steps.length) return h('p.none', `Lease ${l.id} of ${l.host}: the start-up timeline comes with the host’s first report.`);
  const all = Math.max(...l.steps.map((s) => s.start_ms + s.took_ms), 1);
  const f = l.fetched;
  const parts = [['on the host', f.local_bytes], ['from other hosts', f.peer_bytes], ['from the registry', f.registry_bytes]].filter(([, n]) => n > 0);
  return [h('h2', `Start-up: ${lasting(all)}`), table({
    caption: `From the hold’s arrival at ${l.host} until the container was ready`, narrow: true, rows: l.steps, columns: [
      { name: 'Step', cell: (s) => s.name },
      { name: 'From', num: true, cell: (s) => lasting(s.start_ms) },
      { name: 'Took', num: true, cell: (s) => lasting(s.took_ms) },
      { name: 'When', cell: (s) => h('svg.bars', { viewBox: '0 0 400 14', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
        h('rect.rest', { x: 0, y: 6, width: 400, height: 2 }), h('rect.part', { x: (400 * s.start_ms) / all, y: 1, width: Math.max((400 * s.took_ms) / all, 2), height: 12, rx: 2 })) },
    ],
  }), parts.length > 0 && h('p', 'Image and weights: ', parts.map(([name, n], i) => [i ? ', ' : '', `${bytes(n)} ${name}`]), f.total_bytes ? ` of ${bytes(f.total_bytes)}` : '', '.')];
}

async function receipt(id, signal) {
  let r;
  try {
    r = await get(`/v1/jobs/${encodeURIComponent(id)}/receipt`, {}, signal);
  } catch (e) {
    if (e instanceof Problem && e.status === 404) return h('p.none', 'No bill: nothing ran.');
    throw e;
  }
  return [h('h2', 'Bill'), h('dl.bill',
    h('div', h('dt', 'Ran, by the provider’s meter'), h('dd', lasting(r.used_ms))),
    h('div', h('dt', 'Billed: corroborated time'), h('dd', lasting(r.billed_ms))),
    h('div', h('dt', 'Rate'), h('dd', `${count(r.gpus.length)} × `, rate(r.rate_nanousd_per_hour, 9))),
    chargesDisk(r) && h('div', h('dt', 'Disk'), h('dd', `${mib(r.disk_mib)}, at `, perMonth(r), ' for a GiB a month: ', part(r.disk_cost_nanousd))),
    chargesTraffic(r) && h('div', h('dt', 'Traffic'), h('dd', `${flow(r)}, at `, perGB(r), ': ', part(r.traffic_cost_nanousd))),
    h('div', h('dt', 'Cost'), h('dd', h('b', usd(r.cost_nanousd)))),
    h('div', h('dt', 'of which the broker’s fee'), h('dd', usd(r.fee_nanousd), r.cost_nanousd > 0n ? h('small', ` ${percent((r.fee_nanousd * 1_000_000n) / r.cost_nanousd, 2)}`) : null))),
  h('p.help', 'The broker signed it. ', h('code', `rialto bill ${id}`), ' checks the signature and computes it again.')];
}
