"""User states: how an event changes the very next answer.

A state is *append-exact*: appending an event gives what encoding the history anew would give, up
to float rounding. So events are only noted when they arrive and applied, in batches, when the user
next asks; a user who is not in the pool is encoded from the log; and what is stored can be audited
against a full re-encode at any time.

An answer depends on the newest `receptive_field` known events and on nothing else: not on what was
evicted, not on how the events came in. Sliding windows make that start a function of the event
count alone.

Shape legend: B = batch, D = vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.inference.appending import Appending
from ouzel.inference.audit import AUDIT_TOLERANCE, Audit
from ouzel.inference.encoding import (
    ENCODE_BATCH,
    HistoryEncoder,
    ask,
    encode_into,
    known_events,
)
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool
from ouzel.inference.rebuild import later_events
from ouzel.inference.shared import Directory, SharedStates, Whereabouts

Array = NDArray[Any]


@dataclass
class StateStats:
    """What happened to states so far; all counts since the start, differences as seen last."""

    hits: int = 0
    misses: int = 0
    appends: int = 0
    rebuilds: int = 0
    invalidations: int = 0
    audits: int = 0
    audit_failures: int = 0
    audit_max_error: float = 0.0
    prefetches: int = 0


class UserStates:
    """The states of one Bundle's users, kept within `max_bytes`.

    `load_history` reads a user's whole history from the log, in (timestamp, log offset) order. A
    state that an audit finds further than `tolerance` from its re-encode is wrong.
    With a `directory` processes forked later can read the states in place.
    """

    def __init__(
        self,
        graphs: Graphs,
        *,
        max_bytes: int,
        load_history: Callable[[int], History],
        version: str,
        tolerance: float = AUDIT_TOLERANCE,
        directory: Directory | None = None,
    ) -> None:
        self.version = version
        self.stats = StateStats()
        self.pool = StatePool(graphs.shape, max_bytes=max_bytes, shared=directory is not None)
        self.directory = directory
        self._followers: list[Whereabouts] = []
        self._encoder = HistoryEncoder(graphs, batch_size=1)
        self._graphs = graphs
        self._tolerance = tolerance
        self._load_history = load_history
        self._pending: dict[int, list[tuple[int, int]]] = {}

    @property
    def graphs(self) -> Graphs:
        """Return the graphs that make the states."""
        return self._graphs

    def slot(self, user: int) -> int | None:
        """Return where the user's state is in the pool, None if it is not there."""
        return self.pool.slot(user) if user in self.pool else None

    def current(self, user: int) -> int | None:
        """Return where the user's state is, None if it is not there or lacks an event."""
        return None if user in self._pending else self.slot(user)

    def follow(self, follower: Whereabouts) -> None:
        """Tell somebody from now on where states are current, and of whom none is any more.

        What becomes current beside the caller, many at once, is not told: see `current`.
        """
        self._followers.append(follower)

    def shared(self) -> SharedStates:
        """Return what processes forked later can read of these states.

        Raises:
            ValueError: there is no directory.
        """
        if self.directory is None:
            raise ValueError("the states are not shared: make them with a directory")
        return SharedStates(self._graphs, self.pool, self.directory)

    def observe(self, user: int, row: int, time_ms: int) -> None:
        """Note a durable event of `user`; its effect is in the user's next `query`.

        An event older than the newest one noted changes the order of the history, so the state is
        dropped and made anew from the log.
        """
        for follower in self._all_followers():
            follower.change(user)
        if user not in self.pool:
            return
        if not 0 < row < self._graphs.num_rows:
            self._publish(user)
            return
        pending = self._pending.setdefault(user, [])
        slot = self.pool.slot(user)
        newest = pending[-1][1] if pending else int(self.pool.last_time_S[slot])
        if time_ms < newest or len(pending) >= self.pool.shape.window:
            self.stats.invalidations += time_ms < newest
            self.forget(user)
        else:
            pending.append((row, time_ms))

    def forget(self, user: int) -> None:
        """Drop the user's state; the next `query` makes it anew from the log."""
        for follower in self._all_followers():
            follower.change(user)
        self.pool.release(user)
        self._pending.pop(user, None)

    def drain(self, most: int) -> int:
        """Append what was noted for up to `most` users; return for how many more there is some."""
        self._apply_pending(list(islice(self._pending, most)))
        return len(self._pending)

    def begin_append(self, most: int) -> Appending | None:
        """Return the oldest event that was noted, of up to `most` users; None if there is none.

        Its `run()` may go on in another thread, while this one asks and notes.
        """
        users = list(islice(self._pending, most))
        if not users:
            return None
        slots_B = np.array([self.pool.slot(user) for user in users], np.int64)
        events = np.array([self._pending[user][0] for user in users], np.int64)
        return Appending(
            self._graphs,
            self.pool.cache,
            users,
            slots_B,
            epoch_B=self.pool.epoch_S[slots_B],
            length_B=self.pool.length_S[slots_B],
            row_B=events[:, 0],
            time_B=events[:, 1],
        )

    def end_append(self, begun: Appending, fresh: Sequence[Array]) -> int:
        """Put what `begun.run()` gave into the states; return for how many users more is noted.

        A state that was written meanwhile is left as it is.
        """
        kept_B = self.pool.epoch_S[begun.slots_B] == begun.epoch_B
        for index, user in enumerate(begun.users):
            pending = self._pending.get(user)
            if not pending or self.slot(user) != begun.slots_B[index]:
                kept_B[index] = False
            elif kept_B[index]:
                pending.pop(0)
                if not pending:
                    del self._pending[user]
        self.pool.extend(
            begun.slots_B[kept_B],
            [array[kept_B] for array in fresh],
            begun.row_B[kept_B],
            begun.time_B[kept_B],
        )
        self.stats.appends += int(kept_B.sum())
        for index in np.flatnonzero(kept_B).tolist():
            self._publish(begun.users[index], among_many=True)
        return len(self._pending)

    @property
    def behind(self) -> int:
        """Return how many states lack an event that was noted."""
        return len(self._pending)

    def contains(self, user: int) -> bool:
        """Return whether the user's state is in the pool."""
        return user in self.pool

    def query(self, users: Sequence[int], now_ms: int) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the vectors (B, D) of `users` at the time `now_ms`, and which of them have one.

        A user without known events has no vector: a row of zeros and False.
        """
        most = self.pool.num_slots
        if len(users) <= most:
            return self._query(users, now_ms)
        parts = [
            self._query(users[start : start + most], now_ms) for start in range(0, len(users), most)
        ]
        known = [has_state for _, ready in parts for has_state in ready]
        return np.concatenate([vectors for vectors, _ in parts]), known

    def _query(self, users: Sequence[int], now_ms: int) -> tuple[NDArray[np.float32], list[bool]]:
        """Return what `query` does, of users for all of whom there are slots."""
        known = self._bring_in(users)
        slots = [self.pool.slot(user) for user, ready in zip(users, known, strict=True) if ready]
        answers = np.zeros((len(users), self.pool.shape.dim), np.float32)
        if not slots:
            return answers, known
        now_B = np.array([now_ms] * len(slots), np.int64)
        found = ask(self._graphs, self.pool, np.array(slots, np.int64), now_B)
        if len(slots) == len(users):
            return found, known
        answers[np.array(known)] = found
        return answers, known

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history that is not stored; None if nothing is known."""
        vectors, filled = self._encoder([history], np.array([now_ms]))
        return vectors[0] if filled[0] else None

    def begin_rebuild(self, user: int) -> History | None:
        """Return the history to encode for a user whose state is not held; None if there is none.

        A `rebuild.Workbench` makes the state of it, in another process.
        """
        if user in self.pool:
            return None
        history = known_events(self._graphs, self._load_history(user))
        return history if len(history) else None

    def end_rebuild(self, user: int, before: History, made: StatePool) -> None:
        """Put the one state in `made`, of the history `before`, in force with what came since.

        Left out if that history is no longer the beginning of what it is now.
        """
        later = later_events(before, known_events(self._graphs, self._load_history(user)))
        if user in self.pool or later is None:
            return
        self.pool.put(self._take(user), made, 0)
        self.stats.rebuilds += 1
        if not len(later):
            self._publish(user)
        for row, time_ms in zip(later.rows.tolist(), later.times_ms.tolist(), strict=True):
            self.observe(user, row, time_ms)

    def audit(self, user: int) -> float | None:
        """Return the largest difference between the user's state and a full re-encode.

        None if the user is not in the pool. See `begin_audit` and `end_audit`.
        """
        begun = self.begin_audit(user)
        return None if begun is None else self.end_audit(user, begun.error())

    def begin_audit(self, user: int) -> Audit | None:
        """Return the audit of the user's state as it is now; None if it is not in the pool.

        Its `error()` takes a full encode and may be asked for in another thread.
        """
        if user not in self.pool:
            return None
        self._apply_pending([user])
        history = known_events(self._graphs, self._load_history(user))
        return Audit(self._graphs, self.pool.copied(user), self.pool.hash(user), history)

    def end_audit(self, user: int, error: float) -> float:
        """Return `error`, which is now counted.

        A state whose events are not those of the log (an infinite error), or that is off by more
        than rounding, is dropped and counted in `audit_failures`.
        """
        self.stats.audits += 1
        if not error <= self._tolerance:
            self.stats.audit_failures += 1
            self.forget(user)
        if np.isfinite(error):
            self.stats.audit_max_error = max(self.stats.audit_max_error, error)
        return error

    def _bring_in(self, users: Sequence[int]) -> list[bool]:
        """Make the states of `users` current; return which of them have one."""
        pool, distinct = self.pool, list(dict.fromkeys(users))
        present = [user for user in distinct if user in pool]
        for user in present:
            pool.touch(user)
        self.stats.hits += len(present)
        if self._pending:
            self._apply_pending(present)
        missing = [user for user in distinct if user not in pool]
        if missing:
            self.stats.misses += len(missing)
            self._rebuild(missing, frozenset(distinct))
        return [user in pool for user in users]

    def _apply_pending(self, users: list[int]) -> None:
        """Append what was noted for `users`, the r-th event of all of them in one call."""
        waiting = [(user, self._pending.pop(user)) for user in users if user in self._pending]
        try:
            self._append(waiting)
        except BaseException:
            # Nobody knows how far they are: they are made anew from the log.
            for user, _ in waiting:
                self.forget(user)
            raise

    def _append(self, waiting: list[tuple[int, list[tuple[int, int]]]]) -> None:
        round_number = 0
        while waiting:
            slots = np.array([self.pool.slot(user) for user, _ in waiting], np.int64)
            events = [events[round_number] for _, events in waiting]
            rows = np.array([row for row, _ in events], np.int64)
            times = np.array([time_ms for _, time_ms in events], np.int64)
            lengths = self.pool.length_S[slots]
            fresh = self._graphs.append(
                row_B=rows, time_B=times, length_B=lengths, slot_B=slots, cache=self.pool.cache
            )
            self.pool.extend(slots, fresh, rows, times)
            self.stats.appends += len(waiting)
            round_number += 1
            done = [user for user, events in waiting if len(events) == round_number]
            for user in done:
                self._publish(user)
            waiting = [item for item in waiting if len(item[1]) > round_number]

    def _rebuild(self, users: list[int], asked: frozenset[int]) -> None:
        """Make the states of `users` anew; nobody of those `asked` about gives way for them."""
        for start in range(0, len(users), ENCODE_BATCH):
            histories = [
                (user, known_events(self._graphs, self._load_history(user)))
                for user in users[start : start + ENCODE_BATCH]
            ]
            histories = [(user, history) for user, history in histories if len(history)]
            if histories:
                self._encode(histories, asked)
                self.stats.rebuilds += len(histories)
                for user, _ in histories:
                    self._publish(user)

    def _encode(self, histories: list[tuple[int, History]], asked: frozenset[int]) -> None:
        try:
            slots = [self._take(user, asked) for user, _ in histories]
            encode_into(self._graphs, self.pool, slots, [known for _, known in histories])
        except BaseException:
            # In their slots is what was there before: the states of others.
            for user, _ in histories:
                self.forget(user)
            raise

    def _take(self, user: int, keep: frozenset[int] = frozenset()) -> int:
        slot, evicted = self.pool.take(user, keep)
        if evicted is not None:
            # What was noted for them is in the log, from which their next state is made.
            self._pending.pop(evicted, None)
            for follower in self._all_followers():
                follower.withdraw(evicted)
        return slot

    def _all_followers(self) -> list[Whereabouts]:
        return self._followers if self.directory is None else [self.directory, *self._followers]

    def _publish(self, user: int, *, among_many: bool = False) -> None:
        if user in self._pending:
            return
        slot = self.pool.slot(user)
        if self.directory is not None:
            self.directory.publish(user, slot)
        # Of many at once they would hear too much: whoever is asked about is current all the same.
        for follower in () if among_many else self._followers:
            follower.publish(user, slot)
