"""The log as a process sees it that only asks who somebody is and what they did."""

from __future__ import annotations

from pathlib import Path

from ouzel.events import log_read
from ouzel.events.interactions import History
from ouzel.events.log_schema import open_reader
from ouzel.events.log_tail import Tail


class LogView:
    """Histories in a log that another process writes; what it has acknowledged is seen at once.

    For one thread, and to be opened in the process that reads: a connection does not outlive a
    fork.

    >>> import tempfile
    >>> from ouzel.events.log import EventLog
    >>> from ouzel.events.types import Interaction, ItemUpdate
    >>> heat = ItemUpdate(event_id="1", timestamp_ms=1, item_id="heat", columns={})
    >>> seen = Interaction(event_id="2", timestamp_ms=2, user_id="u", item_id="heat", event="view")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "events.db")
    ...     with EventLog.open(path) as log:
    ...         receipts = log.append([heat, seen])
    ...         view = LogView(path)
    ...         view.history(view.user_row(user_id="u")).rows.tolist()
    ...         view.close()
    [1]
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_reader(path)
        self._tail = Tail(self._connection)

    def user_row(self, user_id: str | None = None, session_id: str | None = None) -> int | None:
        """Return the row of a user, or of a session if no `user_id` is given; None if unknown."""
        return log_read.user_row(self._connection, user_id, session_id)

    def history(self, user: int, *, valued: bool = False) -> History:
        """Return one user's interactions in (timestamp, offset) order, as `EventLog.history`."""
        return self._tail.history(user, valued=valued)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
