"""What is read from the log: events as they were sent, histories, all interactions."""

from __future__ import annotations

import sqlite3

import msgspec
import numpy as np

from ouzel.events.interactions import Entries, History, Interactions, group_by_user
from ouzel.events.log_schema import HISTORY_ROWS
from ouzel.events.types import Event, Impression, Interaction

LATELY = 10_000
"""Newest events that are looked through for what was shown last."""

_ENTRY = np.dtype([("offset", np.int64), ("user", np.int64), ("row", np.int32)])

_decode: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

_INTERACTION = np.dtype(
    [("user", np.int64), ("row", np.int32), ("time", np.int64), ("value", np.float64)]
)

# An interaction without a body is one of which the columns say all there is.
_EVENT = """
SELECT e.offset, e.body, e.event_id, e.timestamp_ms, coalesce(i.id, e.waiting_item), v.name,
       u.id, u.session, e.value
FROM events e LEFT JOIN items i ON i.row = e.row LEFT JOIN verbs v ON v.verb = e.verb
LEFT JOIN users u ON u.user = e.user
"""


def user_row(
    connection: sqlite3.Connection, user_id: str | None, session_id: str | None
) -> int | None:
    """Return the row of a user, or of a session if no `user_id` is given; None if unknown.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> user_row(open_writer(Path(":memory:"), "FULL"), "ada", None) is None
    True
    """
    key = (user_id, 0) if user_id is not None else (session_id, 1)
    found = connection.execute("SELECT user FROM users WHERE id = ? AND session = ?", key)
    record = found.fetchone()
    return int(record[0]) if record else None


def event_at(connection: sqlite3.Connection, offset: int) -> Event:
    """Return the event stored at `offset`.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog())
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> event_at(connection, receipt.offset) == seen
    True
    """
    record = connection.execute(f"{_EVENT} WHERE e.offset = ?", (offset,)).fetchone()
    return _event(record)


def events_after(
    connection: sqlite3.Connection, offset: int, limit: int
) -> list[tuple[int, Event]]:
    """Return up to `limit` (offset, event) pairs that follow `offset`, in log order.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog())
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> events_after(connection, 0, 10) == [(1, seen)]
    True
    """
    records = connection.execute(
        f"{_EVENT} WHERE e.offset > ? ORDER BY e.offset LIMIT ?", (offset, limit)
    )
    return [(record[0], _event(record)) for record in records]


def last_offset(connection: sqlite3.Connection) -> int:
    """Return the offset of the newest event, 0 if there was none.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> last_offset(open_writer(Path(":memory:"), "FULL"))
    0
    """
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(found[0]) if found else 0


def newest(connection: sqlite3.Connection, limit: int) -> History:
    """Return the rows and times of the newest entries that are part of histories, oldest first.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog(["a"]))
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> newest(connection, 10).times_ms.tolist()
    [5]
    """
    records = connection.execute(
        f"SELECT row, timestamp_ms FROM events NOT INDEXED WHERE {HISTORY_ROWS}"
        " ORDER BY offset DESC LIMIT ?",
        (limit,),
    )
    table = np.fromiter(records, np.dtype([("row", np.int32), ("time", np.int64)]))[::-1]
    return History(table["row"].copy(), table["time"].copy())


def interactions(connection: sqlite3.Connection, until_offset: int) -> Interactions:
    """Return the histories of all users, from events at offsets up to `until_offset`.

    `num_rows` is the shortest catalogue prefix that holds them.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog(["a"]))
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> interactions(connection, receipt.offset).num_rows
    2
    """
    records = connection.execute(
        # 9e999 reads as infinity, which no stored value is, so it can stand for "absent".
        "SELECT user, row, timestamp_ms, coalesce(value, 9e999) FROM events NOT INDEXED"
        f" WHERE offset <= ? AND {HISTORY_ROWS} ORDER BY offset",
        (until_offset,),
    )
    table = np.fromiter(records, _INTERACTION)
    values = table["value"].astype(np.float32)
    values[np.isinf(table["value"])] = np.nan
    return group_by_user(
        table["user"],
        table["row"],
        table["time"],
        values,
        num_rows=int(table["row"].max(initial=0)) + 1,
    )


def entries(connection: sqlite3.Connection, after: int, limit: int) -> Entries:
    """Return up to `limit` interactions of histories that follow the offset `after`.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog(["a"]))
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> found = entries(connection, 0, 10)
    >>> found.offsets_E.tolist(), found.rows_E.tolist(), len(entries(connection, 1, 10))
    ([1], [1], 0)
    """
    records = connection.execute(
        f"SELECT offset, user, row FROM events NOT INDEXED WHERE offset > ? AND {HISTORY_ROWS}"
        " ORDER BY offset LIMIT ?",
        (after, limit),
    )
    table = np.fromiter(records, _ENTRY)
    return Entries(table["offset"].copy(), table["user"].copy(), table["row"].copy())


def impressions(connection: sqlite3.Connection, request_id: str) -> list[Impression]:
    """Return what was shown under `request_id`, in log order.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog(["a"]))
    >>> shown = Impression(
    ...     event_id="i", timestamp_ms=5, request_id="r", item_ids=("a",), model_version="popular+0"
    ... )
    >>> (receipt,) = batch.add([shown])
    >>> impressions(connection, "r") == [shown]
    True
    """
    bodies = connection.execute(
        "SELECT body FROM events WHERE request_id = ? AND verb IS NULL ORDER BY offset",
        (request_id,),
    )
    found = [_decode.decode(body) for (body,) in bodies]
    return [event for event in found if isinstance(event, Impression)]


def last_impressions(connection: sqlite3.Connection, limit: int) -> list[Impression]:
    """Return up to `limit` impressions, the newest first, of the last `LATELY` events.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> last_impressions(open_writer(Path(":memory:"), "FULL"), 10)
    []
    """
    # The sign keeps SQLite from the index of request ids, which is in another order.
    bodies = connection.execute(
        "SELECT body FROM events WHERE offset > (SELECT MAX(offset) FROM events) - ?"
        " AND +request_id IS NOT NULL AND verb IS NULL ORDER BY offset DESC LIMIT ?",
        (LATELY, limit),
    )
    found = [_decode.decode(body) for (body,) in bodies]
    return [event for event in found if isinstance(event, Impression)]


def _event(record: tuple[int, bytes | None, str, int, str, str, str, int, float | None]) -> Event:
    _, body, event_id, timestamp_ms, item_id, verb, actor, session, value = record
    if body is not None:
        return _decode.decode(body)
    return Interaction(
        event_id=event_id,
        timestamp_ms=timestamp_ms,
        item_id=item_id,
        event=verb,
        user_id=None if session else actor,
        session_id=actor if session else None,
        value=value,
    )
