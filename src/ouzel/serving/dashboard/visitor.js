// Who is looking, what they click, and what they are shown.

import { byId, element, titleOf } from "./dom.js";
import { showList, summarise } from "./list.js";
import { call, GONE, Refusal } from "./server.js";
import { readTiming, showStrip, showTiming, STRIP_SIZE } from "./timing.js";

const LIST_SIZE = 12;

const page = {
  who: null, // {user_id} or {session_id}
  answer: null, // the last reply of /v1/recommend
  timings: [], // the last STRIP_SIZE answers: {parts, roundTrip}
};

/** Return 128 random bits as hex; `crypto.randomUUID` is missing on plain http to another host. */
function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Ask for a list and show it. `clickedAt` (a performance.now() reading) times a click to its list. */
async function recommend(clickedAt = null) {
  const body = { ...page.who, n: LIST_SIZE, fields: ["title", "genres"] };
  const { reply, headers, elapsed } = await call("/v1/recommend", body);
  const previous = page.answer;
  page.answer = reply;
  const counts = showList(reply, previous, choose);
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
export function choose(item, requestId) {
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

export function startVisitor() {
  return turn(async () => {
    become({ session_id: `visitor-${freshId()}` }, "for a new visitor");
    byId("user").value = "";
    await recommend();
  });
}

export function startUser(userId) {
  return turn(async () => {
    become({ user_id: userId }, `for user ${userId}`);
    await recommend();
  });
}

/** Ask again for whoever is looking; return whether somebody is. */
export function refresh() {
  if (page.who !== null) turn(() => recommend());
  return page.who !== null;
}

export function showGone() {
  showProblem(new Refusal(0, GONE));
}

let last = Promise.resolve();

/** Run `work` after whatever runs now, so that answers never overtake each other; show what fails. */
function turn(work) {
  last = last.then(() => guarded(work));
  return last;
}

export async function guarded(work) {
  try {
    await work();
    byId("problem").hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    showProblem(error);
  }
}

function showProblem({ status, message }) {
  const needsKey = status === 401 || status === 403;
  byId("key-form").hidden = !needsKey;
  byId("problem").textContent = needsKey ? "This server wants an API key." : message;
  byId("problem").hidden = false;
  showState(status ? `refused (${status})` : "unreachable", true);
}
