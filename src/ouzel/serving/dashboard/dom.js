// Elements of the page. Every text from the server enters through textContent, so a title is never markup.

export const byId = (id) => document.getElementById(id);
export const ms = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(1));

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

export const titleOf = (item) => item.fields?.title || item.item_id;

/** Return genres as one line, whether the server sends `A|B` or a list. */
export function genresOf(item) {
  const genres = item.fields?.genres ?? "";
  return (Array.isArray(genres) ? genres : String(genres).split("|")).filter(Boolean).join(" · ");
}

/** Return a button that calls `choose(item, requestId)`. */
export function itemButton(item, requestId, choose) {
  const button = element("button");
  button.type = "button";
  button.addEventListener("click", () => choose(item, requestId));
  return button;
}
