"""A state made beside the pool: the longest step on the way to an answer, in another process.

What happened meanwhile is settled when it comes back (`UserStates.end_rebuild`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ouzel.events.interactions import History
from ouzel.inference.encoding import encode_into
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import Array, StatePool, slot_bytes


class Workbench:
    """A state under way: what one process makes of a history, for another to take.

    Make it before the process that is to `encode` is forked: both see the same `made`, a pool of
    one slot.

    >>> from types import SimpleNamespace
    >>> from ouzel.inference.onnxruntime import StateShape
    >>> ring, last = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 2), np.float32)
    >>> graphs = SimpleNamespace(
    ...     shape=StateShape(1, 1, 2, 4), encode=lambda histories: [ring, ring, last]
    ... )
    >>> bench = Workbench(graphs)
    >>> bench.encode({"rows": np.array([3], np.int32), "times_ms": np.array([10], np.int64)})
    {}
    >>> bench.made.length_S.tolist(), bench.made.last_time_S.tolist()
    ([1], [10])
    """

    def __init__(self, graphs: Graphs) -> None:
        self.made = StatePool(graphs.shape, max_bytes=slot_bytes(graphs.shape), shared=True)
        self._graphs = graphs

    def encode(self, asked: Mapping[str, Array]) -> dict[str, Array]:
        """Make the state of a history of known events: `rows` (n,) int32, `times_ms` (n,) int64."""
        encode_into(self._graphs, self.made, [0], [History(asked["rows"], asked["times_ms"])])
        return {}


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
