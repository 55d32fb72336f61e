// What the server does for everybody, second by second, as its stream tells.

import { chart, niceTop } from "./chart.js";
import { byId, element, ms, svg } from "./dom.js";
import { listen, Refusal } from "./server.js";

const LONGEST_S = 120;
const SHORTEST_S = 30;
const RETRY_MS = [500, 1000, 2000, 4000];
const FULL_RETRY_MS = 10_000;
const count = (value) => Math.round(value).toLocaleString("en");
const rate = (value) => (value > 0 && value < 9.95 ? value.toFixed(1) : count(value));
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.1 ? 0 : 1)} %`;

/** Return the share found by all `parts` together, null if nobody looked. */
function shareOf(parts) {
  const hits = parts.reduce((sum, part) => sum + part.hits, 0);
  const looked = hits + parts.reduce((sum, part) => sum + part.misses, 0);
  return looked ? hits / looked : null;
}

function bytes(value) {
  const power = Math.min(3, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  return `${(value / 2 ** (10 * power)).toFixed(power > 1 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

function troubles(tick) {
  const told = [["failed", tick.failed], ["refused", tick.refused], ["degraded", tick.degraded]];
  return told.filter(([, value]) => value > 0).map(([word, value]) => ` · ${rate(value)}/s ${word}`).join("");
}

/** Each tile: lines by class, the number of the first one, and a sentence about a tick. */
const TILES = [
  {
    id: "latency", title: "Answers in the server", wide: true, unit: "ms p99",
    lines: { second: (tick) => tick.lists?.p99_ms ?? null, first: (tick) => tick.lists?.p50_ms ?? null },
    number: ms, top: (value) => `${niceTop(value)} ms`,
    says: (tick) => (tick.lists ? `p50 ${ms(tick.lists.p50_ms)} ms` : ""),
  },
  {
    id: "rate", title: "Requests", unit: "/s",
    lines: { first: (tick) => tick.requests, second: (tick) => tick.events },
    number: rate, top: (value) => count(niceTop(value)),
    says: (tick) => `${rate(tick.events)} events/s${troubles(tick)}`,
    bad: (tick) => tick.failed + tick.degraded > 0,
  },
  {
    id: "queue", title: "Waiting", unit: "",
    lines: { first: (tick) => tick.waiting.requests, second: (tick) => tick.waiting.events },
    number: count, top: (value) => count(niceTop(value)),
    says: (tick) => `${count(tick.waiting.events)} events for the disk`,
  },
  {
    id: "pool", title: "User states found", unit: "", most: 1,
    lines: { first: (tick) => tick.pool.found.share },
    number: percent, top: () => "100 %",
    says: ({ pool }) => `${count(pool.states)} of ${count(pool.slots)} · ${bytes(pool.bytes)}`,
  },
  {
    id: "cache", title: "Answer cache hits", unit: "", most: 1,
    lines: { first: (tick) => shareOf(Object.values(tick.caches)) },
    number: percent, top: () => "100 %",
    says: ({ caches }) => Object.entries(caches)
      .map(([name, { share }]) => `${name} ${share === null ? "–" : percent(share)}`).join(" · "),
  },
  {
    id: "audit", title: "State audit error", unit: "", least: 1e-6,
    lines: { first: (tick) => tick.audit.max_error },
    number: (value) => (value ? value.toExponential(1) : "0"), top: (value) => niceTop(value).toExponential(0),
    says: ({ audit }) => `${count(audit.audits)} audited · ${count(audit.failures)} off`,
    bad: ({ audit }) => audit.failures > 0,
  },
];

let ticks = [];
let pointed = null; // where the pointer is on the charts, from 0 at the left to 1

const at = (tick) => tick.time_ms / 1000;

/** Return how many seconds the charts show: all there are, up to two minutes. */
const span = (now) => Math.min(LONGEST_S, Math.max(SHORTEST_S, now - at(ticks[0])));

/** Return [value, tick] of the newest tick that has a value, or of the one that is pointed at. */
function shown(value, now) {
  if (pointed === null) {
    const tick = ticks.findLast((candidate) => value(candidate) !== null) ?? ticks.at(-1);
    return [value(tick), tick];
  }
  const wanted = now - span(now) * (1 - pointed);
  const away = (tick) => Math.abs(at(tick) - wanted);
  const tick = ticks.reduce((best, candidate) => (away(candidate) < away(best) ? candidate : best));
  return [value(tick), tick];
}

function drawTile(tile, now) {
  const lines = Object.entries(tile.lines).map(([className, value]) => ({
    className, area: className === "first", points: ticks.map((tick) => [at(tick), value(tick)]),
  }));
  const most = tile.most ?? niceTop(Math.max(tile.least ?? 0, ...lines.flatMap(({ points }) => points.map(([, value]) => value ?? 0))));
  const main = Object.values(tile.lines)[0];
  const [value, tick] = shown(main, now);
  const number = value === null ? "–" : tile.number(value);
  const age = Math.round(now - at(tick));
  const root = byId(`tile-${tile.id}`);
  root.querySelector(".number").textContent = number;
  root.querySelector(".said").textContent = (age > 1 ? `${age} s ago · ` : "") + tile.says(tick);
  root.querySelector(".says").classList.toggle("bad", Boolean(tile.bad?.(tick)));
  root.querySelector(".top").textContent = tile.top(most);
  const label = `${tile.title}, lately, now ${number} ${tile.unit}`.trim();
  const mark = pointed === null ? null : at(tick);
  root.querySelector(".chart").replaceChildren(chart(label, lines, { now, span: span(now), top: most, mark }));
}

function makeTile(tile) {
  const root = element("div", `tile${tile.wide ? " wide-tile" : ""}`);
  root.id = `tile-${tile.id}`;
  const line = element("p", "figure");
  line.append(element("span", "number", "–"), element("span", "unit", tile.unit ? ` ${tile.unit}` : ""));
  const says = element("p", "says");
  const [main, other] = Object.keys(tile.lines);
  if (other) {
    line.append(element("span", `dot ${main}`));
    says.append(element("span", `dot ${other}`));
  }
  says.append(element("span", "said"));
  const host = element("div", "chart");
  host.addEventListener("pointermove", (event) => point((event.clientX - host.getBoundingClientRect().left) / host.clientWidth));
  host.addEventListener("pointerleave", () => point(null));
  root.append(element("h3", "", tile.title), line, element("span", "top"), host, says);
  return root;
}

function point(place) {
  pointed = place;
  if (ticks.length) draw();
}

/** Draw the stages of all lists: a bar to p50, and on to p99. */
function drawStages(tick) {
  const stages = Object.entries(tick.stages).filter(([, { p99_ms }]) => p99_ms >= 0.01);
  const longest = Math.max(...stages.map(([, { p99_ms }]) => p99_ms), 0.001);
  byId("stages").replaceChildren(...stages.map(([name, { p50_ms, p99_ms }]) => {
    const row = element("li");
    const label = `${name}: half within ${ms(p50_ms)} ms, 99 of 100 within ${ms(p99_ms)} ms`;
    const bar = svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label });
    bar.append(svg("rect", { class: "p99", width: (100 * p99_ms) / longest, height: 8 }));
    bar.append(svg("rect", { class: "p50", width: (100 * p50_ms) / longest, height: 8 }));
    row.append(element("span", "", name), bar, element("span", "ms", ms(p99_ms)));
    return row;
  }));
}

