"""Is a log sound? SQLite's own check, and the promises that its tables make to each other."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ouzel.events.log_schema import FOLDED, HISTORY_ROWS, SCHEMA_VERSION

_PROMISES = {
    "item rows are not 1, 2, 3 ... without a gap": (
        "SELECT count(*) = coalesce(max(row), 0) AND coalesce(min(row), 1) = 1 FROM items"
    ),
    "user rows are not 0, 1, 2 ... without a gap": (
        "SELECT count(*) = coalesce(max(user) + 1, 0) AND coalesce(min(user), 0) = 0 FROM users"
    ),
    "an event names an item row that is not in the catalogue": (
        "SELECT NOT EXISTS (SELECT 1 FROM events WHERE row > (SELECT coalesce(max(row), 0)"
        " FROM items))"
    ),
    "an event names a user that is not in the log": (
        "SELECT NOT EXISTS (SELECT 1 FROM events WHERE user > (SELECT coalesce(max(user), -1)"
        " FROM users))"
    ),
}
_PROMISES_2 = {
    "histories are not those of the events": (
        "SELECT NOT EXISTS (SELECT 1 FROM histories h WHERE NOT EXISTS (SELECT 1 FROM fold CROSS"
        " JOIN events e WHERE e.offset = h.offset AND e.user = h.user AND e.row = h.row"
        f" AND e.timestamp_ms = h.timestamp_ms AND {HISTORY_ROWS} AND {FOLDED}))"
        " AND (SELECT count(*) FROM histories) = (SELECT count(*) FROM fold CROSS JOIN events"
        f" NOT INDEXED WHERE {HISTORY_ROWS} AND {FOLDED})"
    ),
}
"""What holds from version 2 of the log on."""


def damage(path: Path) -> list[str]:
    """Return what is wrong with the log in a file, one sentence each; none if it is sound.

    The file is opened for reading only, so a running server is not disturbed.

    Raises:
        ValueError: the file is no event log, or a newer library wrote it.

    >>> damage(Path("no-such-file"))
    Traceback (most recent call last):
    ...
    ValueError: no-such-file is no readable event log (unable to open database file)
    """
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise ValueError(f"{path} has log version {version}, newer than this ouzel")
            problems = [text for (text,) in connection.execute("PRAGMA integrity_check(10)")]
            if problems != ["ok"]:
                return [f"{path}: {' '.join(problem.split())}" for problem in problems]
            return [
                f"{path}: {broken}"
                for broken, query in (_PROMISES | (_PROMISES_2 if version > 1 else {})).items()
                if not connection.execute(query).fetchone()[0]
            ]
    except sqlite3.Error as error:
        if error.sqlite_errorname.startswith("SQLITE_CORRUPT"):
            return [f"{path}: {error}"]
        raise ValueError(f"{path} is no readable event log ({error})") from None
