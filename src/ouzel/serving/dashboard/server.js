// The server: one call, and one stream that goes on.

const SILENT_MS = 5000; // a stream that says nothing for so long has no server behind it

export const GONE = "The server does not answer. Is `ouzel serve` still running?";

let key = ""; // kept in memory only

export function useKey(text) {
  key = text;
}

export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Resolve to {reply, headers, elapsed}; throw a Refusal that carries the server's own words. */
export async function call(path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
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
    throw new Refusal(0, GONE);
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

/** Call `told` with each tick of the stream until it ends.
 * Throw a Refusal, or whatever broke the connection. A browser's EventSource cannot send a key. */
export async function listen(told, signal) {
  const silence = new AbortController();
  let watch = setTimeout(() => silence.abort(), SILENT_MS);
  try {
    const response = await fetch("/v1/stream", {
      headers: key ? { Authorization: `Bearer ${key}` } : {},
      cache: "no-store",
      signal: AbortSignal.any([signal, silence.signal]),
    });
    if (!response.ok) {
      const reply = await response.json().catch(() => null);
      throw new Refusal(response.status, words(response.status, reply));
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(watch);
      watch = setTimeout(() => silence.abort(), SILENT_MS);
      const events = (text + value).split("\n\n");
      text = events.pop();
      events.map(dataOf).filter(Boolean).forEach((data) => told(JSON.parse(data)));
    }
  } finally {
    clearTimeout(watch);
  }
}

/** Return the data of one server-sent event, "" if it has none. */
function dataOf(event) {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
