// The live page: who is looking, what they click, what changes, and where the milliseconds went.
// Every text from the server enters the page through textContent, so a title is never markup.

const LIST_SIZE = 12;
const STRIP_SIZE = 60;
const SEARCH_PAUSE_MS = 140;
const PARTS = [
  ["t", "T", "read and decode"],
  ["p", "P", "state and features"],
  ["a", "A", "infer, rank, answer"],
];

const byId = (id) => document.getElementById(id);
const ms = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(1));
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const page = {
  who: null, // {user_id} or {session_id}
  answer: null, // the last reply of /v1/recommend
  timings: [], // the last STRIP_SIZE answers: {parts, roundTrip}
  key: "", // kept in memory only
};

// ---- the server ---------------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Resolve to {reply, headers, elapsed}; throw a Refusal that carries the server's own words. */
async function call(path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (page.key) headers.Authorization = `Bearer ${page.key}`;
  const began = performance.now();
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
    });
  } catch {
    throw new Refusal(0, "The server does not answer. Is `ouzel serve` still running?");
  }
  const text = await response.text();
  const elapsed = performance.now() - began;
  let reply = null;
  try {
    reply = JSON.parse(text);
  } catch {
    reply = null;
  }
  if (!response.ok || reply === null) throw new Refusal(response.status, words(response.status, reply));
  return { reply, headers: response.headers, elapsed };
}

/** Return the sentence for a problem+json reply (RFC 9457). */
function words(status, reply) {
  const parts = [reply?.title, reply?.detail].filter((part) => typeof part === "string" && part);
  return parts.length ? `${status}: ${parts.join(". ")}` : `The server answered ${status}.`;
}

/** Return 128 random bits as hex; `crypto.randomUUID` is missing on plain http to another host. */
function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return {t, p, a: {ms, stages: [[name, ms]]}} from a Server-Timing header.
 * An entry named T, P or A is a total; `p-state`, `p.state` or desc "P ..." is a stage of it. */
function readTiming(header) {
  const parts = {};
  for (const [key] of PARTS) parts[key] = { total: null, stages: [] };
  for (const entry of (header ?? "").split(",")) {
    const fields = entry.trim().split(";").map((field) => field.trim());
    const found = fields.find((field) => /^dur=/i.test(field));
    const duration = found ? Number(found.slice(4)) : NaN;
    if (!Number.isFinite(duration)) continue;
    const name = fields[0];
    const key = name[0].toLowerCase();
    if (!(key in parts)) continue;
    if (name.length === 1) parts[key].total = duration;
    else if (/^[-._]/.test(name.slice(1))) parts[key].stages.push([name.slice(2), duration]);
  }
  const result = {};
  for (const [key, part] of Object.entries(parts)) {
    const sum = part.stages.reduce((total, [, duration]) => total + duration, 0);
    result[key] = { ms: part.total ?? sum, stages: part.stages };
  }
  return result;
}

// ---- building elements --------------------------------------------------------------------

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const titleOf = (item) => item.fields?.title || item.item_id;

/** Return genres as one line, whether the server sends `A|B` or a list. */
function genresOf(item) {
  const genres = item.fields?.genres ?? "";
  return (Array.isArray(genres) ? genres : String(genres).split("|")).filter(Boolean).join(" · ");
}

function itemButton(item, requestId) {
  const button = element("button");
  button.type = "button";
  button.addEventListener("click", () => choose(item, requestId));
  return button;
}

// ---- the list and what moved ----------------------------------------------------------------

/** Return [className, mark, spoken words] for an item that stood at rank `before` (or nowhere). */
function movement(before, now, isFirst) {
  if (isFirst) return ["", "", ""];
  if (before === undefined) return ["new", "new", "new in the list"];
  if (before > now) return ["up", `▲ ${before - now}`, `up ${before - now}`];
  if (before < now) return ["down", `▼ ${now - before}`, `down ${now - before}`];
  return ["", "·", "same place"];
}

