"""The SQLite file of the log: its tables, its version, and how it is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ouzel.events.verbs import NOT_HISTORY, VERBS

SCHEMA_VERSION = 2
"""Raised with every change of the tables; a log with a higher one is refused."""

_APPLICATION_ID = 0x4F757A6C  # "Ouzl" in the file's header
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
_CUSTOM_VERBS_FROM = 64  # ids below it are positions in VERBS, in every log
_BUSY_MS = 30_000

FOLDED = "(offset <= done OR (offset <= until AND user < cursor))"
"""SQL condition: the row of `events` is in `histories` already, by the only row of `fold`."""

HISTORY_ROWS = (
    "verb IS NOT NULL AND row > 0 AND verb NOT IN"
    f" ({', '.join(str(VERBS.index(verb)) for verb in sorted(NOT_HISTORY))})"
)
"""SQL condition: the interaction is on a known item, with a verb that enters histories.

`histories` holds such rows alone: who changes what enters them makes the table anew."""

_VERSION_1 = f"""
CREATE TABLE users (
    user INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    id TEXT NOT NULL,
    UNIQUE (id, session)
);

CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    columns TEXT NOT NULL
);

CREATE TABLE verbs (
    verb INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE events (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    timestamp_ms INTEGER NOT NULL,
    user INTEGER NOT NULL,
    row INTEGER NOT NULL,
    verb INTEGER,
    value REAL,
    waiting_item TEXT,
    request_id TEXT,
    body BLOB
);

CREATE INDEX events_of_user ON events (user, timestamp_ms, offset, row, verb)
    WHERE verb IS NOT NULL AND row > 0;

CREATE INDEX events_waiting ON events (waiting_item) WHERE waiting_item IS NOT NULL;

CREATE INDEX events_of_request ON events (request_id) WHERE request_id IS NOT NULL;

INSERT INTO verbs (verb, name) VALUES {", ".join(f"({i}, '{v}')" for i, v in enumerate(VERBS))};

PRAGMA application_id = {_APPLICATION_ID}
"""

# An event that is changed or taken away changes histories where it is in them already; readers
# see by the count of such changes that what they remember is old.
_VERSION_2 = f"""
CREATE TABLE histories (
    user INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (user, timestamp_ms, offset)
) WITHOUT ROWID;

CREATE TABLE fold (
    done INTEGER NOT NULL,
    until INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    changes INTEGER NOT NULL
);

INSERT INTO histories (user, timestamp_ms, offset, row)
    SELECT user, timestamp_ms, offset, row FROM events INDEXED BY events_of_user
    WHERE {HISTORY_ROWS} ORDER BY user, timestamp_ms, offset;

INSERT INTO fold SELECT last, last, 0, 0 FROM (SELECT coalesce(max(offset), 0) AS last FROM events);

DROP INDEX events_of_user;

CREATE TRIGGER event_deleted AFTER DELETE ON events BEGIN
    DELETE FROM histories WHERE user = old.user AND timestamp_ms = old.timestamp_ms
        AND offset = old.offset;
    UPDATE fold SET changes = changes + 1;
END;

CREATE TRIGGER event_changed AFTER UPDATE ON events BEGIN
    DELETE FROM histories WHERE user = old.user AND timestamp_ms = old.timestamp_ms
        AND offset = old.offset;
    INSERT INTO histories (user, timestamp_ms, offset, row)
        SELECT user, timestamp_ms, offset, row FROM fold CROSS JOIN events
        WHERE offset = new.offset AND {HISTORY_ROWS} AND {FOLDED};
    UPDATE fold SET changes = changes + 1;
END
"""

_VERSIONS = (_VERSION_1, _VERSION_2)
"""What makes each version of the log from the one before; a blank line ends a statement."""


def open_writer(path: Path, synchronous: str) -> sqlite3.Connection:
    """Return the connection that writes, with the tables made if the file is new.

    Raises: ValueError if the file is no log, or one of a newer Ouzel, or `synchronous` is
    none of SQLite's words.

    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> connection.execute("PRAGMA synchronous").fetchone()
    (2,)
    """
    if synchronous not in _SYNCHRONOUS:
        raise ValueError(f"synchronous {synchronous!r}: use one of {', '.join(_SYNCHRONOUS)}")
    try:
        connection = _connect(path)
        try:
            _check_version(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA cache_size = -16384")
            _create(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} cannot be opened as an event log ({error}): check the path, or restore a copy"
        ) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that sees what is committed and cannot write.

    >>> open_reader(Path(":memory:")).execute("PRAGMA query_only").fetchone()
    (1,)
    """
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def verb_number(connection: sqlite3.Connection, name: str) -> int:
    """Return the number of a verb, given out now if it is a new custom one.

    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> verb_number(connection, "view"), verb_number(connection, "subscribe")
    (1, 64)
    """
    found = connection.execute("SELECT verb FROM verbs WHERE name = ?", (name,)).fetchone()
    if found:
        return int(found[0])
    (last,) = connection.execute("SELECT max(verb) FROM verbs").fetchone()
    number = max(last + 1, _CUSTOM_VERBS_FROM)
    connection.execute("INSERT INTO verbs (verb, name) VALUES (?, ?)", (number, name))
    return int(number)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are written out (BEGIN IMMEDIATE), never opened behind our back.
    return sqlite3.connect(
        path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
    )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION_ID:
        raise ValueError(f"{path} is a SQLite file but no event log: give another path")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written by a newer Ouzel (log version {version}, this one reads up to"
            f" {SCHEMA_VERSION}): upgrade Ouzel"
        )


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, or those that a log of an older version lacks."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for statements in _VERSIONS[version:]:
        for statement in statements.split("\n\n"):
            connection.execute(statement)
    if version < SCHEMA_VERSION:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
