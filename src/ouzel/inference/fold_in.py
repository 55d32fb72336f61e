"""User vectors made of the history at each request: a ridge regression, or a sum.

Of a factor model it is a ridge regression (`FoldIn`). With item factors V that stay as they are,
the vector of a history of distinct rows i = 1..m with weights w_i solves

    (sum_i w_i v_i v_i^T + base + l2 (sum_i w_i + offset)^power I) u = sum_i w_i v_i,

which is the least-squares solve of one user that training does as well. `base` is what the items
that were not seen say: the Gram matrix of all items times their weight. Of a model that reads the
newest event that is the first part of the vector, and a vector of that event the second.

Cost: m D^2 + D^3 / 3 multiply-adds; 0.3 ms for D = 64, 0.8 ms for D = 128 and m = 150, on one core.

Of a model of the graph it is the sum of inputs x_i, sum_i w_i x_i / sqrt(sum_i w_i)
(`SumOfInputs`).

References:
    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.

Shape legend: N = catalogue rows, D = dim, H = size of the second part, m = distinct known rows of a
history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.features.recency import weighted_rows

_TENSORS = ("base", "ridge", "fade")


class FoldIn:
    """Makes vectors of histories; whatever happens to a history is in its next vector.

    `vectors_ND` are those of the items, `ridge` (3,) are `l2`, `offset` and `power`, and `base_DD`
    is (D - H, D - H) if there is `after_NH`, the second parts.

    >>> fold_in = FoldIn(np.eye(3, 2, -1), np.zeros((2, 2)), np.array([1.0, 0, 1]), 1.0)
    >>> fold_in.vector(np.array([1], np.int32))
    array([0.5, 0. ], dtype=float32)
    """

    def __init__(
        self,
        vectors_ND: NDArray[np.floating],
        base_DD: NDArray[np.floating],
        ridge: NDArray[np.floating],
        fade: float,
        after_NH: NDArray[np.floating] | None = None,
    ) -> None:
        self.dim = vectors_ND.shape[1]
        self._vectors_ND = vectors_ND
        self._base_DD = base_DD.astype(np.float64)
        self._l2, self._offset, self._power = (float(part) for part in ridge)
        self._fade = fade
        self._after_NH = after_NH

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
        base, ridge, fade = (tensors[name] for name in _TENSORS)
        after = tensors.get("after")
        dim = vectors_ND.shape[1] - (0 if after is None else after.shape[-1])
        fits = after is None or after.shape == (len(vectors_ND), vectors_ND.shape[1] - dim)
        if not fits or (base.shape, ridge.shape, fade.shape) != ((dim, dim), (3,), (1,)):
            raise ValueError(
                "the tensors of the fold-in do not fit each other: the file is damaged"
            )
        return cls(vectors_ND, base, ridge, float(fade[0]), after)

    def vector(self, rows_n: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history, oldest first; None if nothing in it is known."""
        rows, weights = weighted_rows(rows_n, num_rows=len(self._vectors_ND), fade=self._fade)
        if not len(rows):
            return None
        vectors = self._vectors_ND[rows, : len(self._base_DD)].astype(np.float64)
        weighted = vectors * weights[:, None]
        left = weighted.T @ vectors + self._base_DD
        left[np.diag_indices_from(left)] += self._l2 * (weights.sum() + self._offset) ** self._power
        vector: NDArray[np.float32] = np.linalg.solve(left, weighted.sum(axis=0)).astype(np.float32)
        if self._after_NH is not None:
            vector = np.concatenate([vector, self._after_NH[rows[0]]], dtype=np.float32)
        return vector

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history; `now_ms` is for models that know of time."""
        return self.vector(history.rows)


class SumOfInputs:
    """Makes vectors of histories by adding up `inputs_ND`; a row of zeros is one not known."""

    def __init__(self, inputs_ND: NDArray[np.float32], fade: float) -> None:
        self.dim = inputs_ND.shape[1]
        self._inputs_ND = inputs_ND
        self._fade = fade

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[Any]], vectors_ND: NDArray[np.floating]
    ) -> Self:
        """Return what a Bundle describes, over its item vectors.

        Raises:
            ValueError: a tensor is missing or does not fit the others.
        """
        if "fade" not in tensors:
            raise ValueError("tensor 'fade' is missing: the file is damaged")
        inputs, fade = tensors["inputs"], tensors["fade"]
        if (inputs.shape, fade.shape) != (vectors_ND.shape, (1,)):
            raise ValueError(
                "the tensors of the fold-in do not fit each other: the file is damaged"
            )
        return cls(inputs, float(fade[0]))

    def vector(self, rows_n: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history, oldest first; None if nothing in it is known."""
        rows, weights = weighted_rows(rows_n, num_rows=len(self._inputs_ND), fade=self._fade)
        inputs = self._inputs_ND[rows]
        if not inputs.any():
            return None
        vector = weights @ inputs / np.sqrt(weights.sum())
        return np.asarray(vector, np.float32)

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history; `now_ms` is for models that know of time."""
        return self.vector(history.rows)
