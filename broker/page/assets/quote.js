// A firm quote: a host signs price and GPUs for some seconds, and the customer accepts or does not. The customer signs what
// he asks, with a key that only his own machine has: only `rialto web` can, and elsewhere the command is shown.
import { h, say, swap } from './dom.js';
import { Problem, call, send, session } from './api.js';
import { amount, lasting, rate } from './format.js';
import { beside, flags } from './tariff.js';
import { tier } from './words.js';

// quotePanel returns an element, and offer(o, gpus, ms, {disk, traffic}), which says what a quote would be asked for. A quote that is open
// stays as it is while offers change.
export function quotePanel(signal) {
  const node = h('section.quote', { 'aria-label': 'Firm quote', hidden: true });
  const what = h('p.help');
  const answer = h('div');
  const problem = h('p.problem', { role: 'alert' });
  const image = h('input', { id: 'quote-image', name: 'image', autocomplete: 'off', spellcheck: 'false', required: true, maxlength: 512, placeholder: 'python:3-slim', 'aria-describedby': 'quote-what' });
  const command = h('input', { id: 'quote-command', name: 'command', autocomplete: 'off', spellcheck: 'false', maxlength: 4096, placeholder: 'the image’s own' });
  const button = h('button.main', { type: 'submit' }, 'Ask for a firm quote');
  let asked = null; // for what
  let open = ''; // the quote that waits

  const form = h('form', { onsubmit: (e) => { e.preventDefault(); ask(); } },
    h('div.field', h('label', { for: 'quote-image' }, 'Image'), image), h('div.field', h('label', { for: 'quote-command' }, 'Command, for sh'), command), button);

  async function ask() {
    problem.textContent = '';
    button.disabled = true;
    swap(answer, h('p.wait', 'Asking the host …'));
    try {
      const q = await send('POST', '/local/quotes', { image: image.value.trim(), command: command.value, provider: asked.o.provider, model: asked.o.model, gpus: asked.gpus, duration_ms: asked.ms, ...(asked.disk && { disk_mib: asked.disk }), ...(asked.traffic && { traffic_bytes: asked.traffic }) }, signal);
      show(q);
    } catch (e) {
      done(e);
    }
  }

  // done ends a quote, and says why.
  function done(why) {
    if (signal.aborted) return;
    open = '';
    button.disabled = false;
    form.hidden = false;
    swap(answer);
    problem.textContent = why instanceof Problem ? why.message : String(why);
    say(problem.textContent);
  }

  function show(q) {
    open = q.id;
    form.hidden = true;
    const until = performance.now() + q.expires_in_ms;
    const left = h('b', { role: 'timer' });
    const accept = h('button.main', { type: 'button', 'data-key': 'accept', onclick: () => act('Accepting …', async () => {
      const { id } = await send('POST', `/local/quotes/${encodeURIComponent(q.id)}/accept`, null, signal);
      location.hash = '#/job/' + encodeURIComponent(id);
    }) }, 'Accept and run');
    const back = h('button', { type: 'button', onclick: () => act('Giving it back …', async () => {
      await call(`/local/quotes/${encodeURIComponent(q.id)}`, { method: 'DELETE', signal });
      done('Given back: nothing was paid.');
    }) }, 'Give it back');
    const row = h('p.acts', accept, ' ', back, ' ', left);
    swap(answer, h('p', h('b', 'Firm: '), `${q.gpus.length} × ${q.model} `, q.simulated && [tier('simulated'), ' '], `on ${q.host} at `, h('b', rate(q.total_rate_nanousd_per_hour, 9)), ', signed by the host.'),
      beside(q, q.disk_mib, q.traffic_bytes),
      h('p', h('b', amount(q.cost_nanousd, 4)), ` at most for ${lasting(q.max_duration_ms)}, fee included. `, amount(q.held_nanousd, 2), ' is kept aside; nothing runs and nothing is paid before you accept.'), row);
    accept.focus();
    say(`A firm quote, for ${Math.round(q.expires_in_ms / 1000)} seconds`);
    let acting = false;
    async function act(text, fn) {
      acting = true;
      accept.disabled = back.disabled = true;
      left.textContent = text;
      try {
        await fn();
      } catch (e) {
        done(e);
      }
    }
    const tick = () => {
      if (acting || signal.aborted || open !== q.id) return;
      const ms = until - performance.now();
      if (ms <= 0) {
        done('The quote has ended: nothing was paid.');
        return;
      }
      left.textContent = `${Math.ceil(ms / 1000)} s left`;
      setTimeout(tick, 200);
    };
    tick();
  }

  node.append(h('h2', 'Firm quote'), what, ...(session.local ? [form, answer, problem] : []));
  what.id = 'quote-what';

  // A name or a model goes into a command that somebody may paste: into quotes, and without what ends them.
  const quoted = (text) => `'${text.replaceAll("'", '')}'`;

  return {
    node,
    offer(o, gpus, ms, { disk, traffic } = {}) {
      if (open) return;
      node.hidden = !o;
      if (!o) return;
      asked = { o, gpus, ms: Math.max(1000, ms), disk, traffic };
      const minutes = Math.max(1, Math.round(ms / 60_000));
      swap(what, session.local
        ? [`${o.host} would hold ${gpus} × ${o.model} for 15 seconds at a price that it signs, for a job of ${lasting(asked.ms)}. You pay nothing unless you accept.`]
        : ['A host holds GPUs at a price that it signs for 15 seconds. You sign what you ask for, with a key that this broker does not have: in a terminal, or on this page opened with ', h('code', 'rialto web'), '.',
          h('code.line', `rialto quote --firm --provider ${quoted(o.provider)} --gpu ${quoted(`${o.model}:${gpus}`)} --for ${minutes}m${flags(disk, traffic)} IMAGE`)]);
    },
  };
}
