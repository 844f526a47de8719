// A job's log. It flows from host to customer inside the tunnel and never through the broker: only `rialto web`, on the
// customer's own machine, can show it.
import { h, say, swap } from './dom.js';
import { call, session } from './api.js';

const most = 2000; // lines kept on the page
const colours = /\x1b\[[0-9;?]*[ -/]*[@-~]/g; // and whatever else a terminal would do

export function logPanel(job, ends, signal) {
  const box = h('section.log', h('h2', 'Log'));
  if (!session.local) {
    box.append(h('p.help', 'Logs go from the host to you alone, inside the job’s tunnel, and never pass this broker. In a terminal: ', h('code', `rialto logs -f ${job.id}`), ', or on this page: ', h('code', 'rialto web'), '.'));
    return box;
  }
  const out = h('pre.lines', { tabindex: '0', role: 'log', 'aria-label': `Log of ${job.id}` });
  const note = h('p.help');
  box.append(out, note);
  stream(job, ends, out, note, signal);
  return box;
}

async function stream(job, ends, out, note, signal) {
  try {
    const answer = await call(`/local/logs/${encodeURIComponent(job.id)}`, { signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const end = out.scrollHeight - out.scrollTop - out.clientHeight < 30;
      out.append(value.replace(colours, ''));
      const lines = out.textContent.split('\n');
      if (lines.length > most * 1.5) out.textContent = lines.slice(-most).join('\n');
      if (end) out.scrollTop = out.scrollHeight;
    }
    swap(note, 'The log has ended.');
  } catch (e) {
    if (!signal.aborted) {
      swap(note, h('span.problem', e.message));
      say(e.message);
    }
  }
}
