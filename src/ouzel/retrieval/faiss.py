"""FAISS: product codes scanned in registers, then the exact scores of the best few hundred.

Each dimension becomes one of 16 values (4 bits), so a scan reads an eighth of the bytes of float32
and its cost hardly depends on the batch. The candidates it finds are scored exactly, so what is
approximate is which items are found, never their scores or order.

References:
    Andre et al., "Quicker ADC: Unlocking the Hidden Potential of Product Quantization with SIMD",
    TPAMI 2021. Douze et al., "The Faiss library", 2024.

Shape legend: N = rows with the padding row 0, D = dimensions, B = queries, K = results,
W = rows that come back.
"""

from __future__ import annotations

import math

import faiss
import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Hidden, check_search
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.types import among, visible

_NONE: NDArray[np.int32] = np.empty(0, np.int32)

CANDIDATES = 128
"""Rows that are scored exactly for a short list; tuning doubles it until recall is enough."""

SPARE = 4
"""At least this many times as many rows are scored as are asked for."""


FEW_SHOWN = 0.05
"""Where fewer rows than this share are to be seen, they are scored without the codes."""


class FaissIndex:
    """Item vectors as product codes with exact refinement; searched, never changed.

    `recall` is the measured share of the exact best that is found, NaN until it is measured.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> rows_BK, scores_BK = FaissIndex(vectors_ND).search(vectors_ND[:5], 3)
    >>> np.allclose(scores_BK[4], vectors_ND[rows_BK[4]] @ vectors_ND[4])
    True
    """

    def __init__(self, vectors_ND: NDArray[np.float32]) -> None:
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        dim = self._vectors_ND.shape[1]
        if dim % 2:
            raise ValueError(f"vectors have {dim} dimensions: product codes take an even number")
        # Pools of several libraries in one process fight over the cores.
        faiss.omp_set_num_threads(1)
        self._codes = faiss.IndexPQFastScan(dim, dim, 4, faiss.METRIC_INNER_PRODUCT)
        self._codes.train(self._vectors_ND[1:])
        self._codes.add(self._vectors_ND)
        self.candidates = CANDIDATES
        self.recall = float("nan")

    def __len__(self) -> int:
        return len(self._vectors_ND) - 1

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows (B, K) int32 and exact scores (B, K) float32, best first.

        `exclude` has sorted rows, `hidden` masks (N,) rows that may not be found either. The scan
        looks for as many more candidates as are excluded, or likely to be hidden; where that does
        not find k, all that may be seen are scored. Where fewer than k are found, the rest is row 0
        with score -inf.

        Raises:
            ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
                `exclude` or `hidden` not one array per query.
        """
        check_search(queries_BD, k, exclude, dim=self._vectors_ND.shape[1], hidden=hidden)
        queries_BD = np.ascontiguousarray(queries_BD, np.float32)
        banned = [_NONE] * len(queries_BD) if exclude is None else exclude
        # Padding and what is excluded may come back as well, and are dropped then.
        masks: Hidden = [None] * len(queries_BD) if hidden is None else hidden
        widths = [
            math.ceil((max(self.candidates, SPARE * k) + len(rows) + 1) / _share(mask))
            for rows, mask in zip(banned, masks, strict=True)
        ]
        most = min(len(self._vectors_ND), max(widths, default=1))
        _, found_BW = self._codes.search(queries_BD, most)
        rows_BK = np.zeros((len(queries_BD), k), np.int32)
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        for at, (found_W, width) in enumerate(zip(found_BW, widths, strict=True)):
            # No more than this query would have got alone: answers do not depend on company.
            mask = masks[at]
            shown = (
                found_W[:width] if mask is None else found_W[:width][visible(found_W[:width], mask)]
            )
            rows, scores = self._refined(queries_BD[at], shown, banned[at], k)
            if mask is not None and len(rows) < k:
                # What is hidden is what is nearest: all that may be seen is scored.
                shown = np.flatnonzero(~mask[: len(self._vectors_ND)])
                rows, scores = self._refined(queries_BD[at], shown, banned[at], k)
            rows_BK[at, : len(rows)] = rows
            scores_BK[at, : len(rows)] = scores
        return rows_BK, scores_BK

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row, None if there is no such row."""
        return self._vectors_ND[row] if 0 < row < len(self._vectors_ND) else None

    def _refined(
        self,
        query_D: NDArray[np.float32],
        found_W: NDArray[np.int64],
        banned: NDArray[np.int32],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the exact best k of the rows found that are not banned, and their scores."""
        rows = np.sort(found_W)
        rows = rows[np.searchsorted(rows, 1) :]
        if len(banned):
            rows = rows[~among(rows, banned)]
        scores = self._vectors_ND.take(rows, axis=0) @ query_D
        best = top_k(scores, k)
        return rows[best], scores[best]


def _share(hidden_N: NDArray[np.bool_] | None) -> float:
    """Return the share of rows to be seen; 1 where they are so few that the scan is no use."""
    share = 1.0 if hidden_N is None else 1 - float(hidden_N.mean())
    return share if share > FEW_SHOWN else 1.0
