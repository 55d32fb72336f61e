"""Who is asking: ids to user rows, and the histories of those who came lately.

Histories serve twice: as the seen items that a list leaves out, and as what the state pool
encodes on a miss. They change only when the writer reports an event as durable, so both always
agree with each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.events.types import Event, Interaction
from ouzel.events.verbs import enters_history
from ouzel.retrieval.types import distinct_rows
from ouzel.serving.writer import Written

ENTRY_BYTES = 512
"""What an entry costs beside its columns, roughly."""

EVENT_BYTES = 16
"""Row (int32), time (int64) and the row once more among those seen."""


class HistoryLog(Protocol):
    """What the server asks of the event log for reading."""

    def user_row(self, user_id: str | None = None, session_id: str | None = None) -> int | None:
        """Return the row of a user or session, None if never seen."""
        ...

    def history(self, user: int, *, valued: bool = False) -> History:
        """Return what the user did, oldest first, with `values` if asked."""
        ...


class Tickets(Protocol):
    """How far the writer is (see `LogWriter`)."""

    submitted: int
    settled: int


class States(Protocol):
    """What durable events do to the state pool."""

    def observe(self, user: int, row: int, time_ms: int) -> None:
        """Put one event behind a user's state."""
        ...

    def forget(self, user: int) -> None:
        """Drop a user's state, to be built anew."""
        ...


class Visitor:
    """A known user: the log's row, all done so far, the part the model knows, and rows `seen`.

    `seen` is sorted, each row once. `user_id` is there once somebody asked by it. Events are only
    noted when they come, and put into the columns when somebody looks: most users do several things
    before they ask.

    >>> visitor = Visitor(3, History(np.array([7], np.int32), np.array([5])), num_rows=8)
    >>> visitor.add(9, 6)
    >>> visitor.num_events, visitor.seen.tolist(), visitor.known.rows.tolist()
    (2, [7, 9], [7])
    """

    __slots__ = (
        "_history",
        "_known",
        "_newest",
        "_num_rows",
        "_seen",
        "changes",
        "user",
        "user_id",
    )

    def __init__(
        self, user: int, history: History, *, num_rows: int, changes: int | None = 0
    ) -> None:
        self.user = user
        self.user_id: str | None = None
        self.changes = changes
        self._num_rows = num_rows
        self._newest: list[tuple[int, int, float | None]] = []
        self._history = history
        self._known = self._known_of(history)
        self._seen = distinct_rows(history.rows)

    @property
    def num_events(self) -> int:
        """Return how many events the history has."""
        return len(self._history) + len(self._newest)

    @property
    def last_ms(self) -> int:
        """Return the time of the newest event, 0 if there is none."""
        if self._newest:
            return self._newest[-1][1]
        return int(self._history.times_ms[-1]) if len(self._history) else 0

    @property
    def history(self) -> History:
        """Return all done so far."""
        self._take_in()
        return self._history

    @property
    def known(self) -> History:
        """Return the part that the model knows."""
        self._take_in()
        return self._known

    @property
    def seen(self) -> NDArray[np.int32]:
        """Return the rows of all done so far, sorted, each once."""
        self._take_in()
        return self._seen

    def add(self, row: int, time_ms: int, value: float | None = None) -> None:
        """Note an event that is not older than the newest one."""
        self._newest.append((row, time_ms, value))

    def _take_in(self) -> None:
        if not self._newest:
            return
        rows, times_ms, values = zip(*self._newest, strict=True)
        self._newest = []
        fresh = np.array(rows, np.int32)
        told = None if self._history.values is None else np.array(values, np.float64)
        newest = History(
            fresh, np.array(times_ms, np.int64), None if told is None else told.astype(np.float32)
        )
        self._history = self._history.followed_by(newest)
        self._known = self._known_of(self._history)
        self._seen = distinct_rows(self._seen, fresh)

    def _known_of(self, history: History) -> History:
        known_n = history.rows < self._num_rows
        if known_n.all():
            return history
        return history.chosen(known_n)


