// The public API, and nothing else.

const tokenKey = 'rialto.token';

export const session = {
  get token() { return sessionStorage.getItem(tokenKey) ?? ''; },
  set token(t) {
    if (t) sessionStorage.setItem(tokenKey, t);
    else sessionStorage.removeItem(tokenKey);
  },
  // broker is set where `rialto web` serves the page, which knows the login and has the logs: it is where links lead to.
  get broker() { return sessionStorage.getItem('rialto.broker') ?? ''; },
  get local() { return this.broker !== ''; },
};

// enter signs in with the key of a link that `rialto web` printed.
export async function enter(key) {
  const answer = await call('/local/enter', { method: 'POST', headers: { Authorization: 'Bearer ' + key } });
  const { token, broker } = await answer.json();
  session.token = token;
  sessionStorage.setItem('rialto.broker', broker);
}

// Problem is what the API says is wrong (RFC 9457).
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `the broker answered ${status}`);
    this.status = status;
    this.type = body.type ?? '';
    this.field = body.field ?? '';
    this.nearest = body.nearest ?? '';
    this.search = body.search;
  }
}

// decode reads JSON; amounts become BigInt, because a double cannot hold them all.
export function decode(text) {
  const safe = text.replace(/("\w*nanousd\w*":)\s*(-?\d+)/g, '$1"$2"');
  return JSON.parse(safe, (key, value) => (typeof value === 'string' && key.includes('nanousd') ? BigInt(value) : value));
}

function headers(extra) {
  const all = { ...extra };
  if (session.token && !all.Authorization) all.Authorization = 'Bearer ' + session.token;
  return all;
}

// call returns an answer that is fine; all else is a Problem.
export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { cache: 'no-cache', credentials: 'omit', ...options, headers: headers(options.headers) });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new Problem(0, { detail: 'the broker cannot be reached: is it running?' });
  }
  if (answer.ok) return answer;
  let body = {};
  try {
    body = decode(await answer.text());
  } catch { /* not a problem document */ }
  throw new Problem(answer.status, body);
}

// query makes a path with parameters; empty ones are left out.
export function query(path, params = {}) {
  const p = new URLSearchParams();
  for (const [k, v] of Object.entries(params)) if (v !== undefined && v !== null && v !== '') p.set(k, v);
  const text = p.toString();
  return text ? path + '?' + text : path;
}

export async function get(path, params, signal) {
  return decode(await (await call(query(path, params), { signal })).text());
}

export async function send(method, path, body, signal) {
  const answer = await call(path, { method, body: body && JSON.stringify(body), headers: body ? { 'Content-Type': 'application/json' } : {}, signal });
  const text = await answer.text();
  return text ? decode(text) : null;
}

const pause = (ms, signal) => new Promise((done) => {
  const t = setTimeout(done, ms);
  signal.addEventListener('abort', () => { clearTimeout(t); done(); }, { once: true });
});

// follow reads server-sent events until the signal, or until on returns false, and resumes where it was cut off.
// EventSource would do, but it cannot send a token.
export async function follow(path, { on, state = () => {}, signal }) {
  let last = '';
  for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 15_000)) {
    try {
      const answer = await call(path, { signal, headers: { Accept: 'text/event-stream', ...(last && { 'Last-Event-ID': last }) } });
      state('live');
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ''; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split('\n\n');
        rest = parts.pop();
        for (const part of parts) {
          const event = { name: 'message', data: '' };
          for (const line of part.split('\n')) {
            const [, field, text] = /^(\w*): ?(.*)$/.exec(line) ?? [];
            if (field === 'id') last = text;
            else if (field === 'event') event.name = text;
            else if (field === 'data') event.data += text;
          }
          if (event.data === '') continue;
          wait = 500;
          if (event.name === 'reset') last = '';
          if (on(event.name, decode(event.data)) === false) {
            await reader.cancel();
            return;
          }
        }
      }
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Problem && e.status >= 400 && e.status < 500 && e.status !== 429) {
        state('off', e.message);
        throw e;
      }
    }
    state('lost');
    await pause(wait, signal);
  }
}
