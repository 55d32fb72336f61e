"""A whole source of interactions into the log: fast, in steps, and only once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from ouzel.events.columns import EventColumns
from ouzel.events.log_append import Batch
from ouzel.events.log_schema import verb_number
from ouzel.events.validation import MAX_TIMESTAMP_MS, check_columns, check_id
from ouzel.events.verbs import check_verb

CHUNK = 50_000
"""Rows a transaction: short enough that a live server's appends wait well under a second."""

_COLUMNS = "INSERT INTO events (event_id, timestamp_ms, user, row, verb, value)"
_INSERT = f"{_COLUMNS} VALUES (?, ?, ?, ?, ?, ?)"
# Not INSERT OR IGNORE: that uses up an offset for every row that it ignores.
_INSERT_ABSENT = (
    f"{_COLUMNS} SELECT ?1, ?2, ?3, ?4, ?5, ?6"
    " WHERE NOT EXISTS (SELECT 1 FROM events WHERE event_id = ?1)"
)
_MAX_NUMBER = 10**10 - 1

Numbers = tuple[dict[str, int], dict[str, int], dict[str, int]]
"""The numbers of users, items and verbs by their names."""


class ImportCounts(NamedTuple):
    """What an import did: `added` + `already_known` = the rows of the source."""

    added: int
    already_known: int
    users_added: int
    items_added: int


def check_import(columns: EventColumns, items: Mapping[str, Sequence[str]]) -> None:
    """Return nothing if every row may be stored.

    Raises: ValueError naming the first value that may not.

    >>> columns = EventColumns(
    ...     ["u"], ["a"], ["view"], np.array([5]), np.array([np.nan]), np.array([1])
    ... )
    >>> check_import(columns, {"item_id": ["a"], "title": ["Alien"]})
    """
    for name, ids in (("user_id", columns.user_ids), ("item_id", columns.item_ids)):
        for value in dict.fromkeys(ids):
            check_id(value, name)
    for verb in dict.fromkeys(columns.verbs):
        check_verb(verb)
    times = columns.timestamps_ms_E
    bad = (times < 0) | (times > MAX_TIMESTAMP_MS)
    if bad.any():
        raise ValueError(f"timestamp {times[bad][0]} is out of range: give UTC milliseconds")
    numbers = columns.numbers_E
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= _MAX_NUMBER:
        raise ValueError(f"row numbers go from {numbers.min()} to {numbers.max()}: give 0 to 10^10")
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError("some rows share a number: number the rows of a source")
    if np.isinf(columns.values_E).any():
        raise ValueError("value inf is not finite: leave it out or give a number")
    if items:
        _check_items(items)


def event_ids(source_digest: str, numbers: Iterable[int]) -> Iterable[str]:
    """Return the event ids of rows of a source: the same source and row, the same id.

    >>> list(event_ids("digest", [7])) == list(event_ids("digest", [7]))
    True
    """
    prefix = hashlib.sha256(source_digest.encode()).hexdigest()[:16]
    # Zero-padded, so that ids sort as numbers do and the unique index grows at its end.
    return (f"{prefix}-{number:010d}" for number in numbers)


