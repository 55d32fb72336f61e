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

from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.index import Excluded

CANDIDATES = 320
"""Rows that are scored exactly for a short list; `tuned` doubles it until recall is enough."""

MOST_CANDIDATES = 10_240


class FaissIndex:
    """Item vectors as product codes with exact refinement; searched, never changed.

    `recall` is the measured share of the exact best that is found, NaN until it is measured.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> index = FaissIndex.tuned(vectors_ND, vectors_ND[1:40], recall=0.99)
    >>> index.recall >= 0.99, len(index)
    (True, 1999)
    """

    def __init__(self, vectors_ND: NDArray[np.float32], *, candidates: int = CANDIDATES) -> None:
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        dim = self._vectors_ND.shape[1]
        if dim % 2:
            raise ValueError(f"vectors have {dim} dimensions: product codes take an even number")
        # Pools of several libraries in one process fight over the cores.
        faiss.omp_set_num_threads(1)
        self._codes = faiss.IndexPQFastScan(dim, dim, 4, faiss.METRIC_INNER_PRODUCT)
        self._codes.train(self._vectors_ND[1:])
        self._codes.add(self._vectors_ND)
        self._index = faiss.IndexRefineFlat(self._codes, faiss.swig_ptr(self._vectors_ND))
        self.candidates = candidates
        self.recall = float("nan")

    @classmethod
    def tuned(
        cls,
        vectors_ND: NDArray[np.float32],
        queries_BD: NDArray[np.float32],
        *,
        recall: float,
        k: int = 10,
    ) -> Self:
        """Return an index with candidates enough for `recall`@k on `queries_BD`, if they exist.

        Exact search of the same queries is the reference.
        """
        index = cls(vectors_ND)
        expected_BK, _ = ExactIndex(vectors_ND).search(queries_BD, k)
        while True:
            found_BK, _ = index.search(queries_BD, k)
            pairs = zip(found_BK, expected_BK, strict=True)
            shared = sum(len(np.intersect1d(found, expected)) for found, expected in pairs)
            index.recall = shared / max(1, expected_BK.size)
            if index.recall >= recall or index.candidates >= MOST_CANDIDATES:
                return index
            index.candidates *= 2

    def __len__(self) -> int:
        return len(self._vectors_ND) - 1

    def search(
        self, queries_BD: NDArray[np.float32], k: int, *, exclude: Excluded | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows (B, K) int32 and exact scores (B, K) float32, best first.

        The scan looks for as many more candidates as are excluded. Where fewer than k are found,
        the rest is row 0 with score -inf.

        Raises:
            ValueError: `k` < 1, a query of another dimension, or a query that is not finite.
        """
        if k < 1 or queries_BD.ndim != 2 or queries_BD.shape[1] != self._vectors_ND.shape[1]:
            raise ValueError(
                f"k {k} and queries of shape {queries_BD.shape}: ask for at least 1 result and "
                f"give (B, {self._vectors_ND.shape[1]})"
            )
        if not np.isfinite(queries_BD).all():
            raise ValueError("a query holds NaN or infinity: give finite vectors")
        # Row 0 and what is excluded may come back as well, and are dropped then.
        most = max((len(rows) for rows in exclude), default=0) if exclude is not None else 0
        wanted = min(len(self._vectors_ND), k + most + 1)
        width = faiss.IndexRefineSearchParameters()
        width.k_factor = max(1.0, (self.candidates + 4 * k + most) / wanted)
        queries_BD = np.ascontiguousarray(queries_BD, np.float32)
        scores_BW, found_BW = self._index.search(queries_BD, wanted, params=width)
        rows_BK = np.zeros((len(queries_BD), k), np.int32)
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        for at, found_W in enumerate(found_BW):
            allowed_W = found_W > 0
            if exclude is not None and len(exclude[at]):
                allowed_W &= ~_among(found_W, exclude[at])
            best = np.flatnonzero(allowed_W)[:k]
            rows_BK[at, : len(best)] = found_W[best]
            scores_BK[at, : len(best)] = scores_BW[at, best]
        return rows_BK, scores_BK


def _among(rows_W: NDArray[np.int64], excluded: NDArray[np.int32]) -> NDArray[np.bool_]:
    known = np.sort(excluded)
    places = np.minimum(np.searchsorted(known, rows_W), len(known) - 1)
    return np.asarray(known[places] == rows_W)
