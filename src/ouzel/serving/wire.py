"""What travels: the JSON of requests and answers, as the types that validate it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ouzel.serving.arranging import Arranging, Filter, Gathering, Id

MAX_N = 500
MAX_EVENTS = 1000
MAX_ITEMS = 1000
MAX_LIST_IDS = 1000
MAX_USERS = 200

Name = Literal["title", "genres"]


class EventIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One event as sent. `user_id` or `session_id` is needed, and `item_id`.

    `event` is the verb. Send an `event_id` of your own making: a retry with it changes nothing.
    `timestamp` is RFC 3339 with a zone, or seconds or milliseconds since 1970; without it the
    time of arrival counts. An `impression` may give `items` in place of `item_id`, and needs the
    `request_id` of the list that was shown.
    """

    event: str
    event_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    item_id: Id | None = None
    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_N)] | None = None
    timestamp: str | int | float | None = None
    value: float | None = None
    request_id: Id | None = None
    context: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None


class Rejected(msgspec.Struct):
    """An event that was not taken: its place in the request, and why."""

    index: int
    code: str
    detail: str


class EventsReply(msgspec.Struct, kw_only=True):
    """What became of the events; those accepted are on the disk. `offset` is the last one's."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: list[Rejected]
    durability: Literal["disk"] = "disk"
    offset: int


class RecommendRequest(Gathering, kw_only=True, forbid_unknown_fields=True):
    """Who asks and for what.

    `items` are the items of the present session, oldest first. Without any known id or item the
    answer is the popular list.

    With `sources` (a weight for each) their proposals are united, in the order of their weighted
    ranks. `breadth` is how many candidates are gathered before they are put in order; 0: as many
    as suit.
    """

    user_id: Id | None = None
    session_id: Id | None = None
    items: Annotated[list[Id], Meta(max_length=MAX_LIST_IDS)] = msgspec.field(default_factory=list)
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 10
    exclude_seen: bool = True
    exclude_items: Annotated[list[Id], Meta(max_length=MAX_LIST_IDS)] = msgspec.field(
        default_factory=list
    )
    filter: Filter | None = None
    fields: list[Name] = msgspec.field(default_factory=list)
    context: dict[str, Any] | None = None


class SimilarRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Items like `item_id`; of an item that is not known, the popular ones.

    With `exclude_seen` the list leaves out what the user or the session has seen.
    """

    item_id: Id
    user_id: Id | None = None
    session_id: Id | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 10
    exclude_seen: bool = False
    exclude_items: Annotated[list[Id], Meta(max_length=MAX_LIST_IDS)] = []
    filter: Filter | None = None
    fields: list[Name] = []


class RankRequest(Arranging, kw_only=True, forbid_unknown_fields=True):
    """The caller's own candidates, to be put in order for a user or a session.

    All of `items` are answered, or the first `n`, but for those that are hidden. What the user
    has seen stays in, unless `exclude_seen` says otherwise.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_LIST_IDS)]
    user_id: Id | None = None
    session_id: Id | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_LIST_IDS)] | None = None
    exclude_seen: bool = False
    filter: Filter | None = None
    fields: list[Name] = msgspec.field(default_factory=list)
    context: dict[str, Any] | None = None

    def arranges(self) -> bool:
        """Return True: what was sent is put in another order."""
        return True


class PopularRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which popular list: `popular` over all time, `recent`, or `trending` as events come in."""

    kind: Literal["popular", "recent", "trending"] = "popular"
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 10
    filter: Filter | None = None
    fields: list[Name] = []


class ItemsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A search by title: items whose title holds `query`, the popular ones if it is empty."""

    query: Annotated[str, Meta(max_length=256)] = ""
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class UsersRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many known users to list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_USERS)] = 20


class ShownItem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One place of a list; `source` says who proposed it, `rank` starts at 1.

    Scores can be compared within a source. `sources` are all who proposed it, where several were
    asked. `propensity` is there if chance took part: the probability with which the item was drawn
    for its place, given the places before it.
    """

    item_id: str
    score: float
    rank: int
    source: str
    sources: list[str] | None = None
    propensity: float | None = None
    fields: dict[str, str] | None = None


class ModelName(msgspec.Struct, frozen=True):
    """The model behind an answer and its served version."""

    name: str
    version: str


class RecommendReply(msgspec.Struct, kw_only=True):
    """A list. `degraded` names the stage that had to be replaced, null if none.

    Later events name `request_id` to say which list they answer to.
    """

    request_id: str
    items: list[ShownItem]
    model: ModelName
    degraded: str | None
    took_ms: float


class RankReply(RecommendReply, kw_only=True):
    """The caller's candidates in order. `unknown` are the ids that the catalogue does not have.

    Items that the model does not know come last, as source `unscored`.
    """

    unknown: list[str]


class ItemChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change of an item. Fields that are not named stay as they are; "" empties one.

    An item that is not `available` is in no list from the next request on, until it is again.
    """

    fields: dict[str, str | int | float] = {}
    available: bool | None = None


class ItemIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An item that is new, or is to change; see `ItemChange`. A new one is available."""

    item_id: Id
    fields: dict[str, str | int | float] = {}
    available: bool | None = None


class ItemsChanged(msgspec.Struct, kw_only=True):
    """How many items were stored; they are on the disk. `offset` is the last one's."""

    accepted: int
    durability: Literal["disk"] = "disk"
    offset: int


class ItemEntry(msgspec.Struct, frozen=True):
    """An item with what is known about it, and whether lists may show it."""

    item_id: str
    fields: dict[str, str]
    available: bool


class ItemsReply(msgspec.Struct, frozen=True):
    """Items of the catalogue."""

    items: list[ItemEntry]


class UsersReply(msgspec.Struct, frozen=True):
    """The ids of some known users, spread over all of them."""

    users: list[str]


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests and events are welcome; `reasons` says why not."""

    status: Literal["ready", "not ready"]
    reads: bool
    writes: bool
    model: ModelName
    reasons: list[str] = []
