"""Noted events on their way into states, computed in another thread than the one that owns these.

Nothing is locked. Whoever needs a state in the meantime appends to it what was noted, as ever, and
its `epoch` tells that what was computed here is of no use any more.

Shape legend: B = users, H = heads, E = head size, D = vector size, S = slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.inference.onnxruntime import Graphs

Array = NDArray[Any]

USERS_A_CALL = 32
"""Their rings fit in a core's cache together."""


@dataclass(frozen=True)
class Appending:
    """One event for each of some users, and what their states were when that was decided."""

    graphs: Graphs
    cache: Sequence[Array]
    users: list[int]
    slots_B: NDArray[np.int64]
    epoch_B: NDArray[np.uint64] = field(kw_only=True)
    length_B: NDArray[np.int64] = field(kw_only=True)
    row_B: NDArray[np.int64] = field(kw_only=True)
    time_B: NDArray[np.int64] = field(kw_only=True)

    def run(self) -> list[Array]:
        """Return what `Graphs.append` gives for all of them.

        >>> class Counting:
        ...     def append(self, *, row_B, **rest):
        ...         return [row_B + 1]
        >>> two = np.array([5, 6])
        >>> Appending(Counting(), [], [3, 4], two, epoch_B=two, length_B=two, row_B=two,
        ...           time_B=two).run()
        [array([6, 7])]
        """
        parts = [
            self._part(slice(start, start + USERS_A_CALL))
            for start in range(0, len(self.users), USERS_A_CALL)
        ]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _part(self, part: slice) -> list[Array]:
        return self.graphs.append(
            row_B=self.row_B[part],
            time_B=self.time_B[part],
            length_B=self.length_B[part],
            slot_B=self.slots_B[part],
            cache=self.cache,
        )
