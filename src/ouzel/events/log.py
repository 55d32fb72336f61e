"""The durable log of everything that happened: SQLite, one writer, acknowledged means on disk.

The log hands out item rows and user rows, knows every event by its id, and gives each user's
history back in (timestamp, log offset) order. Reads go through connections of their own and see
what is committed, so they never wait for the writer.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ouzel.events import log_import, log_read
from ouzel.events.catalog import Catalog
from ouzel.events.columns import EventColumns
from ouzel.events.interactions import Entries, History, Interactions
from ouzel.events.log_append import INSERT_SHOWN, Batch, Receipt, Users
from ouzel.events.log_fold import Fold, fold_until
from ouzel.events.log_import import ImportCounts
from ouzel.events.log_schema import open_reader, open_writer
from ouzel.events.log_tail import Tail
from ouzel.events.types import Event, Impression
from ouzel.events.validation import check_event

ITEMS_AT_ONCE = 65_536
"""Items read into the catalogue in one go: all of ten million at once would take gigabytes."""

MOST_USERS = 200_000
"""User rows that are remembered, some 30 MB, before all are forgotten."""

_decode_columns = msgspec.json.Decoder(list[dict[str, str]]).decode


class EventLog:
    """An open log. Any thread may call any method; writes follow one another.

    >>> import tempfile
    >>> from ouzel.events.types import Interaction, ItemUpdate
    >>> heat = ItemUpdate(event_id="1", timestamp_ms=1, item_id="heat", columns={"title": "Heat"})
    >>> seen = Interaction(event_id="2", timestamp_ms=2, user_id="u", item_id="heat", event="view")
    >>> folder = tempfile.TemporaryDirectory()
    >>> with EventLog.open(Path(folder.name, "events.db")) as log:
    ...     receipts = log.append([heat, seen])
    ...     log.history(receipts[1].user).rows.tolist()
    [1]
    >>> folder.cleanup()
    """

    def __init__(self, path: Path, *, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._connect()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._catalog = Catalog()
        self._users: Users = {}
        self._fold = Fold()
        self._load_items(self._reader)

    @property
    def path(self) -> Path:
        """Return the file that holds the log; it lies in the home."""
        return self._path

    @classmethod
    def open(cls, path: Path, *, synchronous: str = "FULL") -> EventLog:
        """Return the log at `path`, made if absent.

        `synchronous` is SQLite's word; only FULL and EXTRA survive a power cut.

        Raises: ValueError if the file is no log or was written by a newer Ouzel.
        """
        return cls(Path(path), synchronous=synchronous)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the log cannot be used afterwards."""
        with self._write_lock, self._read_lock:
            self._disconnect()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """Keep the file closed for a while: what SQLite knows of files does not survive a fork.

        Who calls meanwhile waits.
        """
        with self._write_lock, self._read_lock:
            self._disconnect()
            try:
                yield
            finally:
                self._connect()

    @property
    def catalog(self) -> Catalog:
        """Return the live catalogue: it grows as items are appended here."""
        return self._catalog

    def append(self, events: Sequence[Event]) -> list[Receipt]:
        """Return a receipt for each event; all are on disk when this returns.

        One transaction: if anything fails, nothing of it is stored.

        Raises: ValueError if an event may not be stored (see `check_event`), and
        `sqlite3.Error` if the disk fails.
        """
        for event in events:
            check_event(event)
        receipts = self._append_alone(events)
        if receipts is not None:
            return receipts
        with self._transaction() as batch:
            receipts = batch.add(events)
            self._fold.step(self._writer)
        return receipts

    def append_shown(self, text: bytes, count: int) -> None:
        """Store `count` lists that were shown, in one statement; all on disk when this returns.

        `text` is a JSON array of `[event_id, timestamp_ms, user, request_id, impression]`, with the
        row of the user and the `Impression` as it is stored. It is taken as it is: whoever makes it
        vouches for it.

        Raises: `sqlite3.Error` if it cannot be stored, or the disk fails; nothing of it is then.
        """
        with self._write_lock:
            self._writer.execute(INSERT_SHOWN, (text.decode(),))
            self._fold.room -= count

    def import_frame(
        self,
        columns: EventColumns,
        *,
        source_digest: str,
        items: Mapping[str, Sequence[str]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ImportCounts:
        """Return how much of a source was new; importing a source again adds nothing.

        `items` is a table with a column `item_id`; its texts fill what is absent. `progress`
        is called with (rows done, rows in all). An interrupted import is finished by the next.

        Raises: ValueError naming a value that may not be stored; nothing is imported then.
        """
        items = items or {}
        log_import.check_import(columns, items)
        before = (self.num_users, len(self._catalog))
        with self._transaction() as batch:
            numbers = log_import.import_names(self._writer, batch, columns, items)
        added = 0
        for span in log_import.spans_of(len(columns), progress):
            with self._transaction():
                added += log_import.insert_chunk(
                    self._writer, columns, source_digest, numbers, span
                )
                fold_until(self._writer, log_read.last_offset(self._writer))
        return ImportCounts(
            added,
            len(columns) - added,
            self.num_users - before[0],
            len(self._catalog) - before[1],
        )

    def refresh(self) -> None:
        """Take items into the catalogue that another process added to the log."""
        with self._write_lock, self._read_lock:
            self._load_items(self._reader)

    def user_row(self, user_id: str | None = None, session_id: str | None = None) -> int | None:
        """Return the row of a user, or of a session if no `user_id` is given; None if unknown."""
        with self._read_lock:
            return log_read.user_row(self._reader, user_id, session_id)

    def user_ids(self, users: Sequence[int]) -> list[str]:
        """Return the user or session ids of user rows.

        Raises: ValueError for a row that was never handed out.
        """
        return [self._user_id(int(user)) for user in users]

    @property
    def num_users(self) -> int:
        """Return how many user rows were handed out."""
        with self._read_lock:
            (count,) = self._reader.execute(
                "SELECT coalesce(max(user) + 1, 0) FROM users"
            ).fetchone()
        return int(count)

    def history(self, user: int, *, valued: bool = False) -> History:
        """Return one user's interactions in (timestamp, offset) order, with `values` if asked.

        Only known items, and only verbs that enter a history (`enters_history`).
        """
        with self._read_lock:
            return self._tail.history(int(user), valued=valued)

    def newest(self, limit: int) -> History:
        """Return rows and times of the `limit` newest entries that are part of anybody's history.

        They are in the order of the log, oldest first.
        """
        with self._read_lock:
            return log_read.newest(self._reader, limit)

    def interactions(self, *, until_offset: int | None = None) -> Interactions:
        """Return the histories of all users, from offsets up to `until_offset` (all if None).

        `num_rows` is the shortest catalogue prefix that holds them: items that nobody touched
        yet, and that came later than all the touched ones, have no row in it.
        """
        last = self.last_offset() if until_offset is None else until_offset
        # A long read, so it has a connection of its own and holds up nobody.
        reader = open_reader(self._path)
        try:
            return log_read.interactions(reader, last)
        finally:
            reader.close()

    def events(self, *, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Return up to `limit` (offset, event) pairs that follow offset `after`, in log order."""
        with self._read_lock:
            return log_read.events_after(self._reader, after, limit)

    def entries(self, *, after: int, limit: int) -> Entries:
        """Return up to `limit` interactions of histories that follow offset `after`."""
        with self._read_lock:
            return log_read.entries(self._reader, after, limit)

    def impressions(self, request_id: str) -> list[Impression]:
        """Return what was shown under `request_id`, in log order."""
        with self._read_lock:
            return log_read.impressions(self._reader, request_id)

    def last_impressions(self, limit: int) -> list[Impression]:
        """Return up to `limit` of what was shown lately, the newest first."""
        with self._read_lock:
            return log_read.last_impressions(self._reader, limit)

    def last_offset(self) -> int:
        """Return the offset of the newest event, 0 if there was none."""
        with self._read_lock:
            return log_read.last_offset(self._reader)

    def digest(self, *, until_offset: int | None = None) -> str:
        """Return the SHA-256 (hex) of what training reads: `interactions` and the item ids."""
        found = self.interactions(until_offset=until_offset)
        sha = hashlib.sha256(self._catalog.digest(found.num_rows).encode())
        columns = (found.offsets_U1, found.users_U, found.rows_E, found.times_ms_E, found.values_E)
        for column in columns:
            sha.update(column.tobytes())
        return sha.hexdigest()

    def _connect(self) -> None:
        self._writer = open_writer(self._path, self._synchronous)
        self._reader = open_reader(self._path)
        self._tail = Tail(self._reader)

    def _disconnect(self) -> None:
        self._reader.close()
        self._writer.close()

    @contextmanager
    def _transaction(self) -> Iterator[Batch]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._load_items(self._writer)
                if len(self._users) > MOST_USERS:
                    self._users.clear()
                batch = Batch(self._writer, self._catalog, self._users)
                yield batch
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            batch.publish()

    def _append_alone(self, events: Sequence[Event]) -> list[Receipt] | None:
        """Return the receipts of events that are durable after one statement, None: it takes more.

        While histories have room for them. A statement that fails leaves nothing behind.
        """
        with self._write_lock:
            if len(events) > self._fold.room:
                return None
            receipts = Batch(self._writer, self._catalog, self._users).add_alone(events)
            if receipts is not None:
                self._fold.room -= len(receipts)
            return receipts

    def _load_items(self, connection: sqlite3.Connection) -> None:
        """Take in the items behind the last row known here."""
        (last,) = connection.execute("SELECT coalesce(max(row), 0) FROM items").fetchone()
        first = len(self._catalog)
        if last < first:
            return
        found = connection.execute(
            "SELECT id, columns FROM items WHERE row >= ? ORDER BY row", (first,)
        )
        while records := found.fetchmany(ITEMS_AT_ONCE):
            ids, texts = zip(*records, strict=True)
            self._catalog.load(ids, _decode_columns(f"[{','.join(texts)}]"))

    def _user_id(self, user: int) -> str:
        with self._read_lock:
            found = self._reader.execute("SELECT id FROM users WHERE user = ?", (user,)).fetchone()
        if found is None:
            raise ValueError(f"user row {user} is unknown: rows go from 0 to {self.num_users - 1}")
        return str(found[0])