class Visitors:
    """Recent users by id, bounded in bytes, the longest unseen dropped first.

    Where events take effect in another process, `changes` gives how many have, by user row, and a
    history that was read before the last of them is read again. With `valued` histories have the
    values of events, for a model of ratings.
    """

    def __init__(
        self,
        log: HistoryLog,
        tickets: Tickets,
        *,
        num_rows: int,
        max_bytes: int = 64 << 20,
        changes: Callable[[int], int | None] | None = None,
        valued: bool = False,
    ) -> None:
        self.valued = valued
        self._log = log
        self._changes = changes
        self._tickets = tickets
        self._num_rows = num_rows
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, Visitor] = OrderedDict()
        self._rows: OrderedDict[tuple[str | None, str | None], int] = OrderedDict()
        self._loaded_at: OrderedDict[int, int] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, user_id: str | None, session_id: str | None) -> Visitor | None:
        """Return who has this user id, None if nothing is known.

        A user of whom nothing is known is whom the session shows: who has just logged in keeps
        what was done before.
        """
        visitor = None if user_id is None else self._named(user_id, None)
        if session_id is None or (visitor is not None and visitor.num_events):
            return visitor
        return self._named(None, session_id) or visitor

    def at_hand(self, user_id: str) -> Visitor | None:
        """Return who has this user id, if that takes no look into the log."""
        user = self._rows.get((user_id, None))
        if user is None or user not in self._entries:
            return None
        return self._visitor(user)

    def _named(self, user_id: str | None, session_id: str | None) -> Visitor | None:
        key = (user_id, session_id)
        user = self._rows.get(key)
        if user is None:
            user = self._log.user_row(user_id=user_id, session_id=session_id)
            if user is None:
                return None
            self._rows[key] = user
            while len(self._rows) * ENTRY_BYTES > self._max_bytes:
                self._rows.popitem(last=False)
        visitor = self._visitor(user)
        visitor.user_id = user_id
        return visitor

    def present(self, user: int) -> Visitor | None:
        """Return who has this user row, if that takes no look into the log."""
        return self._entries.get(user)

    def history(self, user: int) -> History:
        """Return the whole history of a user row: what the state pool encodes on a miss."""
        return self._visitor(user).history

    def apply(
        self, states: States, events: Sequence[Event], receipts: Sequence[Written], ticket: int
    ) -> None:
        """Let durable events take effect on histories and states."""
        for user in {user for receipt in receipts for user in receipt.released}:
            # Events on an item that had no row until now have entered this history, anywhere.
            self.drop(user)
            states.forget(user)
        for event, receipt in zip(events, receipts, strict=True):
            if (
                isinstance(event, Interaction)
                and receipt.status == "accepted"
                and receipt.user >= 0
                and receipt.row > 0
                and enters_history(event.event)
            ):
                self._apply_one(states, receipt, event, ticket)
        self._forget_settled_loads()

    def drop(self, user: int) -> None:
        """Forget a user's history, to be read from the log again."""
        visitor = self._entries.pop(user, None)
        if visitor is not None:
            self.bytes -= _cost(visitor)

    def _apply_one(self, states: States, receipt: Written, event: Interaction, ticket: int) -> None:
        time_ms = event.timestamp_ms
        # A history read while this event was under way may or may not hold it already.
        if self._loaded_at.get(receipt.user, -1) >= ticket:
            self.drop(receipt.user)
            states.forget(receipt.user)
            return
        visitor = self._entries.get(receipt.user)
        if visitor is not None:
            if time_ms < visitor.last_ms:
                self.drop(receipt.user)
            else:
                visitor.add(receipt.row, time_ms, event.value)
                self.bytes += EVENT_BYTES
        states.observe(receipt.user, receipt.row, time_ms)

    def _visitor(self, user: int) -> Visitor:
        self._forget_settled_loads()
        changes = 0 if self._changes is None else self._changes(user)
        visitor = self._entries.get(user)
        if visitor is not None and visitor.changes == changes:
            self._entries.move_to_end(user)
            return visitor
        self.drop(user)
        if self._tickets.settled < self._tickets.submitted:
            self._loaded_at[user] = self._tickets.submitted
            self._loaded_at.move_to_end(user)
        history = self._log.history(user, valued=True) if self.valued else self._log.history(user)
        visitor = Visitor(user, history, num_rows=self._num_rows, changes=changes)
        self._entries[user] = visitor
        self.bytes += _cost(visitor)
        while self.bytes > self._max_bytes and len(self._entries) > 1:
            self.drop(next(iter(self._entries)))
        return visitor

    def _forget_settled_loads(self) -> None:
        while self._loaded_at:
            user, ticket = next(iter(self._loaded_at.items()))
            if ticket > self._tickets.settled:
                return
            del self._loaded_at[user]


def _cost(visitor: Visitor) -> int:
    return ENTRY_BYTES + EVENT_BYTES * visitor.num_events
