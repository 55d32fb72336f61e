"""A state made or audited beside the pool: an encode, the longest step there is, elsewhere.

What happened meanwhile is settled when a state comes back (`UserStates.end_rebuild`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ouzel.events.interactions import History
from ouzel.inference.audit import Audit
from ouzel.inference.encoding import encode_into
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import Array, StatePool, slot_bytes


class Workbench:
    """Where states lie that one process makes or looks at for another.

    Make it before the process that is to `work` is forked: both see the same `made` and `stored`,
    pools of one slot.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> ring, last = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 2), np.float32)
    >>> graphs = SimpleNamespace(
    ...     shape=StateShape(1, 1, 2, 4), encode=lambda *_: [ring, ring, last],
    ...     counts_from_start=True,
    ... )
    >>> bench = Workbench(graphs)
    >>> bench.work({"rows": np.array([3], np.int32), "times_ms": np.array([10], np.int64)})
    {}
    >>> bench.made.length_S.tolist(), bench.made.last_time_S.tolist()
    ([1], [10])
    """

    def __init__(self, graphs: Graphs) -> None:
        size = slot_bytes(graphs.shape)
        self.made = StatePool(graphs.shape, max_bytes=size, shared=True)
        self.stored = StatePool(graphs.shape, max_bytes=size, shared=True)
        self._graphs = graphs

    def work(self, asked: Mapping[str, Array]) -> dict[str, Array]:
        """Make the state of a history of known events: `rows` (n,) int32, `times_ms` (n,) int64.

        With a `digest` (1,) uint64 what is returned is the `error` (1,) of the audit of the state
        in `stored`, which was made from events of that digest.
        """
        history = History(asked["rows"], asked["times_ms"])
        if "digest" in asked:
            audit = Audit(self._graphs, self.stored, int(asked["digest"][0]), history)
            return {"error": np.array([audit.error()])}
        encode_into(self._graphs, self.made, [0], [history])
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
