// A matrix of who reaches whom. Names are inserted as text only, and only what is open is drawn.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const STRIDE = 6;
  const SAME = 0;
  const KINDS = ["same", "opened", "widened", "changed", "narrowed", "closed"];
  const SIGNS = ["", "+", "▲", "±", "▼", "−"];
  const ROWS = 60;
  const COLUMNS = 40;
  const LISTED = 60;

  const state = {
    mode: data.about.isMap ? "after" : "changed", filter: "", open: new Set(), row: 0, column: 0, chosen: null, focus: null,
  };

  // ---- the data as it is asked for --------------------------------------------------------
  const cells = new Map();
  for (let at = 0; at < data.cells.length; at += STRIDE) {
    cells.set(data.cells[at] * data.groups.length + data.cells[at + 1], at);
  }
  const cellOf = (from, to) => {
    if (from === to && from.pods < 2) return null;
    // NetworkPolicies do not apply to what external addresses open at nodes.
    if (from.group >= data.outside && to.group >= data.outside) return null;
    const at = cells.get(from.group * data.groups.length + to.group);
    if (at === undefined) return { before: 0, after: 0, kind: SAME, cause: -1 };
    const [before, after, kind, cause] = data.cells.slice(at + 2, at + STRIDE);
    return { before, after, kind, cause };
  };
  const units = data.units.map(([name, space, pods, group]) => ({ name, space, pods, group }));
  const spaces = new Map();
  for (const unit of units) {
    if (!spaces.has(unit.space)) spaces.set(unit.space, []);
    spaces.get(unit.space).push(unit);
  }
  // A single namespace is open: one cell for all of its workloads would say little. The other names
  // have a space, which no namespace can have.
  const namespaces = [...spaces.keys()].filter((space) => !space.includes(" "));
  if (namespaces.length === 1) state.open.add(namespaces[0]);

  // Per pair of namespaces how many pairs of workloads there are of each kind, and allowed.
  const totals = new Map();
  const parts = data.groups.map(() => new Map());
  for (const unit of units) {
    const part = parts[unit.group];
    part.set(unit.space, (part.get(unit.space) || []).concat(unit));
  }
  const keyOf = (from, to) => JSON.stringify([from, to]);
  for (let at = 0; at < data.cells.length; at += STRIDE) {
    const [source, target, before, after, kind] = data.cells.slice(at, at + STRIDE);
    for (const [from, sources] of parts[source]) {
      for (const [to, targets] of parts[target]) {
        let number = sources.length * targets.length;
        if (source === target && from === to) number -= sources.filter((u) => u.pods < 2).length;
        const key = keyOf(from, to);
        if (!totals.has(key)) totals.set(key, { before: 0, after: 0, kinds: [0, 0, 0, 0, 0, 0] });
        const total = totals.get(key);
        total.kinds[kind] += number;
        if (before > 0) total.before += number;
        if (after > 0) total.after += number;
      }
    }
  }
  const pairsOf = (from, to) => {
    const [sources, targets] = [spaces.get(from), spaces.get(to)];
    const own = from === to ? sources.filter((unit) => unit.pods < 2).length : 0;
    return sources.length * targets.length - own;
  };

  // ---- drawing helpers --------------------------------------------------------------------
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  // The end of a name tells as much as its beginning: the middle is cut.
  const NAME = 34;
  const middle = (text) => {
    const half = Math.floor((NAME - 1) / 2);
    return text.length > NAME ? `${text.slice(0, half)}…${text.slice(-half)}` : text;
  };
  const short = (name) => middle(name.split("/").slice(1).join("/") || name);

  // ---- rows and columns -------------------------------------------------------------------
  const isOfInterest = (cell) => {
    if (!cell) return false;
    if (state.mode === "changed") return cell.kind !== SAME;
    return cell[state.mode] > 0;
  };
  // The other side of every cell of interest, per unit: computed once for each mode.
  const meetings = { of: null, from: null, to: null };
  const meet = () => {
    if (meetings.of === state.mode) return;
    meetings.of = state.mode;
    meetings.from = data.groups.map(() => []);
    meetings.to = data.groups.map(() => []);
    for (let at = 0; at < data.cells.length; at += STRIDE) {
      const [source, target, before, after, kind] = data.cells.slice(at, at + STRIDE);
      if (!isOfInterest({ before, after, kind })) continue;
      meetings.from[source].push(target);
      meetings.to[target].push(source);
    }
  };
  const matches = (unit) => unit.name.toLowerCase().includes(state.filter);

  // What one axis shows: namespaces, and the workloads of those that are open.
  const axis = (side) => {
    meet();
    const others = meetings[side];
    const wanted = new Set(units.filter(matches).map((unit) => unit.group));
    const items = [];
    for (const [space, all] of spaces) {
      let shown = all;
      if (state.filter) {
        shown = all.filter((u) => matches(u) || others[u.group].some((g) => wanted.has(g)));
      } else if (state.mode === "changed") {
        shown = all.filter((unit) => others[unit.group].length > 0);
      }
      if (shown.length === 0) continue;
      // Nodes are asked only: what they open at pods does not change.
      if (side === "from" && all[0].group > data.outside) continue;
      if (all[0].group === data.outside) {
        items.push({ space, unit: all[0] });
        continue;
      }
      const open = state.filter !== "" || state.open.has(space);
      items.push({ space, open, size: all.length });
      if (open) for (const unit of shown) items.push({ space, unit });
    }
    return items;
  };

  // ---- cells ------------------------------------------------------------------------------
  const nameOf = (item) => (item.unit ? item.unit.name : `${item.space}/*`);
  const look = (from, to) => (from.unit && to.unit ? lookOfPair(from, to) : lookOfMany(from, to));
  const unsaid = (from) => (from.group < data.outside ? "a pod always reaches itself" : "NetworkPolicies do not apply to it");
  const lookOfPair = (from, to) => {
    const cell = cellOf(from.unit, to.unit);
    if (!cell) return { text: "", style: "self", say: unsaid(from.unit) };
    const [before, after] = [data.ports[cell.before], data.ports[cell.after]];
    if (state.mode === "changed") {
      const say = cell.kind === SAME ? `unchanged, ${after}` : `${KINDS[cell.kind]}, before ${before}, after ${after}`;
      return { text: SIGNS[cell.kind], style: cell.kind === SAME ? "none" : KINDS[cell.kind], say };
    }
    const ports = cell[state.mode];
    const style = ports === 0 ? "none" : data.ports[ports] === "every port" ? "all" : "some";
    return { text: { none: "", all: "all", some: "some" }[style], style, say: data.ports[ports] };
  };
  const totalOf = (from, to) => {
    if (!from.unit && !to.unit) {
      const known = totals.get(keyOf(from.space, to.space));
      const kinds = known ? known.kinds : [0, 0, 0, 0, 0, 0];
      const [before, after] = known ? [known.before, known.after] : [0, 0];
      return { kinds, before, after, pairs: pairsOf(from.space, to.space) };
    }
    const total = { kinds: [0, 0, 0, 0, 0, 0], before: 0, after: 0, pairs: 0 };
    for (const source of from.unit ? [from.unit] : spaces.get(from.space)) {
      for (const target of to.unit ? [to.unit] : spaces.get(to.space)) {
        const cell = cellOf(source, target);
        if (!cell) continue;
        total.pairs += 1;
        total.kinds[cell.kind] += 1;
        if (cell.before > 0) total.before += 1;
        if (cell.after > 0) total.after += 1;
      }
    }
    return total;
  };
  const lookOfMany = (from, to) => {
    const total = totalOf(from, to);
    if (total.pairs === 0) return { text: "", style: "self", say: "nobody else is there" };
    if (state.mode === "changed") {
      const found = [1, 2, 3, 4, 5].filter((kind) => total.kinds[kind] > 0);
      if (found.length === 0) return { text: "", style: "none wide", say: "unchanged" };
      const signs = found.map((kind) => `${SIGNS[kind]}${total.kinds[kind]}`).join(" ");
      const said = found.map((kind) => `${total.kinds[kind]} ${KINDS[kind]}`).join(", ");
      const [text, say] = [`${signs}/${total.pairs}`, `${said} of ${total.pairs} pairs`];
      return { text, style: `${KINDS[found[0]]} wide`, say };
    }
    const number = total[state.mode];
    const style = number === 0 ? "none" : number === total.pairs ? "all" : "some";
    return { text: number ? `${number}/${total.pairs}` : "", style: `${style} wide`, say: `${number} of ${total.pairs} pairs connect` };
  };

  // ---- the matrix -------------------------------------------------------------------------
  const draw = () => {
    const [rows, columns] = [axis("from"), axis("to")];
    state.row = Math.min(state.row, Math.max(0, Math.floor((rows.length - 1) / ROWS) * ROWS));
    state.column = Math.min(state.column, Math.max(0, Math.floor((columns.length - 1) / COLUMNS) * COLUMNS));
    const shownRows = rows.slice(state.row, state.row + ROWS);
    const shownColumns = columns.slice(state.column, state.column + COLUMNS);
    drawPager(rows.length, columns.length);
    if (shownRows.length === 0 || shownColumns.length === 0) {
      const text = state.filter ? "Nothing here matches the filter." : "Nothing to show: no connection changes.";
      $("scroll").replaceChildren(make("p", { class: "hint" }, text));
      return;
    }
    const head = make("tr", { role: "row" }, make("th", { scope: "col", role: "columnheader" }, "from ↓  to →"));
    for (const item of shownColumns) head.append(header(item, "col"));
    const body = make("tbody");
    shownRows.forEach((from, y) => {
      const row = make("tr", { role: "row" }, header(from, "row"));
      shownColumns.forEach((to, x) => row.append(cell(from, to, x, y)));
      body.append(row);
    });
    const table = make("table", { role: "grid", "aria-label": "Who reaches whom" }, make("thead", {}, head), body);
    $("scroll").replaceChildren(table);
    const kept = state.focus && table.querySelector(`td[data-x="${state.focus.x}"][data-y="${state.focus.y}"]`);
    (kept || table.querySelector("td")).tabIndex = 0;
  };
  const header = (item, scope) => {
    const role = scope === "col" ? "columnheader" : "rowheader";
    const cell = make("th", { scope, role, title: nameOf(item) });
    if (item.unit) {
      const outside = item.unit.group === data.outside;
      const style = outside ? "whole" : state.filter && matches(item.unit) ? "unit match" : "unit";
      cell.append(make("span", { class: style }, outside ? item.unit.name : short(item.unit.name)));
    } else {
      const toggle = () => { setOpen(item.space, !state.open.has(item.space)); refocus(item.space, scope); };
      const sign = item.open ? "▾" : "▸";
      cell.append(make("button", {
        type: "button", "aria-expanded": String(item.open), "data-space": item.space, on: { click: toggle },
      }, `${sign} ${middle(item.space)} (${item.size})`));
    }
    return cell;
  };
  const cell = (from, to, x, y) => {
    const { text, style, say } = look(from, to);
    const said = `from ${nameOf(from)} to ${nameOf(to)}: ${say}`;
    const chosen = state.chosen && state.chosen[0] === nameOf(from) && state.chosen[1] === nameOf(to);
    const beside = state.filter && from.unit && to.unit && !matches(from.unit) && !matches(to.unit);
    return make("td", {
      role: "gridcell", class: beside ? `${style} beside` : style, tabindex: "-1", "aria-label": said, title: said,
      "aria-selected": String(Boolean(chosen)), "data-x": x, "data-y": y,
      on: { click: () => choose(from, to, x, y) },
    }, text);
  };
  const setOpen = (space, open) => {
    if (open) state.open.add(space); else state.open.delete(space);
    draw();
  };
  const refocus = (space, scope) => {
    for (const button of $("scroll").querySelectorAll(`th[scope="${scope}"] button`)) {
      if (button.dataset.space === space) button.focus();
    }
  };
  const drawPager = (rows, columns) => {
    const pager = $("pager");
    pager.replaceChildren();
    pager.hidden = rows <= ROWS && columns <= COLUMNS;
    const part = (word, at, size, total, move) => {
      if (total <= size) return;
      const step = (by) => () => { move(at + by); draw(); };
      pager.append(
        make("button", { type: "button", "aria-label": `previous ${word}`, on: { click: step(-size) } }, "◂"),
        make("span", {}, `${word} ${at + 1}–${Math.min(at + size, total)} of ${total}`),
        make("button", { type: "button", "aria-label": `next ${word}`, on: { click: step(size) } }, "▸"),
      );
      const [, next] = [...pager.querySelectorAll("button")].slice(-2);
      next.previousSibling.previousSibling.disabled = at === 0;
      next.disabled = at + size >= total;
    };
    part("rows", state.row, ROWS, rows, (at) => { state.row = at; });
    part("columns", state.column, COLUMNS, columns, (at) => { state.column = at; });
  };

  // ---- why --------------------------------------------------------------------------------
  const choose = (from, to, x, y) => {
    state.chosen = [nameOf(from), nameOf(to)];
    state.focus = { x, y };
    for (const old of $("scroll").querySelectorAll('td[aria-selected="true"]')) old.setAttribute("aria-selected", "false");
    focusCell(x, y);
    const now = $("scroll").querySelector(`td[data-x="${x}"][data-y="${y}"]`);
    if (now) now.setAttribute("aria-selected", "true");
    if (from.unit && to.unit) explain(from.unit, to.unit); else list(from, to);
  };
  const explain = (from, to) => {
    const found = cellOf(from, to);
    const title = make("h2", {}, `${from.name} → ${to.name}`);
    if (!found) {
      $("why").replaceChildren(title, make("p", {}, `${unsaid(from)}.`));
      return;
    }
    const kind = KINDS[found.kind];
    if (data.about.isMap) {
      $("why").replaceChildren(title, make("p", {}, data.ports[found.after]));
      isolation("Egress", from, 1);
      isolation("Ingress", to, 0);
      return;
    }
    const facts = make("dl", {},
      make("dt", {}, "before"), make("dd", {}, data.ports[found.before]),
      make("dt", {}, "after"), make("dd", {}, data.ports[found.after]));
    const tag = make("p", {}, make("span", { class: `tag ${kind}` }, found.kind === SAME ? "unchanged" : kind));
    $("why").replaceChildren(title, tag, facts);
    const causes = found.cause < 0 ? [] : data.causes[found.cause];
    if (causes.length > 0) {
      const items = causes.map((number) => make("li", {}, data.objects[number]));
      $("why").append(make("h3", {}, "Because of"), make("ul", {}, ...items));
      if (causes.length > 1) $("why").append(make("p", { class: "hint" }, "These together; undoing one of them may not be enough."));
    }
    isolation("Egress", from, 1);
    isolation("Ingress", to, 0);
  };
  const isolation = (word, unit, direction) => {
    const group = data.groups[unit.group];
    if (unit.group >= data.outside) return;
    const say = (policies) => (policies.length ? `decided by ${policies.join(", ")}` : "no policy: every connection passes");
    const heading = make("h3", {}, `${word} of ${unit.name}`);
    if (data.about.isMap) {
      $("why").append(heading, make("p", {}, say(group.after[direction])));
      return;
    }
    $("why").append(heading, make("dl", {},
      make("dt", {}, "before"), make("dd", {}, say(group.before[direction])),
      make("dt", {}, "after"), make("dd", {}, say(group.after[direction]))));
  };
  const list = (from, to) => {
    const title = make("h2", {}, `${nameOf(from)} → ${nameOf(to)}`);
    const found = [];
    let more = 0;
    for (const source of from.unit ? [from.unit] : spaces.get(from.space)) {
      for (const target of to.unit ? [to.unit] : spaces.get(to.space)) {
        const cell = cellOf(source, target);
        if (!isOfInterest(cell)) continue;
        if (found.length < LISTED) found.push([source, target, cell]); else more += 1;
      }
    }
    const jumps = found.map(([source, target, cell]) => {
      const ports = state.mode === "changed" ? `${KINDS[cell.kind]}: ${data.ports[cell.before]} → ${data.ports[cell.after]}` : data.ports[cell[state.mode]];
      return make("button", { type: "button", class: "jump", on: { click: () => explain(source, target) } },
        `${source.name} → ${target.name}`, make("br"), make("small", { class: "hint" }, ports));
    });
    const none = make("p", { class: "hint" }, state.mode === "changed" ? "Nothing changes here." : "Nothing connects here.");
    $("why").replaceChildren(title, look(from, to).say, ...(jumps.length ? jumps : [none]));
    if (more) $("why").append(make("p", { class: "hint" }, `and ${more} more; open the namespaces to see each`));
  };

  // ---- keys -------------------------------------------------------------------------------
  const focusCell = (x, y) => {
    const next = $("scroll").querySelector(`td[data-x="${x}"][data-y="${y}"]`);
    if (!next) return;
    for (const old of $("scroll").querySelectorAll('td[tabindex="0"]')) old.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    state.focus = { x, y };
  };
  $("scroll").addEventListener("keydown", (event) => {
    const at = event.target.closest("td");
    if (!at) return;
    const [x, y] = [Number(at.dataset.x), Number(at.dataset.y)];
    const moves = { ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [x, y - 1], ArrowDown: [x, y + 1], Home: [0, y] };
    if (event.key === "Enter" || event.key === " ") at.click();
    else if (moves[event.key]) focusCell(...moves[event.key]);
    else return;
    event.preventDefault();
  });
  const modes = [...document.querySelectorAll("[data-mode]")];
  const setMode = (mode) => {
    state.mode = mode;
    for (const button of modes) {
      const chosen = button.dataset.mode === mode;
      button.setAttribute("aria-checked", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    }
    drawLegend();
    draw();
  };
  modes.forEach((button, number) => {
    button.addEventListener("click", () => setMode(button.dataset.mode));
    button.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by) return;
      const next = modes[(number + by + modes.length) % modes.length];
      setMode(next.dataset.mode);
      next.focus();
      event.preventDefault();
    });
  });
  $("filter").addEventListener("input", (event) => {
    state.filter = event.target.value.trim().toLowerCase();
    [state.row, state.column] = [0, 0];
    draw();
  });
  $("open-all").addEventListener("click", () => { for (const space of spaces.keys()) state.open.add(space); draw(); });
  $("close-all").addEventListener("click", () => { state.open.clear(); draw(); });

  // ---- what does not change ---------------------------------------------------------------
  const drawLegend = () => {
    const of = state.mode === "changed"
      ? [1, 2, 4, 5, 3].map((kind) => [KINDS[kind], SIGNS[kind], KINDS[kind]])
      : [["all", "all", "every port"], ["some", "some", "some ports, or some pairs"], ["none", "", "nothing"]];
    $("legend").replaceChildren(...of.map(([style, sign, word]) => make("li", {}, make("i", { class: style }, sign || " "), word)));
  };
  const title = data.about.isMap ? "What if: the map" : "What if: connections before and after";
  [document.title, $("title").textContent, $("headline").textContent] = [title, title, data.headline];
  const fact = (word, ...values) => {
    $("about").append(make("div", {}, make("dt", {}, word), make("dd", {}, ...values)));
  };
  fact("Source", data.about.source);
  fact("Written", data.about.time);
  fact("Version", data.about.version);
  if (data.objects.length > 0) {
    const items = data.objects.map((object) => make("li", {}, object));
    const count = data.objects.length === 1 ? "1 object" : `${data.objects.length} objects`;
    fact("Changed", make("details", {}, make("summary", {}, count), make("ul", {}, ...items)));
  }
  if (data.risks.length > 0) {
    const items = data.risks.map(([text, who, because]) =>
      make("li", {}, make("b", {}, who), text, make("br"), make("small", {}, `because of ${because}`)));
    $("risks").append(make("ul", {}, ...items));
    $("risks").hidden = false;
  }
  $("why").append(make("p", { class: "hint" }, `Choose a cell to learn what it is${data.about.isMap ? "" : " and what did it"}. In the matrix, arrow keys move and Enter chooses; a namespace opens into its workloads.`));
  $("modes").hidden = data.about.isMap;
  setMode(state.mode);
  document.documentElement.dataset.ready = "yes";
})();
