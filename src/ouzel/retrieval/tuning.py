"""How many rows an approximate index must score exactly to find what exact search finds."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Search

MOST_CANDIDATES = 10_240
"""No tuning beyond: so many scattered rows cost milliseconds."""


WORTHWHILE = 8
"""An index that scores more than one row in so many exactly is no faster than exact search."""


class Approximate(Search, Protocol):
    """An index that finds `candidates` rows by codes, and scores those exactly."""

    candidates: int
    recall: float


def tune(
    index: Approximate,
    exact: Search,
    queries_BD: NDArray[np.float32],
    *,
    recall: float,
    k: int = 10,
    exclude: Excluded | None = None,
) -> None:
    """Double the candidates of `index` until it has `recall`@k, if that can be reached.

    `index.recall` is then what was measured: the share of what `exact` finds for the same queries,
    less the same rows, that `index` finds too.

    >>> from ouzel.retrieval.exact import ExactIndex
    >>> from ouzel.retrieval.faiss import FaissIndex
    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> index = FaissIndex(vectors_ND)
    >>> tune(index, ExactIndex(vectors_ND), vectors_ND[1:40], recall=0.99)
    >>> index.recall >= 0.99
    True
    """
    most = min(MOST_CANDIDATES, len(index) // WORTHWHILE)
    expected_BK, _ = exact.search(queries_BD, k, exclude=exclude)
    while True:
        found_BK, _ = index.search(queries_BD, k, exclude=exclude)
        pairs = zip(found_BK, expected_BK, strict=True)
        # Where there are fewer than k, both fill up with row 0.
        shared = sum(np.isin(found, expected[expected > 0]).sum() for found, expected in pairs)
        index.recall = float(shared / max(1, np.count_nonzero(expected_BK)))
        if index.recall >= recall or 2 * index.candidates > most:
            return
        index.candidates *= 2
