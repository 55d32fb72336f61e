"""States made anew beside the pool: the longest step on the way to an answer, in another thread.

A rebuild works in a scratch pool of its own, so that the loop which owns the real one goes on
answering. What happened meanwhile is settled when it comes back (`UserStates.end_rebuild`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ouzel.events.interactions import History
from ouzel.inference.encoding import encode_into
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes


@dataclass(frozen=True)
class Rebuild:
    """The known events of a few users, one history each, and the states made of them."""

    graphs: Graphs
    users: list[int]
    histories: list[History]
    scratch: StatePool = field(init=False)

    def __post_init__(self) -> None:
        size = max(1, len(self.users)) * slot_bytes(self.graphs.shape)
        object.__setattr__(self, "scratch", StatePool(self.graphs.shape, max_bytes=size))

    def encode(self) -> None:
        """Make the states; user i's is in slot i of `scratch` afterwards."""
        for slot, history in enumerate(self.histories):
            # One by one: histories of unlike lengths would pad each other.
            encode_into(self.graphs, self.scratch, [slot], [history])


def later_events(before: History, now: History) -> History | None:
    """Return what `now` has after all of `before`; None if it does not begin with it.

    >>> one = History(np.array([7], np.int32), np.array([10]))
    >>> two = History(np.array([7, 8], np.int32), np.array([10, 20]))
    >>> later_events(one, two).rows.tolist(), later_events(two, one)
    ([8], None)
    """
    known = len(before)
    begins = len(now) >= known and (
        np.array_equal(now.rows[:known], before.rows)
        and np.array_equal(now.times_ms[:known], before.times_ms)
    )
    return History(now.rows[known:], now.times_ms[known:]) if begins else None
