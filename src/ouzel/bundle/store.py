"""Which Bundle a home serves: promote, roll back, and what was served before.

The file `current` is the truth about now; `store.db` remembers how it came to that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ouzel.bundle.bundle import load_bundle
from ouzel.bundle.files import replace_file
from ouzel.bundle.manifest import FOLDER_DIGITS
from ouzel.events import clock

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE promotions (
    number INTEGER PRIMARY KEY,
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
    folder TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True)
class Promotion:
    """One change of what is served: `action` is promote or rollback, `folder` what came up."""

    action: str
    folder: str
    at_ms: int


class BundleStore:
    """The Bundles of one home folder, and the pointer to the one that is served."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundles = home / "bundles"

    def check_log(self, log: Path) -> None:
        """Return nothing if the log is there, or no Bundle that could belong to it.

        Raises:
            ValueError: a Bundle was promoted, and its log is missing: an empty one in its place
                would look as if all was well.

        >>> BundleStore(Path("no-such-home")).check_log(Path("no-such-home/events.db"))
        """
        if (self.home / "current").exists() and not log.exists():
            raise ValueError(
                f"{log} is missing, and the model of this home belongs to it: restore a copy, or "
                "train into another folder"
            )

    def current(self) -> Path:
        """Return the folder of the Bundle that is served.

        Raises:
            ValueError: none was promoted yet, or `current` names a folder that is gone.

        >>> BundleStore(Path("no-such-home")).current()
        Traceback (most recent call last):
        ...
        ValueError: no-such-home has no model yet: run `ouzel train --data PATH --out no-such-home`
        """
        return self._folder(self._served())

    def promote(self, digest: str) -> Path:
        """Return the folder of the Bundle with this digest, now the one that is served.

        `digest` is the whole digest or the folder's name. Promoting what is served is no change.

        Raises:
            ValueError: there is no such Bundle, or it does not pass `load_bundle`.
        """
        folder = self._folder(digest)
        bundle = load_bundle(folder)
        if not bundle.digest.startswith(digest):
            raise ValueError(f"{folder} has digest {bundle.digest}, not {digest}")
        with self._exclusive() as connection:
            if self._pointer() != folder.name:
                self._flip(connection, "promote", folder)
        return folder

    def rollback(self) -> Path:
        """Return the folder that was served before the present one, now served again.

        Raises:
            ValueError: nothing was served before, or its Bundle does not pass `load_bundle`.
        """
        now = self._served()
        with self._exclusive() as connection:
            earlier = _before(now, _stack(connection))
            if not earlier:
                raise ValueError(f"{self.home} has served no earlier model: nothing to go back to")
            folder = self._folder(earlier[-1])
            load_bundle(folder)
            self._flip(connection, "rollback", folder)
        return folder

    def history(self) -> list[Promotion]:
        """Return every change of what is served, oldest first.

        >>> BundleStore(Path("no-such-home")).history()
        []
        """
        if not self._database.exists():
            return []
        with self._exclusive() as connection:
            columns = "SELECT action, folder, at_ms FROM promotions ORDER BY number"
            return [Promotion(*row) for row in connection.execute(columns)]

    @property
    def _database(self) -> Path:
        return self.home / "store.db"

    def _pointer(self) -> str | None:
        path = self.home / "current"
        return path.read_text("utf-8").strip() if path.is_file() else None

    def _served(self) -> str:
        name = self._pointer()
        if name is None:
            raise ValueError(
                f"{self.home} has no model yet: run `ouzel train --data PATH --out {self.home}`"
            )
        return name

    def _folder(self, digest: str) -> Path:
        name = digest[:FOLDER_DIGITS]
        folder = self.bundles / name
        # The name comes from a file or a caller: it must not lead out of the store.
        if len(name) != FOLDER_DIGITS or set(name) - set("0123456789abcdef"):
            raise ValueError(f"{digest!r} is no bundle digest: give {FOLDER_DIGITS} hex digits")
        if not folder.is_dir():
            known = sorted(path.name for path in self.bundles.glob("[0-9a-f]*"))
            raise ValueError(f"{folder} is not there, known are: {', '.join(known) or 'none'}")
        return folder

    def _flip(self, connection: sqlite3.Connection, action: str, folder: Path) -> None:
        connection.execute(
            "INSERT INTO promotions (action, folder, at_ms) VALUES (?, ?, ?)",
            (action, folder.name, clock.now_ms()),
        )
        replace_file(self.home / "current", f"{folder.name}\n".encode())

    @contextmanager
    def _exclusive(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside one transaction that shuts out other writers."""
        connection = sqlite3.connect(self._database, isolation_level=None, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            self._migrate(connection)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise ValueError(
                f"{self._database} cannot be used ({error}): if it is damaged, move it elsewhere; "
                f"only the history of promotions is in it"
            ) from None
        finally:
            connection.close()

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self._database} has schema version {version}, this library reads up to "
                f"{SCHEMA_VERSION}: upgrade ouzel"
            )
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _stack(connection: sqlite3.Connection) -> list[str]:
    """Return the folders to go back through, the newest last."""
    served: list[str] = []
    for action, folder in connection.execute(
        "SELECT action, folder FROM promotions ORDER BY number"
    ):
        if action == "rollback":
            served = _before(folder, served)
        served.append(folder)
    return served


def _before(now: str, served: list[str]) -> list[str]:
    """Return what was served before `now`, also where a crash kept `now` out of the table."""
    if now in served:
        last = len(served) - 1 - served[::-1].index(now)
        served = served[:last]
    while served and served[-1] == now:
        served = served[:-1]
    return served
