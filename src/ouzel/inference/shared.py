"""User states that one process keeps and others read in place.

The process that owns the pool says in a `Directory` where the current state of a user lies, and how
often anything about the user has changed. A reader looks there before and after it has read: what
moved meanwhile is not used. That takes a machine on which other processes see writes in their
order, such as x86-64.

Shape legend: U = users, S = slots, B = batch, D = vector size.

References:
    Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.events.mapped_array import shared_zeros
from ouzel.inference.encoding import HistoryEncoder, ask
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool

MOST_USERS = 1 << 26
"""Users with a place in a directory: 512 MiB if all of them come, nothing before they do."""


def writes_in_order() -> bool:
    """Return whether other processes see the writes of this one in their order.

    >>> writes_in_order() in (True, False)
    True
    """
    return platform.machine().lower() in ("x86_64", "amd64")


class Whereabouts(Protocol):
    """Whoever wants to know where the current state of a user lies."""

    def publish(self, user: int, slot: int) -> None:
        """Take note that the state in `slot` is the current one of `user`."""
        ...

    def withdraw(self, user: int) -> None:
        """Take note that there is no current state of `user`."""
        ...

    def change(self, user: int) -> None:
        """Take note that the history of `user` is another now, and that no state is current."""
        ...


class Directory:
    """Where states lie, seen by processes forked later; written by the owner of the pool alone.

    >>> directory = Directory(num_users=10)
    >>> directory.publish(3, slot=7)
    >>> directory.slot(3), directory.slot(4), directory.slot(99)
    (7, None, None)
    """

    def __init__(self, *, num_users: int = MOST_USERS) -> None:
        # Slots count from 1 here, so that an untouched page says: none.
        self._place_U = shared_zeros((num_users,), np.int32)
        self._changes_U = shared_zeros((num_users,), np.uint32)

    def publish(self, user: int, slot: int) -> None:
        """Say that the state in `slot` is the current one of `user`."""
        if user < len(self._place_U):
            self._place_U[user] = slot + 1

    def withdraw(self, user: int) -> None:
        """Say that there is no current state of `user`."""
        if user < len(self._place_U):
            self._place_U[user] = 0

    def change(self, user: int) -> None:
        """Say that the history of `user` is another now, and that no state is current."""
        if user < len(self._place_U):
            self._changes_U[user] += 1
            self._place_U[user] = 0

    def slot(self, user: int) -> int | None:
        """Return the slot of the current state of `user`, None if there is none."""
        place = int(self._place_U[user]) if user < len(self._place_U) else 0
        return place - 1 if place else None

    def changes(self, user: int) -> int | None:
        """Return how often the history of `user` has changed, None if nobody counts it."""
        return int(self._changes_U[user]) if user < len(self._changes_U) else None


class SharedStates:
    """What a reader knows of user states: vectors of those that are current, and sessions.

    `lost` are users whose state moved while it was read, or was gone: their vectors are no answer,
    and whoever asked for them takes them out.
    """

    def __init__(self, graphs: Graphs, pool: StatePool, directory: Directory) -> None:
        self.graphs = graphs
        self.pool = pool
        self.directory = directory
        self._encoder = HistoryEncoder(graphs, batch_size=1)
        self.lost: set[int] = set()
        self.hits = 0

    def contains(self, user: int) -> bool:
        """Return whether the current state of the user can be read."""
        return self.directory.slot(user) is not None

    def slot(self, user: int) -> int | None:
        """Return where the current state of the user is, None if there is none."""
        return self.directory.slot(user)

    def query(self, users: Sequence[int], now_ms: int) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the vectors (B, D) of `users` at the time `now_ms`, and which of them have one."""
        vectors_BD = np.zeros((len(users), self.pool.shape.dim), np.float32)
        found = [(place, self.directory.slot(user)) for place, user in enumerate(users)]
        held = {place: slot for place, slot in found if slot is not None}
        slots = np.array(list(held.values()), np.int64)
        if held:
            before = self.pool.epoch_S[slots]
            now_B = np.full(len(slots), now_ms, np.int64)
            vectors_BD[list(held)] = ask(self.graphs, self.pool, slots, now_B)
            still = (self.pool.epoch_S[slots] == before) & (before % 2 == 0)
            self.pool.used_S[slots] = 1
            for place, unmoved in zip(list(held), still.tolist(), strict=True):
                if not unmoved or self.directory.slot(users[place]) != held[place]:
                    del held[place]
        self.hits += len(held)
        self.lost.update(user for place, user in enumerate(users) if place not in held)
        return vectors_BD, [place in held for place in range(len(users))]

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history that is not stored; None if nothing is known."""
        vectors, filled = self._encoder([history], np.array([now_ms]))
        return vectors[0] if filled[0] else None