function fillRow(row, item, place, moved, requestId) {
  const [className, mark, spoken] = moved;
  row.dataset.itemId = item.item_id;
  row.dataset.move = className || "same";
  const button = itemButton(item, requestId);
  const marker = element("span", `move ${className}`, mark);
  if (spoken) {
    marker.title = spoken;
    marker.setAttribute("role", "img");
    marker.setAttribute("aria-label", spoken);
  }
  const name = element("span");
  name.append(element("span", "title", titleOf(item)), element("span", "genres", genresOf(item)));
  const why = element("span", "why");
  const score = element("span", "score", Number(item.score).toFixed(3));
  score.title = "score";
  why.append(element("span", "source", item.source ?? ""), score);
  button.append(element("span", "rank", String(place)), marker, name, why);
  row.replaceChildren(button);
}

/** Show `answer`, keeping the row of an item that stays, and return how many of each moved. */
function showList(answer, previous) {
  const list = byId("list");
  const places = new Map((previous?.items ?? []).map((item, index) => [item.item_id, index + 1]));
  const rows = new Map([...list.children].map((row) => [row.dataset.itemId, row]));
  const tops = new Map([...rows].map(([id, row]) => [id, row.getBoundingClientRect().top]));
  const focused = document.activeElement?.closest("#list li")?.dataset.itemId;
  const counts = { new: 0, up: 0, down: 0, left: 0 };
  const shown = answer.items.map((item, index) => {
    const row = rows.get(item.item_id) ?? element("li");
    const moved = movement(places.get(item.item_id), index + 1, previous === null);
    if (moved[0]) counts[moved[0]] += 1;
    fillRow(row, item, index + 1, moved, answer.request_id);
    return row;
  });
  const stays = new Set(answer.items.map((item) => item.item_id));
  counts.left = [...places.keys()].filter((id) => !stays.has(id)).length;
  if (!shown.length) shown.push(element("li", "empty", "Nothing left to recommend."));
  list.replaceChildren(...shown);
  if (focused !== undefined) refocus(list, focused);
  glide(shown, tops);
  return counts;
}

/** Put the keyboard back on the item that had it, or on the first one if it has left the list. */
function refocus(list, itemId) {
  const row = [...list.children].find((candidate) => candidate.dataset.itemId === itemId);
  (row ?? list.firstElementChild).querySelector("button")?.focus({ preventScroll: true });
}

/** Let each row travel from where it was (first, last, invert, play); new ones fade in. */
function glide(rows, tops) {
  if (calm.matches || !tops.size) return;
  for (const row of rows) {
    const before = tops.get(row.dataset.itemId);
    const timing = { duration: 420, easing: "cubic-bezier(0.2, 0.8, 0.2, 1)" };
    if (before === undefined) {
      row.animate([{ opacity: 0, transform: "translateX(18px)" }, { opacity: 1, transform: "none" }], timing);
      continue;
    }
    const distance = before - row.getBoundingClientRect().top;
    if (Math.abs(distance) < 1) continue;
    row.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }], timing);
  }
}

function summarise(counts, isFirst, clickToList) {
  const took = clickToList === null ? "" : ` ${ms(clickToList)} ms after the click.`;
  if (isFirst) return "";
  const told = [
    [counts.new, "new"],
    [counts.up, "up"],
    [counts.down, "down"],
    [counts.left, "gone"],
  ].filter(([count]) => count).map(([count, word]) => `${count} ${word}`);
  return told.length ? `${told.join(", ")}.${took}` : `No change.${took}`;
}

// ---- where the time went ----------------------------------------------------------------------

function showTiming(parts, roundTrip, clickToList) {
  const total = PARTS.reduce((sum, [key]) => sum + parts[key].ms, 0);
  byId("server-ms").textContent = ms(total);
  byId("round-trip").textContent = `${ms(roundTrip)} ms`;
  byId("click-to-list").textContent = clickToList === null ? "–" : `${ms(clickToList)} ms`;
  byId("bar").replaceChildren(drawBar(parts, total));
  const rows = PARTS.flatMap(([key, letter, meaning]) => legendRow(parts[key], key, letter, meaning));
  byId("legend").replaceChildren(...rows);
}

