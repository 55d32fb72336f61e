"""How hard an approximate index must look to find what exact search finds.

Shape legend: B = queries, K = results, D = dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Engine, Excluded, Search

MOST_CANDIDATES = 10_240
"""No tuning beyond: so many scattered rows cost milliseconds."""

HALVINGS = 3
"""The effort is at most an eighth too large."""

WORTHWHILE = 8
"""An index that scores more than one row in so many exactly is no faster than exact search."""


def most_candidates(num_rows: int) -> int:
    """Return how many rows of an index are worth scoring exactly.

    >>> most_candidates(8_000)
    1000
    """
    return min(MOST_CANDIDATES, num_rows // WORTHWHILE)


def recall_at(
    k: int,
    index: Search,
    queries_BD: NDArray[np.float32],
    expected_BK: NDArray[np.int32],
    *,
    exclude: Excluded | None = None,
) -> float:
    """Return the share of the best k of `expected_BK`, found exactly, that `index` finds too.

    `exclude` are the rows that were left out there as well. Where there are fewer than k, both fill
    up with row 0, which does not count.

    >>> from ouzel.retrieval.exact import ExactIndex
    >>> index = ExactIndex(np.eye(4, dtype=np.float32))
    >>> recall_at(2, index, np.array([[0, 3, 2, 1]], np.float32), np.array([[1, 3]], np.int32))
    0.5
    """
    found_BK, _ = index.search(queries_BD, k, exclude=exclude)
    expected_BK = expected_BK[:, :k]
    pairs = zip(found_BK, expected_BK, strict=True)
    shared = sum(np.isin(found, expected[expected > 0]).sum() for found, expected in pairs)
    return float(shared / max(1, np.count_nonzero(expected_BK)))


def tune(
    index: Engine,
    exact: Search,
    queries_BD: NDArray[np.float32],
    *,
    recall: float,
    k: int = 10,
    exclude: Excluded | None = None,
) -> None:
    """Double the effort of `index` until it has `recall`@k, if that can be reached, then halve the
    last step as often as `HALVINGS` says.

    `index.recall` is then what was measured: the share of what `exact` finds for the same queries,
    less the same rows, that `index` finds too.

    >>> from ouzel.retrieval.exact import ExactIndex
    >>> from ouzel.retrieval.faiss import ProductIndex
    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> index = ProductIndex(vectors_ND)
    >>> tune(index, ExactIndex(vectors_ND), vectors_ND[1:40], recall=0.99)
    >>> index.recall >= 0.99
    True
    """
    expected_BK, _ = exact.search(queries_BD, k, exclude=exclude)
    measured: dict[int, float] = {}

    def enough(effort: int) -> bool:
        index.effort = effort
        measured[effort] = recall_at(k, index, queries_BD, expected_BK, exclude=exclude)
        return measured[effort] >= recall

    low, high = 0, index.effort
    while not enough(high) and high < index.most_effort:
        low, high = high, min(max(1, 2 * high), index.most_effort)
    for _ in range(HALVINGS if low and measured[high] >= recall else 0):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    index.effort, index.recall = high, measured[high]
