"""Histories as a reader sees them: what is in the table, and the newest events behind it.

The newest are found by offset and remembered here by user. They are read on where the last reading
ended, in one statement with the table, so that both are of one moment.
"""

from __future__ import annotations

import sqlite3

import msgspec
import numpy as np

from ouzel.events.interactions import History
from ouzel.events.log_schema import HISTORY_ROWS

_numbers = msgspec.json.Decoder(list[int]).decode
_values = msgspec.json.Decoder(list[float | None]).decode
_entries = msgspec.json.Decoder(list[tuple[int, int, int, int, float | None]]).decode

# Texts of lists: each row fetched would let go of the interpreter and win it back.
_READ = f"""
SELECT done, until, cursor, changes,
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
    (SELECT json_group_array(json_array(user, timestamp_ms, row, offset <= until, value)) FROM (
        SELECT offset, user, timestamp_ms, row, value FROM events NOT INDEXED
        WHERE offset > max(done, :seen) AND {HISTORY_ROWS} ORDER BY offset)),
    rows, times, vals
FROM fold, (
    SELECT json_group_array(row) AS rows, json_group_array(timestamp_ms) AS times,
        '[]' AS vals FROM (
        SELECT row, timestamp_ms FROM histories WHERE user = :user ORDER BY timestamp_ms, offset))
"""

# Values are looked up by offset, for histories have none: that is for who asks for them.
_READ_VALUED = _READ.replace("'[]' AS vals", "json_group_array(value) AS vals").replace(
    "SELECT row, timestamp_ms FROM histories",
    "SELECT row, timestamp_ms, (SELECT e.value FROM events e WHERE e.offset = h.offset) AS value"
    " FROM histories h",
)

_Newest = dict[int, list[tuple[int, int, float | None]]]
"""(time in ms, row, value) of the newest events by user, in the order of the log."""


class Tail:
    """The newest events as one connection has seen them; for one thread at a time.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_append import Batch
    >>> from ouzel.events.log_schema import open_writer
    >>> from ouzel.events.types import Interaction
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> batch = Batch(connection, Catalog(["a"]))
    >>> seen = Interaction(event_id="e", timestamp_ms=5, user_id="u", item_id="a", event="view")
    >>> (receipt,) = batch.add([seen])
    >>> Tail(connection).history(receipt.user).rows.tolist()
    [1]
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = self._done = self._until = self._changes = 0
        self._folding: _Newest = {}
        self._fresh: _Newest = {}

    def history(self, user: int, *, valued: bool = False) -> History:
        """Return the history of one user in (timestamp, offset) order, with values if asked."""
        record = self._read(user, valued)
        if not self._follows(*record[:4]):
            # Events were changed or taken away, or much happened since: all is read anew.
            self._seen = 0
            self._folding, self._fresh = {}, {}
            record = self._read(user, valued)
        done, until, cursor, changes, last, entries, rows, times, values = record
        self._turn(done, until)
        self._done, self._until, self._changes, self._seen = done, until, changes, last
        for of_user, time_ms, row, folding, value in _entries(entries):
            newest = self._folding if folding else self._fresh
            newest.setdefault(of_user, []).append((time_ms, row, value))
        newest_here = [] if user < cursor else self._folding.get(user, [])
        newest_here = newest_here + self._fresh.get(user, [])
        told = _values(values) if valued else None
        return _joined(_numbers(rows), _numbers(times), told, newest_here)

    def _read(self, user: int, valued: bool) -> tuple[int, int, int, int, int, str, str, str, str]:
        found: tuple[int, int, int, int, int, str, str, str, str] = self._connection.execute(
            _READ_VALUED if valued else _READ, {"seen": self._seen, "user": user}
        ).fetchone()
        return found

    def _follows(self, done: int, until: int, cursor: int, changes: int) -> bool:
        """Return whether what is remembered is right still: nothing changed, one fold at most."""
        return changes == self._changes and done in (self._done, self._until)

    def _turn(self, done: int, until: int) -> None:
        """Forget what is in the table now, and tell what enters it next from what comes later."""
        if (done, until) == (self._done, self._until):
            return
        # What a fold begins with is all that was there: nothing that was read comes after it.
        begun = until > done
        self._folding = self._fresh if begun else {}
        self._fresh = {} if begun else self._fresh


def _joined(
    rows: list[int],
    times: list[int],
    values: list[float | None] | None,
    newest: list[tuple[int, int, float | None]],
) -> History:
    rows += [row for _, row, _ in newest]
    times += [time_ms for time_ms, _, _ in newest]
    told = None
    if values is not None:
        values += [value for _, _, value in newest]
        told = np.array(values, np.float64).astype(np.float32)  # None becomes NaN
    history = History(np.array(rows, np.int32), np.array(times, np.int64), told)
    if newest and (history.times_ms[1:] < history.times_ms[:-1]).any():
        order = np.argsort(history.times_ms, kind="stable")
        return history.chosen(order)
    return history