def import_names(
    connection: sqlite3.Connection,
    batch: Batch,
    columns: EventColumns,
    items: Mapping[str, Sequence[str]],
) -> Numbers:
    """Return the numbers of all users, items and verbs of a source, handed out where new.

    Items that somebody touched come first, in order of appearance; the rest of `items`
    follows, so that a model of the touched ones has no row for the others.

    >>> from pathlib import Path
    >>> from ouzel.events.catalog import Catalog
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> columns = EventColumns(
    ...     ["u"], ["a"], ["view"], np.array([5]), np.array([np.nan]), np.array([1])
    ... )
    >>> import_names(connection, Batch(connection, Catalog()), columns, {})
    ({'u': 0}, {'a': 1}, {'view': 1})
    """
    known = dict(connection.execute("SELECT id, user FROM users WHERE session = 0"))
    (first,) = connection.execute("SELECT coalesce(max(user) + 1, 0) FROM users").fetchone()
    fresh = [user_id for user_id in dict.fromkeys(columns.user_ids) if user_id not in known]
    users = known | {user_id: first + position for position, user_id in enumerate(fresh)}
    connection.executemany(
        "INSERT INTO users (user, session, id) VALUES (?, 0, ?)",
        ((users[user_id], user_id) for user_id in fresh),
    )
    texts = _texts_of(items)
    rows = {}
    for item_id in (*dict.fromkeys(columns.item_ids), *texts):
        if item_id not in rows:
            # What an administrator wrote since the last import stays.
            row = batch.item_row(item_id, texts.get(item_id, {}), overwrite=False)
            batch.release(item_id, row)
            rows[item_id] = row
    verbs = {verb: verb_number(connection, verb) for verb in dict.fromkeys(columns.verbs)}
    return users, rows, verbs


def insert_chunk(
    connection: sqlite3.Connection,
    columns: EventColumns,
    source_digest: str,
    numbers: Numbers,
    span: slice,
) -> int:
    """Return how many of the events in `span` were not in the log yet, and store those.

    >>> from pathlib import Path
    >>> from ouzel.events.log_schema import open_writer
    >>> connection = open_writer(Path(":memory:"), "FULL")
    >>> columns = EventColumns(
    ...     ["u"], ["a"], ["view"], np.array([5]), np.array([np.nan]), np.array([1])
    ... )
    >>> given = (columns, "digest", ({"u": 0}, {"a": 1}, {"view": 1}), slice(0, 1))
    >>> insert_chunk(connection, *given), insert_chunk(connection, *given)
    (1, 0)
    """
    users, rows, verbs = numbers
    lines = columns.numbers_E[span]
    records = zip(
        event_ids(source_digest, lines.tolist()),
        columns.timestamps_ms_E[span].tolist(),
        map(users.__getitem__, columns.user_ids[span]),
        map(rows.__getitem__, columns.item_ids[span]),
        map(verbs.__getitem__, columns.verbs[span]),
        columns.values_E[span].tolist(),  # SQLite stores NaN as NULL
        strict=True,
    )
    # Looking up each id costs half as much again; one look at their range mostly spares it.
    touched = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM events WHERE event_id BETWEEN ? AND ?)",
        tuple(event_ids(source_digest, (int(lines.min()), int(lines.max())))),
    ).fetchone()[0]
    before = connection.total_changes
    connection.executemany(_INSERT_ABSENT if touched else _INSERT, records)
    return connection.total_changes - before


def spans_of(total: int, progress: Callable[[int, int], None] | None) -> Iterable[slice]:
    """Return the slices of the transactions, reporting (done, total) rows between them.

    >>> list(spans_of(CHUNK + 1, None))
    [slice(0, 50000, None), slice(50000, 50001, None)]
    """
    for start in range(0, total, CHUNK):
        end = min(total, start + CHUNK)
        yield slice(start, end)
        if progress is not None:
            progress(end, total)


def _check_items(items: Mapping[str, Sequence[str]]) -> None:
    if "item_id" not in items:
        raise ValueError(f"items has columns {sorted(items)}: add item_id")
    if len({len(column) for column in items.values()}) > 1:
        raise ValueError("columns of items differ in length: give one entry an item in each")
    for item_id in items["item_id"]:
        check_id(item_id)
    for name, column in items.items():
        for text in column:
            check_columns({name: text})


def _texts_of(items: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    names = [name for name in items if name != "item_id"]
    ids = items.get("item_id", ())
    columns = [items[name] for name in names]
    texts = zip(*columns, strict=True) if columns else repeat(())
    return {
        item_id: {name: text for name, text in zip(names, row, strict=True) if text}
        for item_id, row in zip(ids, texts, strict=False)
    }
