// Where the milliseconds of an answer went, and of the last few.

import { byId, element, ms, svg } from "./dom.js";

export const STRIP_SIZE = 60;
const PARTS = [
  ["t", "T", "read and decode"],
  ["p", "P", "state and features"],
  ["a", "A", "infer, rank, answer"],
];

/** Return {t, p, a: {ms, stages: [[name, ms]]}} from a Server-Timing header.
 * An entry named T, P or A is a total; `p-state`, `p.state` or desc "P ..." is a stage of it. */
export function readTiming(header) {
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

export function showTiming(parts, roundTrip, clickToList) {
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
export function showStrip(timings) {
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
