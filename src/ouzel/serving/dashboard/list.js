// The list, and what moved in it.

import { byId, element, genresOf, itemButton, ms, titleOf } from "./dom.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Return [className, mark, spoken words] for an item that stood at rank `before` (or nowhere). */
function movement(before, now, isFirst) {
  if (isFirst) return ["", "", ""];
  if (before === undefined) return ["new", "new", "new in the list"];
  if (before > now) return ["up", `▲ ${before - now}`, `up ${before - now}`];
  if (before < now) return ["down", `▼ ${now - before}`, `down ${now - before}`];
  return ["", "·", "same place"];
}

function fillRow(row, item, place, moved, clicked) {
  const [className, mark, spoken] = moved;
  row.dataset.itemId = item.item_id;
  row.dataset.move = className || "same";
  const button = itemButton(item, ...clicked);
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
export function showList(answer, previous, choose) {
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
    fillRow(row, item, index + 1, moved, [answer.request_id, choose]);
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

export function summarise(counts, isFirst, clickToList) {
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
