"""Exact search: every inner product is computed. The reference for every other index.

Cost: a query reads all N x D floats once; a batch shares that reading.
Shape legend: B = queries, N = rows, K = results, D = dimensions, M = rows touched by a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Hidden, check_search, check_vectors
from ouzel.retrieval.topk import top_k

BLOCK_SCORES = 1 << 22
"""Scores held at once: 16 MiB, however many queries are asked."""


class ExactIndex:
    """Item vectors in one array; keeps the `Index` promise (see `ouzel.retrieval.index`).

    >>> index = ExactIndex(np.array([[9, 9], [1, 0], [0, 1]], np.float32))
    >>> rows, scores = index.search(np.array([[2, 1]], np.float32), 2)
    >>> rows.tolist(), scores.tolist()
    ([[1, 2]], [[2.0, 1.0]])
    """

    recall = 1.0

    def __init__(self, vectors_ND: NDArray[np.float32]) -> None:
        check_vectors(vectors_ND)
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        self._owned = False
        self._hide(np.arange(len(vectors_ND)) == 0)

    def _hide(self, hidden_N: NDArray[np.bool_]) -> None:
        self._hidden_N = hidden_N
        self._hidden_rows = np.flatnonzero(hidden_N)

    def __len__(self) -> int:
        return len(self._hidden_N) - len(self._hidden_rows)

    @property
    def dim(self) -> int:
        """Return D."""
        return int(self._vectors_ND.shape[1])

    def add(self, rows_M: NDArray[np.int32], vectors_MD: NDArray[np.float32]) -> None:
        """Put or replace the vectors of `rows_M`; rows between the old end and them stay hidden.

        Raises:
            ValueError: a row is 0 or negative, or the vectors do not fit rows and dimension.
        """
        check_vectors(vectors_MD)
        if vectors_MD.shape != (len(rows_M), self.dim):
            raise ValueError(
                f"vectors have shape {vectors_MD.shape}: give ({len(rows_M)}, {self.dim})"
            )
        if len(rows_M) == 0:
            return
        if rows_M.min() < 1:
            raise ValueError(f"row {rows_M.min()} cannot be added: item rows start at 1")
        missing = max(0, int(rows_M.max()) + 1 - len(self._hidden_N))
        if missing or not self._owned:
            # The first change copies: the array given may be a mapped file, or the caller's.
            self._vectors_ND = np.pad(self._vectors_ND, ((0, missing), (0, 0)))
            self._owned = True
        self._vectors_ND[rows_M] = vectors_MD
        hidden_N = np.pad(self._hidden_N, (0, missing), constant_values=True)
        hidden_N[rows_M] = False
        self._hide(hidden_N)

    def remove(self, rows_M: NDArray[np.int32]) -> None:
        """Make `rows_M` unfindable until they are added again.

        Raises:
            ValueError: a row was never part of the index.
        """
        outside = rows_M[(rows_M < 1) | (rows_M >= len(self._hidden_N))]
        if len(outside):
            raise ValueError(f"row {outside[0]} is not in the index of {len(self._hidden_N)} rows")
        hidden_N = self._hidden_N.copy()
        hidden_N[rows_M] = True
        self._hide(hidden_N)

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
        check_search(queries_BD, k, exclude, dim=self.dim, hidden=hidden)
        rows_BK = np.zeros((len(queries_BD), k), np.int32)
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        step = max(1, BLOCK_SCORES // max(1, len(self._vectors_ND)))
        for start in range(0, len(queries_BD), step):
            scores_bN = queries_BD[start : start + step] @ self._vectors_ND.T
            scores_bN[:, self._hidden_rows] = -np.inf
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
        """Return the vector (D,) of a row that can be found, None for others."""
        known = 0 < row < len(self._hidden_N) and not self._hidden_N[row]
        return self._vectors_ND[row] if known else None

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return `vectors` (N, D) float32 and `hidden` (N,) uint8: 1 where a row is not found."""
        return {"vectors": self._vectors_ND, "hidden": self._hidden_N.astype(np.uint8)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the index that `to_tensors` described; read-only arrays are taken as they are.

        Raises:
            ValueError: a tensor is missing, or lengths differ.
        """
        if missing := {"vectors", "hidden"} - set(tensors):
            raise ValueError(f"tensor {sorted(missing)[0]!r} is missing: the index is damaged")
        index = cls(np.asarray(tensors["vectors"], np.float32))
        hidden_N = tensors["hidden"].astype(np.bool_)
        if hidden_N.shape != index._hidden_N.shape or not hidden_N[:1].all():
            raise ValueError(f"tensor 'hidden' {hidden_N.shape} does not fit the vectors")
        index._hide(hidden_N)
        return index
