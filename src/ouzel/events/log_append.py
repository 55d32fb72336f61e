"""One transaction of live events: rows handed out, duplicates told from conflicts."""

from __future__ import annotations

import sqlite3
from typing import Literal

import msgspec

from ouzel.events.catalog import Catalog
from ouzel.events.log_read import event_at
from ouzel.events.log_schema import verb_number
from ouzel.events.types import Event, Impression, Interaction, ItemUpdate, UserUpdate


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

_INSERT = (
    "INSERT INTO events (event_id, timestamp_ms, user, row, verb, value, waiting_item,"
    " request_id, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Batch:
    """The events of one open transaction. `publish` after the commit, and only then."""

    def __init__(self, connection: sqlite3.Connection, catalog: Catalog) -> None:
        self._connection = connection
        self._catalog = catalog
        self._fresh: dict[str, int] = {}
        self._texts: list[tuple[str, int, str]] = []
        self._verbs: dict[str, int] = {}

    def add(self, event: Event) -> Receipt:
        """Return the receipt of `event`, stored unless its id is known."""
        stored = self._connection.execute(
            "SELECT offset, user, row FROM events WHERE event_id = ?", (event.event_id,)
        ).fetchone()
        if stored:
            return self._repeat(event, *stored)
        match event:
            case Interaction():
                return self._interaction(event)
            case Impression():
                user = self._user(event.user_id, event.session_id)
                return self._store(event, user, 0, request_id=event.request_id)
            case ItemUpdate():
                return self._item(event)
            case UserUpdate():
                return self._store(event, self._user(event.user_id, None), 0)

    def publish(self) -> None:
        """Put the committed items and texts into the live catalogue."""
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

    def _interaction(self, event: Interaction) -> Receipt:
        row = self._row(event.item_id)
        user = self._user(event.user_id, event.session_id)
        return self._store(event, user, row, request_id=event.request_id)

    def _item(self, event: ItemUpdate) -> Receipt:
        known = self._row(event.item_id)
        row = self.item_row(event.item_id, event.columns, overwrite=True)
        released = () if known else self.release(event.item_id, row)
        receipt = self._store(event, -1, row)
        return msgspec.structs.replace(receipt, released=released)

    def _store(
        self, event: Event, user: int, row: int, *, request_id: str | None = None
    ) -> Receipt:
        verb, value, waiting = None, None, None
        if isinstance(event, Interaction):
            verb, value = self._verb(event.event), event.value
            waiting = None if row else event.item_id
        cursor = self._connection.execute(
            _INSERT,
            (
                event.event_id,
                event.timestamp_ms,
                user,
                row,
                verb,
                value,
                waiting,
                request_id,
                _encode(event),
            ),
        )
        return Receipt("accepted", int(cursor.lastrowid or 0), user, row)

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
        key = (user_id, 0) if user_id is not None else (session_id, 1)
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
