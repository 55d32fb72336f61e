"""One transaction of live events: rows handed out, duplicates told from conflicts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from ouzel.events.catalog import Catalog
from ouzel.events.log_read import event_at
from ouzel.events.log_schema import verb_number
from ouzel.events.types import Event, Impression, Interaction, ItemUpdate, UserUpdate
from ouzel.events.verbs import VERBS


class Receipt(msgspec.Struct, frozen=True):
    """What became of one event.

    `conflict`: the event id is known with another payload, nothing was applied. `user` is the
    user row (-1 if the event names nobody), `row` the item row (0 if unknown or none). An
    `ItemUpdate` that brings an item in names in `released` the users whose waiting events
    entered their histories with it. The time of an event is no part of the payload here: a
    server stamps it, so a retry carries another one.
    """

    status: Literal["accepted", "duplicate", "conflict"]
    offset: int
    user: int
    row: int
    released: tuple[int, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode_columns = msgspec.json.Decoder(dict[str, str]).decode

_SHIPPED = {verb: number for number, verb in enumerate(VERBS)}
"""Their numbers are the same in every log."""

FEW_ROWS = 16
"""Most events that may be a transaction of one statement."""

MOST_ROWS = 64
"""Most events in one statement. A statement lets go of the interpreter and must win it back, which
while answers are made costs more than its work; a handful of sizes keeps all of them prepared."""

INSERT_SHOWN = (
    "INSERT INTO events (event_id, timestamp_ms, user, row, request_id, body) SELECT"
    " json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), 0,"
    " json_extract(value, '$[3]'), CAST(json_extract(value, '$[4]') AS BLOB) FROM json_each(?)"
)
"""One statement for impressions by the hundred: it needs the interpreter at both ends only."""

Record = tuple[str, int, int, int, int | None, float | None, str | None, str | None, bytes | None]
"""The columns of one stored event, as `_insert` names them."""

Users = dict[tuple[str, int], int]
"""User rows by (id, 1 for a session's and else 0)."""


@lru_cache
def _insert(rows: int, *, guarded: bool = False) -> str:
    row = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
    given = f"VALUES {', '.join([row] * rows)}"
    if guarded:
        given = f"SELECT * FROM ({given}) WHERE (SELECT coalesce(max(row), 0) FROM items) < ?"
    return (
        "INSERT INTO events (event_id, timestamp_ms, user, row, verb, value, waiting_item,"
        f" request_id, body) {given}"
    )


class Batch:
    """The events of one open transaction. `publish` after the commit, and only then.

    `users` remembers rows from one transaction to the next.
    """

    def __init__(
        self, connection: sqlite3.Connection, catalog: Catalog, users: Users | None = None
    ) -> None:
        self._connection = connection
        self._catalog = catalog
        self._users: Users = {} if users is None else users
        self._verbs = dict(_SHIPPED)
        self._met: Users = {}
        self._fresh: dict[str, int] = {}
        self._texts: list[tuple[str, int, str]] = []

    def add(self, events: Sequence[Event]) -> list[Receipt]:
        """Return the receipts of `events`; those whose id is not known yet are stored."""
        receipts: list[Receipt] = []
        plain: list[Event] = []
        for event in events:
            if isinstance(event, ItemUpdate):
                # What comes after it may be about its item.
                receipts += self._store(plain)
                plain = []
                receipts.append(self._item(event))
            else:
                plain.append(event)
        return receipts + self._store(plain)

    def add_alone(self, events: Sequence[Event]) -> list[Receipt] | None:
        """Return the receipts of a few events that were now stored and committed, or None.

        Outside of a transaction, and only events that need nothing but a row each. None, with
        nothing done, if there are others among them, an id is known, or the log has an item that
        the catalogue lacks. Each statement lets go of the interpreter and has to win it back, which
        beside a busy event loop takes longer than the disk; here there is one.
        """
        if not 0 < len(events) <= FEW_ROWS or not all(map(self._names_known, events)):
            return None
        records = [self._record(event) for event in events]
        given = [field for record in records for field in record]
        try:
            done = self._connection.execute(
                _insert(len(records), guarded=True), (*given, len(self._catalog))
            )
        except sqlite3.IntegrityError:
            return None
        return _receipts(records, int(done.lastrowid or 0)) if done.rowcount > 0 else None

    def publish(self) -> None:
        """Put the committed items and texts into the live catalogue."""
        self._users.update(self._met)
        self._catalog.add(self._fresh)
        for name, row, text in self._texts:
            self._catalog.set_column(name, row, text)

    def item_row(self, item_id: str, columns: dict[str, str], *, overwrite: bool) -> int:
        """Return the row of an item, handed out if it is new; `columns` are laid over its own."""
        row = self._row(item_id)
        if not row:
            row = len(self._catalog) + len(self._fresh)
            self._fresh[item_id] = row
            self._connection.execute(
                "INSERT INTO items (row, id, columns) VALUES (?, ?, ?)",
                (row, item_id, _encode(columns).decode()),
            )
            self._texts += [(name, row, text) for name, text in columns.items()]
        elif columns:
            self._change(row, columns, overwrite=overwrite)
        return row

    def release(self, item_id: str, row: int) -> tuple[int, ...]:
        """Return the users who had events on this item before it had a row; they count now."""
        users = self._connection.execute(
            "SELECT DISTINCT user FROM events WHERE waiting_item = ? ORDER BY user", (item_id,)
        ).fetchall()
        if users:
            self._connection.execute(
                "UPDATE events SET row = ?, waiting_item = NULL WHERE waiting_item = ?",
                (row, item_id),
            )
        return tuple(user for (user,) in users)

    def _repeat(self, event: Event, offset: int, user: int, row: int) -> Receipt:
        known = msgspec.structs.replace(event_at(self._connection, offset), timestamp_ms=0)
        same = known == msgspec.structs.replace(event, timestamp_ms=0)
        return Receipt("duplicate" if same else "conflict", offset, user, row)

    def _item(self, event: ItemUpdate) -> Receipt:
        stored = self._connection.execute(
            "SELECT offset, user, row FROM events WHERE event_id = ?", (event.event_id,)
        ).fetchone()
        if stored is not None:
            return self._repeat(event, *stored)
        known = self._row(event.item_id)
        row = self.item_row(event.item_id, event.columns, overwrite=True)
        released = () if known else self.release(event.item_id, row)
        (receipt,) = self._store([event])
        return msgspec.structs.replace(receipt, released=released)

    def _store(self, events: Sequence[Event]) -> list[Receipt]:
        receipts: list[Receipt] = []
        start = 0
        while start < len(events):
            # Powers of two: few statements, all of which stay prepared.
            size = min(MOST_ROWS, 1 << ((len(events) - start).bit_length() - 1))
            receipts += self._store_at_once(events[start : start + size])
            start += size
        return receipts

    def _store_at_once(self, events: Sequence[Event]) -> list[Receipt]:
        """Return receipts after a statement or two, unless an id is known: then one by one."""
        ids = [event.event_id for event in events]
        # Who is new gets a row, which no event may cause that is then found to be a repeat.
        if len(events) > 1 and all(map(self._names_known, events)):
            try:
                return self._insert([self._record(event) for event in events])
            except sqlite3.IntegrityError:
                return [self._store_at_once([event])[0] for event in events]
        marks = ", ".join("?" * len(ids))
        stored = self._connection.execute(
            f"SELECT offset, user, row FROM events WHERE event_id IN ({marks})", ids
        ).fetchone()
        if stored is not None and len(events) == 1:
            return [self._repeat(events[0], *stored)]
        if stored is not None or len(set(ids)) < len(ids):
            return [self._store_at_once([event])[0] for event in events]
        return self._insert([self._record(event) for event in events])

    def _insert(self, records: list[Record]) -> list[Receipt]:
        fields = [field for record in records for field in record]
        last = self._connection.execute(_insert(len(records)), fields).lastrowid
        return _receipts(records, int(last or 0))

    def _names_known(self, event: Event) -> bool:
        """Return whether an event needs nothing to be handed out."""
        if type(event) is Interaction:
            if event.event not in self._verbs:
                return False
        elif type(event) is not Impression:
            return False
        elif event.user_id is None and event.session_id is None:
            return True
        key = (event.user_id, 0) if event.user_id is not None else (event.session_id or "", 1)
        return key in self._users or key in self._met

    def _record(self, event: Event) -> Record:
        if type(event) is Interaction:
            return self._interaction(event)
        user, row, request_id = -1, 0, None
        match event:
            case Impression():
                user = self._user(event.user_id, event.session_id)
                request_id = event.request_id
            case ItemUpdate():
                row = self._row(event.item_id)
            case UserUpdate():
                user = self._user(event.user_id, None)
        named = (event.event_id, event.timestamp_ms, user, row)
        return (*named, None, None, None, request_id, _encode(event))

    def _interaction(self, event: Interaction) -> Record:
        row = self._row(event.item_id)
        # Columns say all there is of most events, and take a third of the bytes.
        plain = (
            event.request_id is None
            and event.context is None
            and event.properties is None
            and (event.user_id is None or event.session_id is None)
        )
        return (
            event.event_id,
            event.timestamp_ms,
            self._user(event.user_id, event.session_id),
            row,
            self._verb(event.event),
            event.value,
            None if row else event.item_id,
            event.request_id,
            None if plain else _encode(event),
        )

    def _row(self, item_id: str) -> int:
        return self._catalog.row(item_id) or self._fresh.get(item_id, 0)

    def _verb(self, name: str) -> int:
        number = self._verbs.get(name)
        if number is None:
            number = self._verbs[name] = verb_number(self._connection, name)
        return number

    def _user(self, user_id: str | None, session_id: str | None) -> int:
        if user_id is None and session_id is None:
            return -1
        key = (user_id, 0) if user_id is not None else (session_id or "", 1)
        known = self._users.get(key)
        if known is None:
            known = self._met.get(key)
        if known is None:
            known = self._met[key] = self._find_user(key)
        return known

    def _find_user(self, key: tuple[str, int]) -> int:
        found = self._connection.execute(
            "SELECT user FROM users WHERE id = ? AND session = ?", key
        ).fetchone()
        if found:
            return int(found[0])
        cursor = self._connection.execute(
            "INSERT INTO users (user, id, session)"
            " SELECT coalesce(max(user) + 1, 0), ?, ? FROM users",
            key,
        )
        return int(cursor.lastrowid or 0)

    def _change(self, row: int, columns: dict[str, str], *, overwrite: bool) -> None:
        (text,) = self._connection.execute(
            "SELECT columns FROM items WHERE row = ?", (row,)
        ).fetchone()
        old = _decode_columns(text)
        merged = old | columns if overwrite else columns | old
        if merged == old:
            return
        self._connection.execute(
            "UPDATE items SET columns = ? WHERE row = ?", (_encode(merged).decode(), row)
        )
        self._texts += [(name, row, merged[name]) for name in columns]


def _receipts(records: Sequence[Record], last: int) -> list[Receipt]:
    """Return the receipts of records, which have the offsets up to `last`."""
    # One statement of the one writer hands out its offsets in a row.
    first = last - len(records) + 1
    return [
        Receipt("accepted", offset, record[2], record[3])
        for offset, record in enumerate(records, first)
    ]
