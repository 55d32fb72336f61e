"""How many rows an approximate index must score exactly to find what exact search finds."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Search

MOST_CANDIDATES = 10_240
"""No tuning beyond: exact search of a large catalogue costs about as much."""


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
    expected_BK, _ = exact.search(queries_BD, k, exclude=exclude)
    while True:
        found_BK, _ = index.search(queries_BD, k, exclude=exclude)
        pairs = zip(found_BK, expected_BK, strict=True)
        shared = sum(len(np.intersect1d(found, expected)) for found, expected in pairs)
        index.recall = shared / max(1, expected_BK.size)
        if index.recall >= recall or index.candidates >= MOST_CANDIDATES:
            return
        index.candidates *= 2
