"""The best k of a row of scores, exactly and in one order wherever it is asked.

Shape legend: N = rows, K = results, G = members of a group, W = groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUP = 64
"""Scores per group of the first pass, which reads each score once and sorts only maxima."""


def top_k(scores_N: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions of the k largest scores, best first, ties by lower position.

    Scores of -inf are never among them, so fewer than k may come back.

    >>> top_k(np.array([0.5, 2.0, -np.inf, 2.0], np.float32), 3)
    array([1, 3, 0])
    """
    if k < 1:
        return np.empty(0, np.int64)
    # The kth best group maximum is at most the kth best score: no other group can matter.
    width = len(scores_N) // GROUP
    if 4 * k > width:
        return _select(scores_N, k)
    maxima_W = scores_N[: GROUP * width].reshape(GROUP, width).max(axis=0)
    groups = np.flatnonzero(maxima_W >= np.partition(maxima_W, width - k)[width - k])
    members = (np.arange(GROUP)[:, None] * width + groups).ravel()
    members = np.concatenate([members, np.arange(GROUP * width, len(scores_N))])
    return members[_select(scores_N[members], k)]


def _select(scores_N: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    mark = np.float32(-np.inf)
    if k < len(scores_N):
        mark = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    best = np.flatnonzero(scores_N >= mark)
    if len(best) > k:
        # Equal scores straddle the mark: all above it, then the lowest of those on it.
        above = best[scores_N[best] > mark]
        best = np.concatenate([above, best[scores_N[best] == mark][: k - len(above)]])
    best = best[scores_N[best] > -np.inf]
    return best[np.lexsort((best, -scores_N[best]))]
