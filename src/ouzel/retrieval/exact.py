"""Exact search: every inner product is computed. The reference for every other index.

Cost: a query reads all N x D floats once; a batch shares that reading.
Shape legend: B = queries, N = rows, K = results, D = dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Hidden, check_search, check_vectors
from ouzel.retrieval.topk import top_k

BLOCK_SCORES = 1 << 22
"""Scores held at once: 16 MiB, however many queries are asked."""


class ExactIndex:
    """Item vectors in one array; keeps the `Engine` promise (see `ouzel.retrieval.index`).

    >>> index = ExactIndex(np.array([[9, 9], [1, 0], [0, 1]], np.float32))
    >>> rows, scores = index.search(np.array([[2, 1]], np.float32), 2)
    >>> rows.tolist(), scores.tolist()
    ([[1, 2]], [[2.0, 1.0]])
    """

    name: ClassVar[str] = "exact"
    effort_name: ClassVar[str] = ""

    def __init__(
        self,
        vectors_ND: NDArray[np.float32],
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        check_vectors(vectors_ND)
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        self.effort = 0
        self.recall = 1.0

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return "": it searches anything."""
        return ""

    def __len__(self) -> int:
        return max(0, len(self._vectors_ND) - 1)

    @property
    def vectors_ND(self) -> NDArray[np.float32]:
        """Return the vectors (N, D)."""
        return self._vectors_ND

    @property
    def most_effort(self) -> int:
        """Return 0: it always looks at everything."""
        return 0

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows (B, K) int32 and scores (B, K) float32, best first, ties by lower row.

        `hidden` marks rows that a query may not find either. Where fewer than k rows are left, the
        rest is row 0 with score -inf. Scores depend on the other queries of a batch by rounding
        only.

        Raises:
            ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
                `exclude` or `hidden` not one array per query.
        """
        check_search(queries_BD, k, exclude, dim=self._vectors_ND.shape[1], hidden=hidden)
        rows_BK = np.zeros((len(queries_BD), k), np.int32)
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        step = max(1, BLOCK_SCORES // max(1, len(self._vectors_ND)))
        for start in range(0, len(queries_BD), step):
            scores_bN = queries_BD[start : start + step] @ self._vectors_ND.T
            scores_bN[:, :1] = -np.inf
            for at, scores_N in enumerate(scores_bN, start):
                hidden_N = None if hidden is None else hidden[at]
                if hidden_N is not None:
                    scores_N[hidden_N[: len(scores_N)]] = -np.inf
                if exclude is not None:
                    scores_N[exclude[at][exclude[at] < len(scores_N)]] = -np.inf
                best = top_k(scores_N, k)
                rows_BK[at, : len(best)] = best
                scores_BK[at, : len(best)] = scores_N[best]
        return rows_BK, scores_BK

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row, None if there is no such row."""
        return self._vectors_ND[row] if 0 < row < len(self._vectors_ND) else None

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return nothing: the vectors are all there is."""
        return {}
