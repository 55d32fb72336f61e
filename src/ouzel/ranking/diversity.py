"""What the next item of a list is worth, given those chosen before it: scores against variety.

A list is filled place by place. An objective says what each candidate would gain the next place;
`weight` moves it from the scores (0) to variety alone (1). Variety is measured in the range of the
scores, so that a weight means the same whatever their scale.

Cost: a place takes one product of all K candidates with one vector (MMR), or with the factors of
the places before it (DPP).
Shape legend: K = candidates, D = dimensions of a vector, J = places filled so far.

References:
    Carbonell, Goldstein: The Use of MMR, Diversity-Based Reranking for Reordering Documents and
    Producing Summaries, SIGIR 1998.
    Chen, Zhang, Zhou: Fast Greedy MAP Inference for Determinantal Point Process to Improve
    Recommendation Diversity, NeurIPS 2018.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LEAST_VOLUME = 1e-6
"""Squared distance from all chosen items under which a candidate is no more than a copy."""


class Objective(Protocol):
    """What each candidate would gain the next place; higher is better."""

    def gains(self) -> NDArray[np.float64]:
        """Return the gain (K,) of each candidate, those chosen already as well."""
        ...

    def take(self, chosen: int) -> None:
        """Give the next place to a candidate."""
        ...


class Scores:
    """The scores alone: a place takes nothing from the next one.

    >>> Scores(np.array([2.0, 1.0])).gains()
    array([2., 1.])
    """

    def __init__(self, scores_K: NDArray[np.floating]) -> None:
        self._scores_K = scores_K.astype(np.float64)

    def gains(self) -> NDArray[np.float64]:
        """Return the scores (K,)."""
        return self._scores_K

    def take(self, chosen: int) -> None:
        """Give the next place to a candidate."""


class MarginalRelevance:
    """MMR: a candidate loses what it has in common, by cosine, with the nearest item chosen.

    >>> found = MarginalRelevance(np.array([3.0, 2.9, 2.0]), np.eye(2)[[0, 0, 1]], weight=0.5)
    >>> found.take(0)
    >>> int(found.gains()[1:].argmax()) + 1
    2
    """

    def __init__(
        self, scores_K: NDArray[np.floating], vectors_KD: NDArray[np.floating], *, weight: float
    ) -> None:
        self._scores_K = (1 - weight) * scores_K.astype(np.float64)
        self._scale = weight * score_range(scores_K)
        self._unit_KD = unit(vectors_KD)
        # A cosine of -1 is as far as two items can be apart; before the first, all are.
        self._nearest_K = np.full(len(scores_K), -1.0)

    def gains(self) -> NDArray[np.float64]:
        """Return the gain (K,) of each candidate."""
        return self._scores_K - self._scale * self._nearest_K

    def take(self, chosen: int) -> None:
        """Give the next place to a candidate."""
        np.maximum(self._nearest_K, self._unit_KD @ self._unit_KD[chosen], out=self._nearest_K)


class Determinant:
    """Greedy MAP of a determinantal point process: the volume that the vectors of a list span.

    The kernel is exp(s/2) cos exp(s/2) with the scores s weighed against it; a place is worth the
    logarithm by which it enlarges the determinant of the kernel of the list. The square roots of
    the diagonal and the rows of its Cholesky factor are carried from place to place.

    >>> found = Determinant(np.array([3.0, 2.9, 2.0]), np.eye(2)[[0, 0, 1]], weight=0.5)
    >>> found.take(0)
    >>> int(found.gains()[1:].argmax()) + 1
    2
    """

    def __init__(
        self, scores_K: NDArray[np.floating], vectors_KD: NDArray[np.floating], *, weight: float
    ) -> None:
        self._scores_K = (1 - weight) * scores_K.astype(np.float64)
        self._scale = weight * score_range(scores_K)
        self._unit_KD = unit(vectors_KD)
        self._left_K = np.ones(len(scores_K))
        self._factor_KJ = np.zeros((len(scores_K), 0))

    def gains(self) -> NDArray[np.float64]:
        """Return the gain (K,) of each candidate."""
        return self._scores_K + self._scale * np.log(np.maximum(self._left_K, LEAST_VOLUME))

    def take(self, chosen: int) -> None:
        """Give the next place to a candidate."""
        if self._left_K[chosen] < LEAST_VOLUME:
            return  # A copy spans nothing that is not spanned already.
        factor_J = self._factor_KJ[chosen]
        cosines_K = self._unit_KD @ self._unit_KD[chosen]
        column_K = (cosines_K - self._factor_KJ @ factor_J) / np.sqrt(self._left_K[chosen])
        self._factor_KJ = np.column_stack([self._factor_KJ, column_K])
        self._left_K = np.maximum(self._left_K - column_K**2, 0.0)


def score_range(scores_K: NDArray[np.floating]) -> float:
    """Return how far the scores are apart, 1 where they are all the same.

    >>> score_range(np.array([3.0, 5.5])), score_range(np.array([3.0]))
    (2.5, 1.0)
    """
    return float(np.ptp(scores_K)) or 1.0 if len(scores_K) else 1.0


def unit(vectors_KD: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return vectors of length 1; those without length stay 0, and are like none.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    lengths_K1 = np.linalg.norm(vectors_KD.astype(np.float64), axis=1, keepdims=True)
    return vectors_KD / np.where(lengths_K1 > 0, lengths_K1, 1.0)
