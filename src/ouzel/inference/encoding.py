"""Histories to vectors through the graphs: the full re-encode that states are checked against.

Shape legend: B = batch, D = vector size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes

ENCODE_BATCH = 16
"""Histories encoded in one call, which bounds the memory of a re-encode."""


def encode_into(
    graphs: Graphs, pool: StatePool, slots: Sequence[int], histories: Sequence[History]
) -> None:
    """Encode whole histories of known events and put the states into `slots` of `pool`.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> pool = StatePool(StateShape(1, 1, 2, 4), max_bytes=1000)
    >>> ring, last = np.zeros((1, 2, 1, 2), np.float32), np.ones((1, 2), np.float32)
    >>> graphs = SimpleNamespace(encode=lambda *_: [ring, ring, last], counts_from_start=True)
    >>> history = History(np.array([3, 4], np.int32), np.array([10, 20], np.int64))
    >>> encode_into(graphs, pool, [0], [history])
    >>> int(pool.length_S[0]), int(pool.last_time_S[0])
    (2, 20)
    """
    field = pool.shape.receptive_field
    counted = graphs.counts_from_start
    starts = [max(0, len(history) - field) if counted else 0 for history in histories]
    read = pad_histories([history.last(field) for history in histories])
    encoded = graphs.encode(read, np.array(starts, np.int64))
    for index, (slot, history) in enumerate(zip(slots, histories, strict=True)):
        pool.write(slot, encoded, index, history, start=starts[index])


def ask(
    graphs: Graphs, pool: StatePool, slots_B: NDArray[np.int64], now_B: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the vectors (B, D) of the states in `slots_B` at request times `now_B` in ms.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> pool = StatePool(StateShape(1, 1, 2, 4), max_bytes=1000)
    >>> graphs = SimpleNamespace(query=lambda *, last_SD, slot_B, **state: last_SD[slot_B])
    >>> ask(graphs, pool, np.array([0, 2]), np.array([20, 20])).shape
    (2, 2)
    """
    return graphs.query(
        now_B=now_B,
        length_B=pool.length_S[slots_B],
        slot_B=slots_B,
        last_SD=pool.last_SD,
        last_time_S=pool.last_time_S,
        cache=pool.cache,
    )


def known_events(graphs: Graphs, history: History) -> History:
    """Return the events of `history` on items that the Bundle of `graphs` knows.

    >>> from types import SimpleNamespace
    >>> history = History(np.array([3, 9], np.int32), np.array([10, 20], np.int64))
    >>> known_events(SimpleNamespace(num_rows=5), history).rows.tolist()
    [3]
    """
    known = (history.rows > 0) & (history.rows < graphs.num_rows)
    return history if known.all() else History(history.rows[known], history.times_ms[known])


class HistoryEncoder:
    """Encodes histories that are not stored, in scratch states of its own."""

    def __init__(self, graphs: Graphs, *, batch_size: int = ENCODE_BATCH) -> None:
        self._graphs = graphs
        self.scratch = StatePool(graphs.shape, max_bytes=batch_size * slot_bytes(graphs.shape))

    def __call__(
        self, histories: Sequence[History], now_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the vectors (B, D) of whole histories, and which of them have one.

        A history without known events has none: a row of zeros and False.
        """
        vectors_BD = np.zeros((len(histories), self.scratch.shape.dim), np.float32)
        known = [known_events(self._graphs, history) for history in histories]
        filled = np.array([len(history) > 0 for history in known], np.bool_)
        chosen = np.flatnonzero(filled)
        for start in range(0, len(chosen), self.scratch.num_slots):
            part = chosen[start : start + self.scratch.num_slots]
            slots = np.arange(len(part))
            encode_into(self._graphs, self.scratch, slots.tolist(), [known[i] for i in part])
            vectors_BD[part] = ask(self._graphs, self.scratch, slots, now_B[part])
        return vectors_BD, filled
