// Titles by what is typed, and the users that may be chosen.

import { byId, element, genresOf, itemButton, titleOf } from "./dom.js";
import { call } from "./server.js";
import { choose } from "./visitor.js";

let newestSearch = 0;

/** Show the items whose title holds `query`; the popular ones, if it is empty. */
export async function search(query) {
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
      const button = itemButton(item, null, choose);
      button.append(element("span", "title", titleOf(item)), element("span", "genres", genresOf(item)));
      row.append(button);
      return row;
    }),
  );
}

export async function listUsers() {
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
