"""FAISS: five ways to find candidates, then the exact scores of those found.

`flat` computes every inner product. `sq8` does so on codes of 8 bits a dimension, `pq` on codes of
4 bits, scanned in registers: an eighth of the bytes of float32, at a cost that hardly depends on
the batch. `ivf_sq8` reads the 8-bit codes of the nearest lists alone, `hnsw` walks a graph of
neighbours. What is approximate is which rows are found, never their scores or order.

References:
    Andre et al., "Quicker ADC: Unlocking the Hidden Potential of Product Quantization with SIMD",
    TPAMI 2021. Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
    Hierarchical Navigable Small World graphs", TPAMI 2020. Douze et al., "The Faiss library", 2024.

Shape legend: N = rows with the padding row 0, D = dimensions, B = queries, K = results,
W = rows that come back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.index import Excluded, Found, Hidden, check_search, check_vectors
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.tuning import most_candidates
from ouzel.retrieval.types import among, visible

_NONE: NDArray[np.int32] = np.empty(0, np.int32)

SPARE = 4
"""At least this many times as many rows are scored as are asked for."""

FEW_SHOWN = 0.05
"""Where fewer rows than this share are to be seen, they are scored without the codes."""

POINTS_A_CENTRE = 39
"""FAISS warns of codes that were learned from fewer vectors for each of their values."""

ROUNDS = 10
"""Of k-means."""

PRODUCT_VALUES = 16
LISTS_A_ROOT = 2
"""Inverted lists for each unit of the square root of N."""

LINKS = 32
BUILD_BEAM = 80
MOST_BEAM = 4096


@cache
def _library() -> Any:
    """Return the library, loaded when it is first asked for: a server that scans does without."""
    import faiss

    return faiss


class FaissIndex(ABC):
    """Item vectors beside what FAISS makes of them; keeps the `Engine` promise.

    `recall` is the measured share of the exact best that is found, NaN until it is measured.
    """

    name: ClassVar[str]
    effort_name: ClassVar[str] = "candidates"
    first_effort: ClassVar[int] = 32

    def __init__(
        self,
        vectors_ND: NDArray[np.float32],
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        check_vectors(vectors_ND)
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if reason := self.why_not(*self._vectors_ND.shape):
            raise ValueError(f"{reason}: take another engine")
        # Pools of several libraries in one process fight over the cores.
        _library().omp_set_num_threads(1)
        if tensors is None:
            self._codes = self._built(self._vectors_ND.shape[1])
            self._codes.train(self._vectors_ND[1:])
            self._codes.add(self._vectors_ND)
        else:
            self._codes = _kept(tensors, self._vectors_ND.shape)
        self.effort = self.first_effort
        self.recall = float("nan")

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return why it cannot search so many rows of so many dimensions, "" if it can."""
        return "" if num_rows > 1 else "there are no vectors to learn from"

    @abstractmethod
    def _built(self, dim: int) -> Any:
        """Return what FAISS makes for these dimensions, empty."""

    def _found(self, queries_BD: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        """Return the rows (B, W) that come back; -1 where there are no more."""
        _, found_BW = self._codes.search(queries_BD, width)
        return np.asarray(found_BW, np.int64)

    def _width(self, k: int) -> int:
        """Return how many rows to score exactly for a list of k."""
        return max(self.effort, SPARE * k)

    def __len__(self) -> int:
        return len(self._vectors_ND) - 1

    @property
    def vectors_ND(self) -> NDArray[np.float32]:
        """Return the vectors (N, D)."""
        return self._vectors_ND

    @property
    def most_effort(self) -> int:
        """Return the most rows worth scoring exactly."""
        return most_candidates(len(self))

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> Found:
        """Return rows (B, K) int32 and exact scores (B, K) float32, best first.

        `exclude` has sorted rows, `hidden` masks (N,) rows that may not be found either. It looks
        for as many more candidates as are excluded, or likely to be hidden; where that does not
        find k, all that may be seen are scored. Where fewer than k are left, the rest is row 0 with
        score -inf.

        Raises:
            ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
                `exclude` or `hidden` not one array per query.
        """
        check_search(queries_BD, k, exclude, dim=self._vectors_ND.shape[1], hidden=hidden)
        queries_BD = np.ascontiguousarray(queries_BD, np.float32)
        banned = [_NONE] * len(queries_BD) if exclude is None else exclude
        masks: Hidden = [None] * len(queries_BD) if hidden is None else hidden
        # Padding and what is excluded may come back as well, and are dropped then.
        widths = [
            math.ceil((self._width(k) + len(rows) + 1) / _share(mask))
            for rows, mask in zip(banned, masks, strict=True)
        ]
        found_BW = self._found(queries_BD, min(len(self._vectors_ND), max(widths, default=1)))
        rows_BK = np.zeros((len(queries_BD), k), np.int32)
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        for at, (found_W, width) in enumerate(zip(found_BW, widths, strict=True)):
            mask = masks[at]
            # No more than this query would have got alone: answers do not depend on company.
            shown = found_W[:width]
            if mask is not None:
                shown = shown[visible(shown, mask)]
            rows, scores = self._refined(queries_BD[at], shown, banned[at], k)
            looked_at = np.count_nonzero(found_W[:width] >= 0)
            if len(rows) < k and looked_at < len(self._vectors_ND):
                # What is hidden, or where it looked, is what is nearest: all the rest is scored.
                shown = np.arange(len(self._vectors_ND), dtype=np.int64)
                if mask is not None:
                    shown = np.flatnonzero(~mask[: len(self._vectors_ND)])
                rows, scores = self._refined(queries_BD[at], shown, banned[at], k)
            rows_BK[at, : len(rows)] = rows
            scores_BK[at, : len(rows)] = scores
        return rows_BK, scores_BK

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row, None if there is no such row."""
        return self._vectors_ND[row] if 0 < row < len(self._vectors_ND) else None

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return `codes`: the bytes that FAISS stores."""
        return {"codes": _library().serialize_index(self._codes)}

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


class FlatIndex(FaissIndex):
    """Every inner product.

    >>> FlatIndex(np.eye(4, dtype=np.float32)).search(np.array([[0, 1, 3, 2]], np.float32), 2)[0]
    array([[2, 3]], dtype=int32)
    """

    name = "flat"
    effort_name = ""
    first_effort = 0

    @property
    def most_effort(self) -> int:
        """Return 0: it always looks at everything."""
        return 0

    def _built(self, dim: int) -> Any:
        return _library().IndexFlatIP(dim)


class ScalarIndex(FaissIndex):
    """Every inner product of codes of 8 bits a dimension.

    >>> ScalarIndex(np.eye(4, dtype=np.float32)).search(np.array([[0, 1, 3, 2]], np.float32), 2)[0]
    array([[2, 3]], dtype=int32)
    """

    name = "sq8"

    def _built(self, dim: int) -> Any:
        kind = _library().ScalarQuantizer.QT_8bit
        return _library().IndexScalarQuantizer(dim, kind, _library().METRIC_INNER_PRODUCT)


class ListsIndex(FaissIndex):
    """The 8-bit codes of the lists whose centres are nearest: `effort` is how many are read.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> index = ListsIndex(vectors_ND)
    >>> index.effort_name, index.effort, index.most_effort
    ('probes', 4, 51)
    """

    name = "ivf_sq8"
    effort_name = "probes"
    first_effort = 4

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return that there are too few vectors to make lists of, "" if there are enough."""
        return _too_few(num_rows, 2)

    @property
    def most_effort(self) -> int:
        """Return the number of lists."""
        return int(self._codes.nlist)

    def _width(self, k: int) -> int:
        return SPARE * k

    def _built(self, dim: int) -> Any:
        count = len(self._vectors_ND) - 1
        lists = 2 ** round(math.log2(LISTS_A_ROOT * math.sqrt(count)))
        codes = _library().IndexIVFScalarQuantizer(
            _library().IndexFlatIP(dim),
            dim,
            max(2, min(lists, count // POINTS_A_CENTRE)),
            _library().ScalarQuantizer.QT_8bit,
            _library().METRIC_INNER_PRODUCT,
        )
        codes.cp.min_points_per_centroid = POINTS_A_CENTRE
        codes.cp.max_points_per_centroid = 2 * POINTS_A_CENTRE
        return codes

    def _found(self, queries_BD: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        chosen = _library().SearchParametersIVF(nprobe=min(self.effort, self.most_effort))
        _, found_BW = self._codes.search(queries_BD, width, params=chosen)
        return np.asarray(found_BW, np.int64)


class ProductIndex(FaissIndex):
    """Codes of 4 bits a dimension, each one of 16 values.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> rows_BK, scores_BK = ProductIndex(vectors_ND).search(vectors_ND[:5], 3)
    >>> np.allclose(scores_BK[4], vectors_ND[rows_BK[4]] @ vectors_ND[4])
    True
    """

    name = "pq"
    first_effort = 128

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return that dimensions are odd, or vectors too few to learn 16 values from; else ""."""
        if dim % 2:
            return f"vectors have {dim} dimensions, and product codes take an even number"
        return _too_few(num_rows, PRODUCT_VALUES)

    def _built(self, dim: int) -> Any:
        return _library().IndexPQFastScan(dim, dim, 4, _library().METRIC_INNER_PRODUCT)


class GraphIndex(FaissIndex):
    """A graph of near neighbours over 8-bit codes: `effort` is how many rows a walk keeps in view.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> GraphIndex(vectors_ND).search(3 * vectors_ND[7:8], 1)[0].shape
    (1, 1)
    """

    name = "hnsw"
    effort_name = "beam"
    first_effort = 64

    @property
    def most_effort(self) -> int:
        """Return a beam that is wide enough to visit a good part of the rows."""
        return min(MOST_BEAM, most_candidates(len(self)))

    def _built(self, dim: int) -> Any:
        kind = _library().ScalarQuantizer.QT_8bit
        codes = _library().IndexHNSWSQ(dim, kind, LINKS, _library().METRIC_INNER_PRODUCT)
        codes.hnsw.efConstruction = BUILD_BEAM
        return codes

    def _found(self, queries_BD: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        chosen = _library().SearchParametersHNSW(efSearch=max(self.effort, width))
        _, found_BW = self._codes.search(queries_BD, width, params=chosen)
        return np.asarray(found_BW, np.int64)


def centres_of(vectors_ND: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the means (count, D) that k-means finds in a sample of vectors, always the same.

    >>> corners = np.repeat(np.array([[9, 0], [0, 9]], np.float32), 50, axis=0)
    >>> sorted(centres_of(corners, 2).round().tolist())
    [[0.0, 9.0], [9.0, 0.0]]
    """
    _library().omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    most = min(len(vectors_ND), count * POINTS_A_CENTRE)
    sample = np.sort(rng.choice(len(vectors_ND), most, replace=False))
    means = _library().Kmeans(
        vectors_ND.shape[1], count, niter=ROUNDS, seed=1, min_points_per_centroid=1
    )
    means.train(np.ascontiguousarray(vectors_ND[sample]))
    return np.asarray(means.centroids, np.float32)


def _too_few(num_rows: int, centres: int) -> str:
    enough = centres * POINTS_A_CENTRE
    return "" if num_rows > enough else f"there are {num_rows - 1} vectors and {enough} are needed"


def _kept(tensors: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]) -> Any:
    """Return what FAISS stored in tensors, if it was made for vectors of this shape."""
    try:
        codes = _library().deserialize_index(np.array(tensors["codes"], np.uint8))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"tensor 'codes' is missing or damaged: build it anew ({error})") from None
    if (codes.ntotal, codes.d) != shape:
        raise ValueError(f"the codes are of {codes.ntotal} vectors, not {shape[0]}: build it anew")
    return codes


def _share(hidden_N: NDArray[np.bool_] | None) -> float:
    """Return the share of rows to be seen; 1 where they are so few that the scan is no use."""
    share = 1.0 if hidden_N is None else 1 - float(hidden_N.mean())
    return share if share > FEW_SHOWN else 1.0