function drawBar(parts, total) {
  const label = PARTS.map(([key, letter]) => `${letter} ${ms(parts[key].ms)} ms`).join(", ");
  const bar = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label });
  let x = 0;
  for (const [key, letter] of PARTS) {
    const width = total > 0 ? (100 * parts[key].ms) / total : 0;
    const segment = svg("rect", { class: key, x, y: 0, width, height: 10, "data-part": letter });
    const stages = parts[key].stages.map(([name, duration]) => `${name} ${ms(duration)} ms`);
    segment.append(svg("title", {}, [`${letter} ${ms(parts[key].ms)} ms`, ...stages].join("\n")));
    bar.append(segment);
    x += width;
  }
  return bar;
}

function legendRow(part, key, letter, meaning) {
  const term = element("dt");
  const swatch = svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
  swatch.append(svg("rect", { class: key, width: 10, height: 10, rx: 2 }));
  term.append(swatch, `${letter} · ${meaning}`, element("span", "", `${ms(part.ms)} ms`));
  const stages = part.stages.map(([name, duration]) => `${name} ${ms(duration)}`).join(" · ");
  return stages ? [term, element("dd", "", stages)] : [term];
}

/** Draw the last answers as stacked columns, the newest at the right. */
function showStrip(timings) {
  const totals = timings.map(({ parts }) => PARTS.reduce((sum, [key]) => sum + parts[key].ms, 0));
  const top = Math.max(...totals, 0.001);
  const label = `Server time of the last ${timings.length} answers, slowest ${ms(top)} milliseconds`;
  const chart = svg("svg", { viewBox: "0 0 300 76", role: "img", "aria-label": label });
  chart.append(svg("line", { class: "rule", x1: 0, x2: 300, y1: 75.5, y2: 75.5 }));
  const first = STRIP_SIZE - timings.length;
  timings.forEach((timing, index) => chart.append(drawColumn(timing, 5 * (first + index), 60 / top, totals[index])));
  chart.append(svg("text", { class: "tick", x: 0, y: 9 }, `${ms(top)} ms`));
  byId("strip").replaceChildren(chart);
  byId("strip-count").textContent = String(timings.length);
  byId("median").textContent = `${ms([...totals].sort((a, b) => a - b)[totals.length >> 1])} ms`;
  byId("slowest").textContent = `${ms(top)} ms`;
}

function drawColumn({ parts, roundTrip }, x, scale, total) {
  const column = svg("g", {});
  let bottom = 75;
  for (const [key] of PARTS) {
    const height = parts[key].ms * scale;
    bottom -= height;
    column.append(svg("rect", { class: key, x, y: bottom, width: 4, height }));
  }
  column.append(svg("title", {}, `${ms(total)} ms in the server, ${ms(roundTrip)} ms round trip`));
  return column;
}

// ---- what a person does ---------------------------------------------------------------------

/** Ask for a list and show it. `clickedAt` (a performance.now() reading) times a click to its list. */
async function recommend(clickedAt = null) {
  const body = { ...page.who, n: LIST_SIZE, fields: ["title", "genres"] };
  const { reply, headers, elapsed } = await call("/v1/recommend", body);
  const previous = page.answer;
  page.answer = reply;
  const counts = showList(reply, previous);
  const clickToList = clickedAt === null ? null : performance.now() - clickedAt;
  const parts = readTiming(headers.get("Server-Timing"));
  page.timings = [...page.timings, { parts, roundTrip: elapsed }].slice(-STRIP_SIZE);
  byId("summary").textContent = summarise(counts, previous === null, clickToList);
  showTiming(parts, elapsed, clickToList);
  showStrip(page.timings);
  showModel(reply);
}

function showModel(reply) {
  const { name, version } = reply.model ?? {};
  byId("model").textContent = [name, version].filter(Boolean).join(" ") || "none";
  showState(reply.degraded ? `degraded: ${reply.degraded}` : "live", Boolean(reply.degraded));
}

