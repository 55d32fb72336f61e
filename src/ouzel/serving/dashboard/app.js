// The live page: who is looking, what they click, what changes, and where the milliseconds went.

import { byId } from "./dom.js";
import { follow } from "./live.js";
import { listUsers, search } from "./search.js";
import { useKey } from "./server.js";
import { guarded, refresh, showGone, startUser, startVisitor } from "./visitor.js";

const SEARCH_PAUSE_MS = 140;

let following = null;

/** Show what the server does for everybody, and say when it is gone or back. */
function watch() {
  const back = () => refresh() || begin();
  following ??= follow({ gone: showGone, back }).finally(() => {
    following = null;
  });
}

/** Begin with the first known user, or with a visitor where the log is empty. */
async function begin() {
  let users = null;
  await guarded(async () => {
    users = await listUsers();
  });
  if (!byId("key-form").hidden) return undefined;
  watch();
  if (users === null) return undefined; // until the server is there
  guarded(() => search(""));
  if (!users.length) return startVisitor();
  byId("user").value = users[0];
  return startUser(users[0]);
}

byId("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const userId = byId("user").value.trim();
  if (userId) startUser(userId);
});
byId("visitor").addEventListener("click", startVisitor);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key-form").hidden = true;
  begin();
});
let pause = 0;
byId("query").addEventListener("input", (event) => {
  clearTimeout(pause);
  pause = setTimeout(() => guarded(() => search(event.target.value.trim())), SEARCH_PAUSE_MS);
});
begin();
