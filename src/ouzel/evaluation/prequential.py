"""Predict, then learn: each event of a stream asks the model first and teaches it afterwards.

Nothing is learned before it was asked for, so no split is needed, and what a stale model loses is
seen as it is lost.

References:
    Gama, Sebastião and Rodrigues, "On Evaluating Stream Learning Algorithms", Machine Learning
    2013. Vinagre, Jorge and Gama, "Evaluation of Recommender Systems in Streaming Environments",
    2015.

Shape legend: E = events, M = events asked for, U = users, N = catalogue rows, D = dim.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.integer[Any]]


class Learner(Protocol):
    """A factor model that learns one event after the other."""

    def partial_fit(self, users_E: Places, rows_E: Places) -> NDArray[np.float32]:
        """Return the score (E,) that each event had before it was learned."""
        ...

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vectors of users (U, D) and items (N, D) as they are now."""
        ...


def prequential_hits(
    learner: Learner,
    users_E: Places,
    rows_E: Places,
    *,
    every: int = 1,
    k: int = 10,
    stop: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places (M,) of events asked for, and whether each was among the `k` best then.

    One event in `every` is asked for, if its user did not do it before: what a user has seen is
    never among the best. Whoever has no vector yet is missed. From event `stop` on nothing is
    learned any more.

    Raises:
        ValueError: `every` or `k` is less than 1.

    >>> class Fixed:
    ...     def partial_fit(self, users_E, rows_E):
    ...         return np.zeros(len(rows_E), np.float32)
    ...     def arrays(self):
    ...         return np.ones((2, 1), np.float32), np.array([[0], [3], [2], [1]], np.float32)
    >>> events = np.array([0, 0, 1, 9]), np.array([1, 2, 2, 1])
    >>> [column.tolist() for column in prequential_hits(Fixed(), *events, k=1)]
    [[0, 1, 2, 3], [True, True, False, False]]
    """
    if every < 1 or k < 1:
        raise ValueError(f"every is {every}, k is {k}: give 1 or more")
    seen: defaultdict[int, list[int]] = defaultdict(list)
    asked, hits = [], []
    for first in range(0, len(users_E), every):
        part = slice(first, first + every)
        user, row = int(users_E[first]), int(rows_E[first])
        if row not in seen[user]:
            asked.append(first)
            hits.append(_hit(learner, user, row, seen[user], k))
        if stop is None or first < stop:
            learner.partial_fit(users_E[part], rows_E[part])
        for one, other in zip(users_E[part].tolist(), rows_E[part].tolist(), strict=True):
            seen[one].append(other)
    return np.array(asked, np.int64), np.array(hits, np.bool_)


def _hit(learner: Learner, user: int, row: int, seen: list[int], k: int) -> bool:
    users_UD, items_ND = learner.arrays()
    if user >= len(users_UD) or row >= len(items_ND):
        return False
    scores_N = items_ND @ users_UD[user]
    scores_N[[0, *(one for one in seen if one < len(scores_N))]] = -np.inf
    # Ties count against it, as in every report.
    return bool(np.count_nonzero(scores_N >= scores_N[row]) <= k)
