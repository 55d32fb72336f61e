"""How far predicted ratings are off what was given: RMSE and MAE on ratings held out at random.

A user is predicted from all ratings that training had, as a server would from the log.

Shape legend: E = interactions, K = ratings of one user that are predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History, Interactions

Predictor = Callable[[History, NDArray[np.int32]], NDArray[np.float64]]
"""(rated history of a user, rows (K,)) -> the values (K,) that the user would give."""

DAMPING = (10.0, 5.0)
"""How many ratings of no opinion the means of an item and of a user are mixed with."""


@dataclass(frozen=True)
class RatingErrors:
    """Root mean square and mean absolute error over `num_ratings` predictions."""

    rmse: float
    mae: float
    num_ratings: int


def random_folds(full: Interactions, count: int, *, seed: int) -> list[NDArray[np.bool_]]:
    """Return `count` masks (E,) of which each rating is in one: the test parts of a k-fold.

    Raises:
        ValueError: there are fewer than two folds, or fewer ratings than folds.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows, values = np.zeros(4, np.int64), np.arange(1, 5, dtype=np.int32), np.ones(4)
    >>> x = group_by_user(users, rows, np.arange(4), values.astype(np.float32), num_rows=5)
    >>> [int(fold.sum()) for fold in random_folds(x, 2, seed=0)]
    [2, 2]
    """
    rated = np.flatnonzero(~np.isnan(full.values_E))
    if count < 2 or len(rated) < count:
        raise ValueError(
            f"{len(rated):,} events with a value cannot make {count} folds: give 2 folds or more, "
            "and a column `value` with a rating for each"
        )
    fold_E = np.full(len(full), -1)
    fold_E[np.random.default_rng(seed).permutation(rated)] = np.arange(len(rated)) % count
    return [fold_E == fold for fold in range(count)]


def rating_errors(
    predict: Predictor, full: Interactions, test_E: NDArray[np.bool_]
) -> RatingErrors:
    """Return how far `predict` is off on the ratings `test_E` of `full`, given all the others.

    What it predicts is brought into the range of the others first.

    Raises:
        ValueError: there is nothing to predict, or nothing to predict it from.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows, values = np.zeros(3, np.int64), np.arange(1, 4, dtype=np.int32), [1, 5, 3]
    >>> x = group_by_user(users, rows, np.arange(3), np.array(values, np.float32), num_rows=4)
    >>> rating_errors(lambda history, rows: np.full(len(rows), 9.0), x, np.arange(3) == 2)
    RatingErrors(rmse=2.0, mae=2.0, num_ratings=1)
    """
    test_E = test_E & ~np.isnan(full.values_E)
    train, test = full.keep(~test_E), full.keep(test_E)
    if not len(test) or np.isnan(train.values_E).all():
        raise ValueError(
            f"{len(test):,} ratings to predict from {len(train):,} events: both parts need ratings"
        )
    low, high = np.nanmin(train.values_E), np.nanmax(train.values_E)
    off = []
    for user in np.flatnonzero(test.lengths_U()).tolist():
        asked = test.history(user)
        predicted = np.clip(predict(train.history(user), asked.rows), low, high)
        off.append(predicted - test.values_E[test.offsets_U1[user] : test.offsets_U1[user + 1]])
    off_T = np.concatenate(off)
    return RatingErrors(
        float(np.sqrt(np.mean(off_T**2))), float(np.mean(np.abs(off_T))), len(off_T)
    )


def damped_means(train: Interactions) -> Predictor:
    """Return the baseline that knows how an item is rated, and how a user rates, and no more.

    References: Koren, KDD 2008, section 2.1.

    >>> from ouzel.events.interactions import group_by_user
    >>> users, rows, values = np.zeros(2, np.int64), np.array([1, 2], np.int32), np.array([3, 3])
    >>> x = group_by_user(users, rows, np.arange(2), values.astype(np.float32), num_rows=3)
    >>> damped_means(x)(x.history(0), rows).tolist()
    [3.0, 3.0]
    """
    rated = train.keep(~np.isnan(train.values_E))
    mean = float(rated.values_E.mean())
    counts_N = np.bincount(rated.rows_E, minlength=rated.num_rows)
    sums_N = np.bincount(rated.rows_E, rated.values_E - mean, minlength=rated.num_rows)
    items_N = sums_N / (counts_N + DAMPING[0])

    def predict(history: History, rows_K: NDArray[np.int32]) -> NDArray[np.float64]:
        values = np.zeros(0) if history.values is None else history.values
        there = ~np.isnan(values)
        left = values[there] - mean - items_N[history.rows[there]]
        user = left.sum() / (len(left) + DAMPING[1])
        predicted: NDArray[np.float64] = mean + user + items_N[rows_K]
        return predicted

    return predict
