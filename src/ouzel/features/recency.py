"""What a history says to a model without order: each row once, the newest events most.

Shape legend: n = events of a history, m = distinct known rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weighted_rows(
    rows_n: NDArray[np.int32], *, num_rows: int, fade: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the distinct known rows (m,) of a history, newest first, and the weight of each.

    The newest weighs 1, each one before it `fade` times as much as the one after. Rows outside 1
    to `num_rows` - 1 are passed over; a row counts once, where it was last.

    >>> rows, weights = weighted_rows(np.array([4, 2, 9, 4], np.int32), num_rows=5, fade=0.5)
    >>> rows.tolist(), weights.tolist()
    ([4, 2], [1.0, 0.5])
    """
    newest_first = rows_n[::-1]
    known = newest_first[(newest_first > 0) & (newest_first < num_rows)]
    _, firsts = np.unique(known, return_index=True)
    distinct = known[np.sort(firsts)]
    return distinct, fade ** np.arange(len(distinct), dtype=np.float64)


def fade_of(half_life: float | None) -> float:
    """Return the weight of an event relative to the one after it, halved every `half_life` events.

    None: all weigh the same.

    >>> fade_of(None), fade_of(1.0)
    (1.0, 0.5)
    """
    return 1.0 if half_life is None else float(0.5 ** (1 / half_life))
