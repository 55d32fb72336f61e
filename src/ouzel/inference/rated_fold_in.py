"""User vectors of a model of ratings, made of the ratings so far at each request.

The model is an average over draws s = 1..S of all that it consists of. Given draw s, the vector of
a user who rated the items i = 1..m with v_i is normal around the solution u_s of

    (a_s sum_i f_si f_si^T + L_s) u_s = a_s sum_i f_si (v_i - c_si) / w + L_s (m_s + x Y_s)

with f_si what a user is multiplied with, c_si what an item gets from anybody, m_s and L_s the mean
and precision of all users, a_s that of a rating, w the deviation of all ratings, and x Y_s what the
items add by having been rated at all (SVD++): the mean over their rows of Y_s times the root of m.
The vector of a request is all w u_s, 1 one behind the other, divided by S: its inner product with
an item's vector is the mean of what the draws predict.

The newest rating of an item counts. An event without a value, such as a click, counts as a rating
of `implied`, unless the item was rated before or after; so every event is in the next answer.

Cost: S (m K^2 + K^3 / 3) multiply-adds; 0.8 ms for S = 20, K = 17 and m = 150, on one core.

References:
    Salakhutdinov and Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain Monte
    Carlo", ICML 2008.

Shape legend: N = catalogue rows, S = draws, K = size of a user's vector in one draw, D = S (K + 1),
n = events of a history, m = distinct known rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History

_TENSORS = ("means", "precisions", "noise", "values")


class RatedFoldIn:
    """Makes vectors of rated histories; whatever happens to a history is in its next vector.

    `vectors_ND` are those of the items; `values` (2,) are w and `implied`.

    >>> fold_in = RatedFoldIn(
    ...     np.array([[0, 0], [1, 3]]),
    ...     means_SK=np.zeros((1, 1)), precisions_SKK=np.ones((1, 1, 1)),
    ...     noise_S=np.ones(1), values=np.array([1.0, 4.0]), partners_NSK=None)
    >>> rated = History(np.array([1], np.int32), np.array([10]), np.array([5], np.float32))
    >>> fold_in.query_session(rated, now_ms=20) @ np.array([1, 3])
    np.float64(4.0)
    """

    def __init__(
        self,
        vectors_ND: NDArray[np.floating],
        *,
        means_SK: NDArray[np.floating],
        precisions_SKK: NDArray[np.floating],
        noise_S: NDArray[np.floating],
        values: NDArray[np.floating],
        partners_NSK: NDArray[np.floating] | None,
    ) -> None:
        self.dim = vectors_ND.shape[1]
        self._parts_NSW = vectors_ND.reshape(len(vectors_ND), len(noise_S), -1)
        self._means_SK = means_SK.astype(np.float64)
        self._precisions_SKK = precisions_SKK.astype(np.float64)
        self._noise_S = noise_S.astype(np.float64)
        self._scale, self._implied = (float(value) for value in values)
        self._partners_NSK = partners_NSK

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[Any]], vectors_ND: NDArray[np.floating]
    ) -> Self:
        """Return what a Bundle describes, over its item vectors.

        Raises:
            ValueError: a tensor is missing or does not fit the others.
        """
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ValueError(f"tensor {missing[0]!r} is missing: the file is damaged")
        means, precisions, noise, values = (tensors[name] for name in _TENSORS)
        partners = tensors.get("partners")
        num_rows, dim = vectors_ND.shape
        fits = means.ndim == 2 and noise.shape == means.shape[:1] and values.shape == (2,)
        fits = fits and precisions.shape == (*means.shape, means.shape[1])
        fits = fits and dim == means.size + len(means)
        if not fits or (partners is not None and partners.shape != (num_rows, means.size)):
            raise ValueError(
                "the tensors of the fold-in do not fit each other: the file is damaged"
            )
        return cls(
            vectors_ND,
            means_SK=means,
            precisions_SKK=precisions,
            noise_S=noise,
            values=values,
            partners_NSK=None if partners is None else partners.reshape(num_rows, *means.shape),
        )

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history, None if nothing in it is known.

        `now_ms` is for models that know of time.
        """
        rows, values = self._rated(history)
        return self._vector(rows, values) if len(rows) else None

    def stranger(self) -> NDArray[np.float32]:
        """Return the vector (D,) of somebody who has rated nothing yet."""
        return self._vector(np.zeros(0, np.int32), np.zeros(0))

    def _rated(self, history: History) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the distinct known rows (m,), ascending, and the newest value of each."""
        values_n = history.values
        if values_n is None:
            values_n = np.full(len(history), np.nan, np.float32)
        known_n = (history.rows > 0) & (history.rows < len(self._parts_NSW))
        rows, values = history.rows[known_n], values_n[known_n].astype(np.float64)
        rated = ~np.isnan(values)
        # Behind the others in the order of looking: what has no value gives way to what has.
        order = np.concatenate([np.flatnonzero(rated)[::-1], np.flatnonzero(~rated)[::-1]])
        distinct, firsts = np.unique(rows[order], return_index=True)
        values = values[order][firsts]
        return distinct, np.where(np.isnan(values), self._implied, values)

    def _vector(
        self, rows_m: NDArray[np.int32], values_m: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        parts_SmW = self._parts_NSW[rows_m].astype(np.float64).transpose(1, 0, 2)
        features_SmK, base_Sm = parts_SmW[:, :, :-1], parts_SmW[:, :, -1]
        targets_Sm = (values_m - base_Sm) / self._scale
        weighted_SKm = self._noise_S[:, None, None] * features_SmK.transpose(0, 2, 1)
        left_SKK = weighted_SKm @ features_SmK + self._precisions_SKK
        means_SK = self._means_SK
        if self._partners_NSK is not None and len(rows_m):
            sums_SK = self._partners_NSK[rows_m].sum(axis=0, dtype=np.float64)
            means_SK = means_SK + sums_SK / len(rows_m) ** 0.5
        right_SK1 = weighted_SKm @ targets_Sm[:, :, None]
        right_SK1 += self._precisions_SKK @ means_SK[:, :, None]
        solved_SK = np.linalg.solve(left_SKK, right_SK1)[:, :, 0]
        ones_S1 = np.ones((len(solved_SK), 1))
        vector_SW = np.concatenate([self._scale * solved_SK, ones_S1], axis=1)
        return (vector_SW.ravel() / len(solved_SK)).astype(np.float32)
