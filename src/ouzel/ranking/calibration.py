"""Lists that hold the user's interests in the shares that the history has.

Cost: a place takes one pass over K candidates times G categories.
Shape legend: K = candidates, G = categories of the history, n = items of the history.

References:
    Steck: Calibrated Recommendations, RecSys 2018.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.ranking.diversity import score_range

SMOOTHING = 0.01
"""The share of the history's own distribution in that of a list: the logarithm stays finite."""

MOST_CATEGORIES = 64
"""The most frequent categories of a history that are kept."""


class Calibration:
    """A candidate is worth by how much it brings the list's categories nearer to the history's.

    The distance is the Kullback-Leibler divergence of the list from the history. An item counts for
    each of its categories in equal parts. Categories that the history has not are beside the point.

    >>> found = Calibration(
    ...     np.array([3.0, 2.9, 2.0]),
    ...     [("Crime",), ("Crime",), ("Drama",)],
    ...     [("Crime",), ("Drama",)],
    ...     weight=0.9,
    ... )
    >>> found.take(0)
    >>> int(found.gains()[1:].argmax()) + 1
    2
    """

    def __init__(
        self,
        scores_K: NDArray[np.floating],
        values_K: Sequence[Sequence[str]],
        history_n: Sequence[Sequence[str]],
        *,
        weight: float,
    ) -> None:
        names, self._target_G = history_shares(history_n)
        # Without a history there is nothing to come near to.
        weight = weight if names else 0.0
        self._scores_K = (1 - weight) * scores_K.astype(np.float64)
        self._scale = weight * score_range(scores_K)
        self._shares_KG = item_shares(values_K, names)
        self._sum_G = np.zeros(len(names))
        self._places = 0

    def gains(self) -> NDArray[np.float64]:
        """Return the gain (K,) of each candidate."""
        lists_KG = (self._sum_G + self._shares_KG) / (self._places + 1)
        return self._scores_K - self._scale * divergence(self._target_G, lists_KG)

    def take(self, chosen: int) -> None:
        """Give the next place to a candidate."""
        self._sum_G += self._shares_KG[chosen]
        self._places += 1


def history_shares(history_n: Sequence[Sequence[str]]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the categories of a history, and the share (G,) of each.

    >>> history_shares([("Crime", "Drama"), ("Drama",), ()])
    (['Drama', 'Crime'], array([0.75, 0.25]))
    """
    counts: Counter[str] = Counter()
    for values in history_n:
        for value in values:
            counts[value] += 1 / len(values)  # type: ignore[assignment]
    kept = counts.most_common(MOST_CATEGORIES)
    shares_G = np.array([count for _, count in kept], np.float64)
    return [name for name, _ in kept], shares_G / (shares_G.sum() or 1.0)


def item_shares(values_K: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return how much (K, G) of each item is in each category.

    >>> item_shares([("Drama", "War"), ()], ["Drama"])
    array([[0.5],
           [0. ]])
    """
    places = {name: place for place, name in enumerate(names)}
    shares_KG = np.zeros((len(values_K), len(names)))
    for row_G, values in zip(shares_KG, values_K, strict=True):
        for value in values:
            if value in places:
                row_G[places[value]] = 1 / len(values)
    return shares_KG


def divergence(target_G: NDArray[np.float64], lists_KG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence (K,) of smoothed distributions from the target.

    >>> divergence(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [1.0, 0.0]])).round(2)
    array([0.  , 1.96])
    """
    smoothed_KG = (1 - SMOOTHING) * lists_KG + SMOOTHING * target_G
    found_K: NDArray[np.float64] = (target_G * np.log(target_G / smoothed_KG)).sum(axis=1)
    return found_K
