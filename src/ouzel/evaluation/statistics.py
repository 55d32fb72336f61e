"""How sure a mean is: bootstrap over users, because one user's targets hang together.

Shape legend: T = targets, U = users, M = metrics, R = resamples.
References:
    Efron: Bootstrap Methods - Another Look at the Jackknife, Annals of Statistics 1979.
    Davison, Hinkley: Bootstrap Methods and their Application, 1997, chapter 3 (clusters).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 22
"""Draws held at once: 32 MiB."""


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values_TM: NDArray[np.float64],
    users_T: NDArray[np.int64],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Return the mean of each column with its percentile interval, users drawn anew.

    The mean is over targets; a drawn user brings all their targets. For a paired comparison of
    two models give the differences, target by target: an interval without 0 is a difference
    that other users would show as well.

    Raises:
        ValueError: no targets, lengths differ, or `level` is not between 0 and 1.

    >>> bootstrap(np.ones((3, 1)), np.array([1, 1, 2]))
    [Interval(mean=1.0, low=1.0, high=1.0)]
    """
    if len(values_TM) == 0 or len(values_TM) != len(users_T):
        raise ValueError(f"{len(values_TM)} values of {len(users_T)} users: give one each, >= 1")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")
    means_RM = _resampled_means(values_TM, users_T, resamples=resamples, seed=seed)
    tail = (1 - level) / 2
    low_M, high_M = np.quantile(means_RM, [tail, 1 - tail], axis=0)
    ends = zip(values_TM.mean(axis=0), low_M, high_M, strict=True)
    return [Interval(float(mean), float(low), float(high)) for mean, low, high in ends]


def _resampled_means(
    values_TM: NDArray[np.float64], users_T: NDArray[np.int64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    _, user_T, counts_U = np.unique(users_T, return_inverse=True, return_counts=True)
    num_users = len(counts_U)
    sums = [np.bincount(user_T, weights=column, minlength=num_users) for column in values_TM.T]
    columns_UC = np.stack([counts_U.astype(np.float64), *sums], axis=1)
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // num_users)
    totals = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, num_users, (size, num_users))
        times_SU = np.stack([np.bincount(line, minlength=num_users) for line in drawn])
        totals.append(times_SU @ columns_UC)
    totals_RC = np.concatenate(totals)
    means_RM: NDArray[np.float64] = totals_RC[:, 1:] / totals_RC[:, :1]
    return means_RM
