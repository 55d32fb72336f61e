"""New events into the table of histories: late, in order of users, a slice at a time.

A live server's events are of another user each, so putting each into its history at once would
write a page of the file for every event. Instead an event is found by its offset at first
(`log_tail`), and once many have come, they enter `histories` in the order of users, where many go
into one page. Slices ride along in the transactions of later events, so that no commit is long.

The only row of `fold` says how far this is: all events up to the offset `done` are in
`histories`, and of those from there to `until` the ones of users below `cursor`.

References:
    O'Neil, Cheng, Gawlick, O'Neil: The Log-Structured Merge-Tree, Acta Informatica 1996.
"""

from __future__ import annotations

import sqlite3

import msgspec
import numpy as np

from ouzel.events.log_schema import FOLDED, HISTORY_ROWS

FOLD_EVENTS = 65_536
"""Events that gather before they enter histories; readers hold twice as many at most."""

SLICE_EVENTS = 4096
"""Events that enter histories in one transaction, more if one user has more; half as many new ones
bring on the next."""

_numbers = msgspec.json.Decoder(list[int]).decode
_INTO_HISTORIES = f"""
INSERT INTO histories (user, timestamp_ms, offset, row)
SELECT user, timestamp_ms, offset, row FROM fold CROSS JOIN events NOT INDEXED
WHERE offset > done AND offset <= :until AND user < :below AND {HISTORY_ROWS} AND NOT {FOLDED}
ORDER BY user, timestamp_ms, offset
"""
_ALL_USERS = (1 << 63) - 1


class Fold:
    """The writer's part: call `step` at the end of each of its transactions.

    `room` is how many events more may come before there is something to do: a transaction of fewer
    may leave the call out, and take them from that.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> Fold().step(connection)
    >>> connection.execute("SELECT done, until FROM fold").fetchone()
    (0, 0)
    """

    def __init__(self) -> None:
        self.room = 0
        self._slices: tuple[int, list[int]] = (0, [])

    def step(self, connection: sqlite3.Connection) -> None:
        """Bring as many events into histories as are due."""
        done, until, cursor, last = connection.execute(
            "SELECT done, until, cursor,"
            " (SELECT seq FROM sqlite_sequence WHERE name = 'events') FROM fold"
        ).fetchone()
        self.room = 0
        if last is None or (done == until and last - done < FOLD_EVENTS):
            self.room = done + FOLD_EVENTS - 1 - (last or 0)
            return
        if done == until:
            connection.execute("UPDATE fold SET until = ?, cursor = 0", (last,))
            return
        if self._slices[0] != until:
            self._slices = (until, _slices(connection, done, until))
        ends = self._slices[1]
        half = max(1, SLICE_EVENTS // 2)
        due = 1 + (last - until) // half
        if due >= len(ends):
            fold_until(connection, until)
            return
        self.room = until + due * half - 1 - last
        if cursor < ends[due - 1]:
            given = {"until": until, "below": ends[due - 1]}
            connection.execute(_INTO_HISTORIES, given)
            connection.execute("UPDATE fold SET cursor = :below", given)


def fold_until(connection: sqlite3.Connection, until: int) -> None:
    """Bring all events up to the offset `until` into histories, at once.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> fold_until(connection, 5)
    >>> connection.execute("SELECT done, until FROM fold").fetchone()
    (5, 5)
    """
    connection.execute(_INTO_HISTORIES, {"until": until, "below": _ALL_USERS})
    connection.execute("UPDATE fold SET done = ?1, until = ?1, cursor = 0", (until,))


def _slices(connection: sqlite3.Connection, done: int, until: int) -> list[int]:
    """Return the first user behind each slice but the last."""
    (found,) = connection.execute(
        "SELECT json_group_array(user) FROM events NOT INDEXED"
        f" WHERE offset > ? AND offset <= ? AND {HISTORY_ROWS}",
        (done, until),
    ).fetchone()
    users = np.sort(np.array(_numbers(found), np.int64))
    return [*np.unique(users[SLICE_EVENTS::SLICE_EVENTS]).tolist(), _ALL_USERS]