function showState(text, isBad) {
  byId("state").textContent = text;
  byId("state").classList.toggle("bad", isBad);
}

/** Record a click, durably, then ask again: the new list is the answer to it. */
function choose(item, requestId) {
  const clickedAt = performance.now();
  const event = { event_id: freshId(), event: "click", item_id: item.item_id, ...page.who };
  if (requestId) event.request_id = requestId;
  return turn(async () => {
    await call("/v1/events", event);
    remember(item);
    await recommend(clickedAt);
  });
}

function remember(item) {
  const entry = element("li", "", titleOf(item));
  entry.title = titleOf(item);
  byId("history").prepend(entry);
  byId("no-history").hidden = true;
}

function become(who, spoken) {
  page.who = who;
  page.answer = null;
  byId("list").replaceChildren();
  byId("history").replaceChildren();
  byId("no-history").hidden = false;
  byId("summary").textContent = "";
  byId("who").textContent = spoken;
}

function startVisitor() {
  return turn(async () => {
    become({ session_id: `visitor-${freshId()}` }, "for a new visitor");
    byId("user").value = "";
    await recommend();
  });
}

function startUser(userId) {
  return turn(async () => {
    become({ user_id: userId }, `for user ${userId}`);
    await recommend();
  });
}

let last = Promise.resolve();

/** Run `work` after whatever runs now, so that answers never overtake each other; show what fails. */
function turn(work) {
  last = last.then(() => guarded(work));
  return last;
}

async function guarded(work) {
  try {
    await work();
    byId("problem").hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const needsKey = error.status === 401 || error.status === 403;
    byId("key-form").hidden = !needsKey;
    byId("problem").textContent = needsKey ? "This server wants an API key." : error.message;
    byId("problem").hidden = false;
    showState(error.status ? `refused (${error.status})` : "unreachable", true);
  }
}

// ---- search -------------------------------------------------------------------------------------

let newestSearch = 0;

/** Show the items whose title holds `query`; the popular ones, if it is empty. */
async function search(query) {
  const ours = ++newestSearch;
  const { reply } = await call(`/v1/items?query=${encodeURIComponent(query)}&limit=20`);
  if (ours !== newestSearch) return; // a later search has overtaken this one
  const count = reply.items.length;
  const found = count ? `${count}${count === 20 ? " or more" : ""} found` : "Nothing by that title";
  showFound(reply.items, query ? found : "Popular here");
}

function showFound(items, note) {
  byId("search-note").textContent = note;
  byId("found").replaceChildren(
    ...items.map((item) => {
      const row = element("li");
      const button = itemButton(item, null);
      button.append(element("span", "title", titleOf(item)), element("span", "genres", genresOf(item)));
      row.append(button);
      return row;
    }),
  );
}

async function listUsers() {
  const { reply } = await call("/v1/users?limit=200");
  byId("users").replaceChildren(
    ...reply.users.map((userId) => {
      const option = element("option");
      option.value = userId;
      return option;
    }),
  );
  return reply.users;
}

/** Begin with the first known user, or with a visitor where the log is empty. */
async function begin() {
  let users = [];
  await guarded(async () => {
    users = await listUsers();
  });
  if (!byId("key-form").hidden) return undefined;
  guarded(() => search(""));
  if (!users.length) return startVisitor();
  byId("user").value = users[0];
  return startUser(users[0]);
}

// ---- wiring -------------------------------------------------------------------------------------

byId("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const userId = byId("user").value.trim();
  if (userId) startUser(userId);
});
byId("visitor").addEventListener("click", startVisitor);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  page.key = byId("key").value;
  byId("key-form").hidden = true;
  begin();
});
let pause = 0;
byId("query").addEventListener("input", (event) => {
  clearTimeout(pause);
  pause = setTimeout(() => guarded(() => search(event.target.value.trim())), SEARCH_PAUSE_MS);
});
begin();
