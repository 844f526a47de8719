// Elements without markup in strings: nothing that comes from the market can become code.

const svgNames = new Set(['svg', 'path', 'polyline', 'polygon', 'line', 'rect', 'circle', 'text', 'g', 'title']);

// h makes an element: h('td.num', {title: 'exact'}, 'text', child). Children that are null, undefined or false are left out.
// Properties that begin with "on" are listeners; true is an empty attribute, and null or false none.
export function h(spec, ...rest) {
  const [tag, ...classes] = spec.split('.');
  const svg = svgNames.has(tag);
  const e = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  if (classes.length) e.setAttribute('class', classes.join(' '));
  const first = rest[0];
  const props = first && typeof first === 'object' && !(first instanceof Node) && !Array.isArray(first) ? rest.shift() : {};
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value);
    else if (name === 'value' && 'value' in e && tag !== 'data') e.value = value;
    else e.setAttribute(name, value === true ? '' : String(value));
  }
  e.append(...flat(rest));
  return e;
}

function flat(children) {
  return children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c)));
}

// swap replaces what is inside an element and keeps the focus on the element with the same data-key.
export function swap(e, ...children) {
  const active = document.activeElement;
  const key = active && e.contains(active) ? active.dataset.key : undefined;
  e.replaceChildren(...flat(children));
  if (key !== undefined) e.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// say tells a screen reader what changed.
export function say(text) {
  const e = document.getElementById('say');
  if (e.textContent !== text) e.textContent = text;
}

// table makes a table that becomes cards on a narrow screen, unless it is narrow itself. Columns are {name, label, num, cell(row), key, sort};
// a column with sort has a button for a heading, see sorted.
export function table({ caption, columns, rows, sorted, onsort, empty, rowClass, narrow }) {
  const head = columns.map((c) => {
    const align = c.num ? 'th.num' : 'th';
    if (!c.sort || !onsort) return h(align, { scope: 'col' }, c.name);
    const dir = sorted === c.sort ? 'ascending' : sorted === '-' + c.sort ? 'descending' : null;
    const next = dir === 'ascending' ? '-' + c.sort : c.sort;
    return h(align, { scope: 'col', 'aria-sort': dir }, h('button.sort', { type: 'button', 'data-key': 'sort ' + c.sort, onclick: () => onsort(next) }, c.name,
      h('span', { 'aria-hidden': 'true' }, dir === 'ascending' ? ' ▲' : dir === 'descending' ? ' ▼' : ' ↕')));
  });
  const body = rows.map((row) => h('tr', { class: rowClass?.(row) }, columns.map((c, i) => {
    const tag = i === 0 ? 'th' : c.num ? 'td.num' : 'td';
    return h(tag, { 'data-label': c.label ?? c.name, scope: i === 0 ? 'row' : null }, c.cell(row));
  })));
  if (!rows.length && empty) body.push(h('tr.empty', h('td', { colspan: columns.length }, empty)));
  return h(narrow ? 'div.scroll.narrow' : 'div.scroll', h(narrow ? 'table' : 'table.cards', h('caption', caption), h('thead', h('tr', head)), h('tbody', body)));
}

// chip is a word with a colour and a meaning.
export function chip(kind, text, meaning) {
  return h('span.chip.' + kind, { title: meaning }, text);
}
