"use strict";

const PERIOD_MS = 2000;
const POINTS = 60;
const SHORT = 160;
const NARROW = "\u202f";

const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Values as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function digits(number) {
  if (number >= 100 || number === 0) return whole.format(number);
  return number.toFixed(number >= 10 ? 1 : 2);
}

function scaled(number, steps) {
  let [unit] = steps[0];
  let value = number;
  for (const [next, factor] of steps.slice(1)) {
    if (value < factor) break;
    value /= factor;
    unit = next;
  }
  return (unit === steps[0][0] ? whole.format(value) : digits(value)) + NARROW + unit;
}

const bytes = (number) => scaled(number, [["B", 1], ["kB", 1024], ["MB", 1024], ["GB", 1024], ["TB", 1024]]);
const micros = (number) => scaled(number, [["µs", 1], ["ms", 1000], ["s", 1000], ["min", 60], ["h", 60], ["d", 24]]);

const WRITTEN = {
  count: (number) => whole.format(number),
  bytes,
  us: micros,
  ms: (number) => micros(number * 1000),
  s: (number) => micros(number * 1e6),
  percent: (number) => number.toFixed(1) + NARROW + "%",
};

function written(value, unit) {
  if (value === null) return "";
  return unit in WRITTEN ? WRITTEN[unit](value) : String(value);
}

// The tiles: changes between two looks, and their course.

const tiles = new Map();

