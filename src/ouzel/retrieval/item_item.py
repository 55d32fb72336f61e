"""Weights from item to item: what a history speaks for is found by adding up a few sparse rows.

Cost: `keep` additions for each distinct item of the history, and N numbers to add them up in;
nothing about a user is stored.
Shape legend: N = catalogue rows, W = weights of all rows, V = weights of the rows of a history, T =
rows that these speak of, K = candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.recency import weighted_rows
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.types import among, visible

_TENSORS = ("offsets", "rows", "values", "fade")


class ItemItem:
    """Row i gives `values_W[offsets_N1[i]:offsets_N1[i + 1]]` to the rows there.

    An event weighs `fade` times as much as the one after it.

    >>> item_item = ItemItem(np.array([0, 0, 1, 2]), np.array([2, 1]), np.array([0.5, 0.25]), 1.0)
    >>> item_item.scores(np.array([1], np.int32))
    array([-inf, -inf,  0.5], dtype=float32)
    """

    def __init__(
        self,
        offsets_N1: NDArray[np.integer],
        rows_W: NDArray[np.integer],
        values_W: NDArray[np.floating],
        fade: float,
    ) -> None:
        self._offsets_N1 = offsets_N1
        self._rows_W = rows_W
        self._values_W = values_W
        self._fade = fade

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Return what a Bundle describes.

        Raises:
            ValueError: a tensor is missing, or they do not fit each other.
        """
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ValueError(f"tensor {missing[0]!r} is missing: the file is damaged")
        offsets, rows, values, fade = (tensors[name] for name in _TENSORS)
        fits = len(rows) == len(values) == offsets[-1] and fade.shape == (1,)
        if not fits or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError("tensor 'offsets' does not fit the tensor 'rows': the file is damaged")
        if len(rows) and not (rows.min() > 0 and rows.max() < len(offsets) - 1):
            raise ValueError("tensor 'rows' reaches outside the catalogue: the file is damaged")
        return cls(offsets, rows, values, float(fade[0]))

    @property
    def num_rows(self) -> int:
        """Return N."""
        return len(self._offsets_N1) - 1

    def scores(self, rows_n: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the score (N,) of every row for a history; -inf where nothing speaks of it."""
        rows_T, scores_T = self._told(rows_n)
        scores_N = np.full(self.num_rows, -np.inf, np.float32)
        scores_N[rows_T] = scores_T
        return scores_N

    def _told(self, rows_n: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows (T,), sorted, that the history speaks of, and their scores (T,)."""
        rows, weights = weighted_rows(rows_n, num_rows=self.num_rows, fade=self._fade)
        starts = self._offsets_N1[rows]
        lengths = self._offsets_N1[rows + 1] - starts
        before = np.cumsum(lengths) - lengths
        places_V = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
        found_V = self._rows_W[places_V]
        given_V = self._values_W[places_V] * np.repeat(weights, lengths)
        told_N = np.zeros(self.num_rows, np.bool_)
        told_N[found_V] = True
        rows_T = np.flatnonzero(told_N)
        sums_N = np.bincount(found_V, given_V, minlength=self.num_rows)
        return rows_T, sums_N[rows_T].astype(np.float32)

    def search(
        self,
        rows_n: NDArray[np.int32],
        k: int,
        *,
        forbidden: NDArray[np.int32],
        hidden: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return up to `k` rows and their scores for a history, best first, ties by lower row.

        None of them is `forbidden`, sorted rows, or `hidden`, a mask as in `Query`.
        """
        rows_T, scores_T = self._told(rows_n)
        allowed_T = ~among(rows_T, forbidden)
        if hidden is not None:
            allowed_T &= visible(rows_T, hidden)
        rows_T, scores_T = rows_T[allowed_T], scores_T[allowed_T]
        best_K = top_k(scores_T, k)
        return rows_T[best_K], scores_T[best_K]