function draw() {
  const now = at(ticks.at(-1));
  TILES.forEach((tile) => drawTile(tile, now));
  const [stages, tick] = shown((candidate) => (candidate.lists ? candidate.stages : null), now);
  byId("stage-part").hidden = stages === null;
  if (stages !== null) drawStages(tick);
}

function take(tick) {
  const oldest = at(tick) - LONGEST_S;
  ticks = [...ticks.filter((kept) => at(kept) > oldest && at(kept) < at(tick)), tick];
  draw();
}

function tell(text, state) {
  byId("live-note").textContent = text;
  byId("live").dataset.state = state;
}

const pause = (time) => new Promise((done) => setTimeout(done, time));

/** Resolve when somebody can see the page: a hidden one takes no place among the listeners. */
function seen() {
  if (!document.hidden) return undefined;
  return new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })).then(seen);
}

/** Listen for as long as the page is seen; return how it ended: "hidden", "over", or what went wrong. */
async function listenOnce(told) {
  const leaving = new AbortController();
  const look = () => document.hidden && leaving.abort();
  document.addEventListener("visibilitychange", look);
  try {
    await listen(told, leaving.signal);
  } catch (error) {
    return leaving.signal.aborted ? "hidden" : error;
  } finally {
    document.removeEventListener("visibilitychange", look);
  }
  return "over";
}

/** Follow the stream for ever. `gone` is called when the server no longer answers, `back` when it
 * does again. Without a stream the panel hides, and the page does all else it does. */
export async function follow({ gone, back }) {
  byId("tiles").replaceChildren(...TILES.map(makeTile));
  let failures = 0;
  let lost = false;
  for (;;) {
    await seen();
    const ending = await listenOnce((tick) => {
      byId("live").hidden = false;
      tell("", "live");
      if (lost) back();
      failures = 0;
      lost = false;
      take(tick);
    });
    if (ending === "hidden") continue;
    if (ending instanceof Refusal) {
      if ([401, 403, 404].includes(ending.status)) return hide();
      tell(ending.message, "waiting");
      await pause(FULL_RETRY_MS);
      continue;
    }
    failures += 1;
    // The first time may be a server that has just been started anew.
    if (failures > 1) {
      tell("The server is gone. These figures are the last it told; trying again …", "gone");
      if (!lost) gone();
      lost = true;
    }
    await pause(RETRY_MS[Math.min(failures, RETRY_MS.length) - 1]);
  }
}

function hide() {
  byId("live").hidden = true;
  byId("stage-part").hidden = true;
}