function tile(name) {
  if (!tiles.has(name)) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 24`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const [area, curve] = ["area", "curve"].map((kind) => {
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("class", kind);
      svg.append(path);
      return path;
    });
    const big = element("p", { className: "big", id: "tile-" + name.toLowerCase().replaceAll(" ", "-") });
    const small = element("p", { className: "small" });
    byId("tiles").append(element("div", { className: "tile" }, element("h3", {}, name), big, small, svg));
    tiles.set(name, { big, small, area, curve, course: [] });
  }
  return tiles.get(name);
}

function draw({ course, area, curve }, top) {
  const highest = Math.max(top || 0, ...course.filter((value) => value !== null)) || 1;
  let line = "", filled = "", begun = null;
  const end = (x) => { if (begun !== null) filled += `L${x} 24L${begun} 24Z`; begun = null; };
  const first = POINTS - course.length;
  course.forEach((value, index) => {
    const x = first + index;
    if (value === null) return end(x - 1);
    const point = `${x} ${(23 - 21 * value / highest).toFixed(2)}`;
    line += (begun === null ? "M" : "L") + point;
    filled += (begun === null ? "M" : "L") + point;
    if (begun === null) begun = x;
  });
  end(POINTS - 1);
  curve.setAttribute("d", line);
  area.setAttribute("d", filled);
}

/** `value`: for the course; null where there is none. */
function show(name, value, text, small, top) {
  const shown = tile(name);
  put(shown.big, text);
  put(shown.small, small);
  shown.course.push(value);
  if (shown.course.length > POINTS) shown.course.shift();
  draw(shown, top);
}

/** The time that so many percent of what came between two looks did not exceed. */
function quantile(now, before, percent) {
  const old = new Map(before ? before.buckets : []);
  const counts = now.buckets.map(([upto, count]) => [upto, count - (old.get(upto) || 0)]);
  const rank = counts.reduce((sum, [, count]) => sum + count, 0) * percent / 100;
  let seen = 0;
  for (const [upto, count] of counts) {
    seen += count;
    if (count > 0 && seen >= rank) return upto;
  }
  return null;
}

let before = null;

function showOverview(now) {
  const restarted = before && now.at_us < before.at_us;
  if (restarted) before = null;
  const seconds = before ? (now.at_us - before.at_us) / 1e6 : now.at_us / 1e6;
  const change = (of) => of(now) - (before ? of(before) : 0);
  // A pool that is forgotten takes its counts with it.
  const rate = (of) => Math.max(change(of), 0) / Math.max(seconds, 0.001);
  const since = before ? "" : " since the start";
  const perSecond = (of) => digits(rate(of)) + "/s";

  const state = byId("state");
  put(state, now.state);
  state.className = "pill " + (now.state === "ready" ? "good" : "bad");
  put(byId("about"), `version ${now.version}, up ${micros(now.uptime_s * 1e6)}, ${bytes(now.memory_bytes)} of memory`);

  const hits = change((look) => look.cache.hits);
  const asked = hits + change((look) => look.cache.misses);
  const share = asked > 0 ? 100 * hits / asked : null;
  show("Hit rate", share, share === null ? "–" : WRITTEN.percent(share),
    `${perSecond((look) => look.cache.hits)} hits, ${perSecond((look) => look.cache.bypasses)} not looked up${since}`, 100);
  const queries = rate((look) => look.queries);
  show("Queries", queries, digits(queries) + "/s", `${perSecond((look) => look.transactions)} transactions${since}`);
  const { query, hit } = now.latency;
  const [slowest, slowestHit] = [[query, "query"], [hit, "hit"]]
    .map(([times, name]) => quantile(times, before && before.latency[name], 95));
  const count = change((look) => look.latency.query.count);
  const mean = count > 0 ? micros(change((look) => look.latency.query.sum_us) / count) : "–";
  show("Time of 95 %", slowest, slowest === null ? "–" : micros(slowest),
    `mean ${mean}, 95${NARROW}% of hits ${slowestHit === null ? "–" : micros(slowestHit)}`);
  show("Clients", now.clients, whole.format(now.clients),
    now.waiting > 0 ? `${whole.format(now.waiting)} wait, longest ${micros(now.max_wait_us)}` : `none waits, room for ${whole.format(now.clients_max)}`);
  show("Servers in use", now.servers_active, whole.format(now.servers_active), `${whole.format(now.servers_idle)} idle`);
  const { cache } = now;
  show("Cache", cache.bytes, bytes(cache.bytes),
    `of ${bytes(cache.bytes_max)}, ${whole.format(cache.entries)} answers, ${perSecond((look) => look.cache.evictions)} evicted`, cache.bytes_max);

  const notes = [];
  if (!cache.serves) notes.push(`The cache is ${cache.mode === "off" ? "off" : "in mode " + cache.mode}: PostgreSQL answers everything.`);
  if (!now.insight) notes.push("insight.enabled is off: statements and clients are not counted.");
  if (cache.redis !== "off" && cache.redis !== "up") notes.push(`Redis is ${cache.redis}.`);
  byId("note").hidden = notes.length === 0;
  put(byId("note"), notes.join(" "));
  showTabs(now.tables);
  before = now;
}

// The tables.

const view = { name: "", order: null, ascending: false };

function showTabs(tables) {
  const list = byId("tabs");
  if (list.childElementCount === 0) {
    list.append(...tables.map(({ name, title }) => element("li", {}, element("a", { href: "#" + name }, title))));
    choose();
  }
}

function choose() {
  const links = [...byId("tabs").querySelectorAll("a")];
  if (links.length === 0) return;
  const linked = (hash) => links.find((link) => link.hash === hash);
  const wanted = linked(location.hash) || linked("#" + view.name) || links[0];
  for (const link of links) {
    if (link === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const name = wanted.hash.slice(1);
  if (name !== view.name) {
    Object.assign(view, { name, order: null, ascending: false });
    byId("filter").value = "";
    byId("rows").replaceChildren();
    byId("head").replaceChildren();
  }
}

function tableUrl() {
  const query = new URLSearchParams({ limit: byId("limit").value, filter: byId("filter").value });
  if (view.order) {
    query.set("order", view.order);
    query.set("direction", view.ascending ? "asc" : "desc");
  }
  return `/api/tables/${view.name}?${query}`;
}

const isText = (field) => field.unit === "text" || field.unit === "sql";

function showHead(table) {
  const head = byId("head");
  if (head.dataset.of !== table.name || head.childElementCount !== table.fields.length) {
    head.dataset.of = table.name;
    head.replaceChildren(...table.fields.map((field) => {
      const button = element("button", { type: "button" }, field.label);
      button.addEventListener("click", () => {
        const same = head.dataset.order === field.name;
        view.ascending = same ? !view.ascending : isText(field);
        view.order = field.name;
        look();
      });
      const cell = element("th", { scope: "col", className: isText(field) ? "" : "number" }, button);
      cell.setAttribute("role", "columnheader");
      return cell;
    }));
  }
  head.dataset.order = table.order || "";
  table.fields.forEach((field, index) => {
    const cell = head.children[index];
    if (field.name === table.order) cell.setAttribute("aria-sort", table.ascending ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}

const opened = new Set();

/** A statement; a long one opens to be read whole. */
function showSql(cell, text) {
  if (cell.dataset.sql === text) return;
  cell.dataset.sql = text;
  if (text.length <= SHORT) {
    cell.textContent = text;
    return;
  }
  const details = element("details", { open: opened.has(text) },
    element("summary", {}, text.slice(0, SHORT) + "…"), element("pre", {}, text));
  details.addEventListener("toggle", () => {
    if (details.open) opened.add(text); else opened.delete(text);
  });
  cell.replaceChildren(details);
}

/** Short texts are not broken, and on a phone two of them stand side by side. */
function width(field, text) {
  if (text === "") return " none";
  if (field.unit !== "text" || text.length > 20) return "";
  return field.label.length + text.length <= 18 ? " short half" : " short";
}

/** Cells stay where they are, so that focus and what is open do; only their texts change. */
function showRows(table) {
  const body = byId("rows");
  const none = table.rows.length === 0;
  byId("count").hidden = none;
  if (none) {
    const text = table.total === 0 ? table.empty : "No row has this in it.";
    const cell = element("td", { className: "empty", colSpan: table.fields.length }, text);
    cell.setAttribute("role", "cell");
    const row = element("tr", {}, cell);
    row.setAttribute("role", "row");
    body.replaceChildren(row);
    return;
  }
  if (body.querySelector("td.empty")) body.replaceChildren();
  while (body.childElementCount > table.rows.length) body.lastElementChild.remove();
  table.rows.forEach((values, index) => {
    let row = body.children[index];
    if (!row) {
      row = element("tr", {}, ...table.fields.map((field) => {
        const cell = element("td", {});
        cell.setAttribute("role", "cell");
        cell.dataset.label = field.label;
        return cell;
      }));
      row.setAttribute("role", "row");
      body.append(row);
    }
    table.fields.forEach((field, at) => {
      const cell = row.children[at];
      const text = written(values[at], field.unit);
      const kind = field.unit === "sql" ? "sql" : isText(field) ? "text" : "number";
      cell.className = kind + width(field, text);
      if (kind === "sql") showSql(cell, text); else put(cell, text);
    });
  });
}

function showTable(table) {
  put(byId("title"), table.title);
  put(byId("caption"), table.caption);
  showHead(table);
  showRows(table);
  const shown = table.rows.length;
  const of = table.matched === table.total ? "" : `, of ${whole.format(table.total)} in all`;
  put(byId("count"), shown < table.matched || of
    ? `${whole.format(shown)} of ${whole.format(table.matched)} rows${of}.` : shown === 1 ? "1 row." : `${whole.format(shown)} rows.`);
}

// Looking, again and again while somebody sees it.

let timer = 0;
let turn = 0;

async function ask(path) {
  // Not relative: the address of the page may have a password in it.
  const answer = await fetch(new URL(path, location.origin), { cache: "no-store" });
  if (answer.status === 401) throw new Error("The token is wrong or gone. Load the page again.");
  if (!answer.ok) throw new Error(`Forebay answered ${answer.status}.`);
  return answer.json();
}

async function look() {
  clearTimeout(timer);
  const mine = ++turn;
  const status = byId("status");
  try {
    const overview = await ask("/api/overview");
    if (mine !== turn) return;
    showOverview(overview);
    const table = await ask(tableUrl());
    if (mine !== turn) return;
    showTable(table);
    put(status, "");
    status.className = "";
    document.body.dataset.looks = String(Number(document.body.dataset.looks || 0) + 1);
  } catch (error) {
    if (mine !== turn) return;
    put(status, error instanceof TypeError ? "Forebay does not answer. Trying again." : error.message);
    status.className = "lost";
  }
  if (!document.hidden) timer = setTimeout(look, PERIOD_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer); else look();
});
window.addEventListener("hashchange", () => { choose(); look(); });
byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("limit").addEventListener("change", look);
let typing = 0;
byId("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(look, 200);
});
look();
