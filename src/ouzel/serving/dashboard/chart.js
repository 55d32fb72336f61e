// Small charts over the last minutes. SVG takes its colours from the style sheet, light or dark.

import { svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 56;
const GAP_S = 3; // no line is drawn over a longer silence

/** Return the next of 1, 2, 5, 10, ... that is not below `value`. */
export function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** Return the chart of `lines`, each {className, points: [[seconds, value or null]], area}.
 * The right edge is `now`, the left one `span` seconds before, the upper one `top`; `mark` is a moment to point at, or null. */
export function chart(label, lines, { now, span, top, mark }) {
  const x = (seconds) => WIDTH * (1 - (now - seconds) / span);
  const y = (value) => HEIGHT - (HEIGHT - 3) * Math.min(1, value / top);
  const drawn = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label,
  });
  for (const level of [0.5, 1]) drawn.append(rule(0, y(top * level), WIDTH, y(top * level), "rule faint"));
  drawn.append(rule(0, HEIGHT, WIDTH, HEIGHT, "rule"));
  for (const { className, points, area } of lines) {
    for (const run of runs(points)) {
      const path = run.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
      const [first, last] = [x(run[0][0]).toFixed(1), x(run.at(-1)[0]).toFixed(1)];
      if (area && run.length > 1) {
        drawn.append(svg("path", { class: `area ${className}`, d: `M${path}L${last} ${HEIGHT}L${first} ${HEIGHT}Z` }));
      }
      // A lone point is a line of no length, which round ends make a dot.
      drawn.append(svg("path", { class: `line ${className}`, d: `M${path}${run.length > 1 ? "" : "h0.01"}` }));
    }
  }
  if (mark !== null) drawn.append(rule(x(mark), 0, x(mark), HEIGHT, "rule mark"));
  return drawn;
}

function rule(x1, y1, x2, y2, className) {
  return svg("line", { class: className, x1, y1, x2, y2 });
}

/** Return the stretches of `points` without a gap. */
function runs(points) {
  const found = [];
  let before = null;
  for (const [at, value] of points) {
    if (value !== null) {
      if (before === null || at - before > GAP_S) found.push([]);
      found.at(-1).push([at, value]);
    }
    before = value === null ? null : at;
  }
  return found;
}
