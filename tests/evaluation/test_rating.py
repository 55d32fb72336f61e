"""Errors of predicted ratings, and the folds they are measured on."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.evaluation.rating import damped_means, random_folds, rating_errors
from ouzel.events.interactions import History, Interactions, group_by_user


def ratings(*, missing: int = 0) -> Interactions:
    rng = np.random.default_rng(0)
    users, rows = np.repeat(np.arange(20), 5), rng.integers(1, 9, 100).astype(np.int32)
    values = rng.integers(1, 6, 100).astype(np.float32)
    values[:missing] = np.nan
    return group_by_user(users, rows, np.arange(100), values, num_rows=9)


def test_each_rating_is_in_one_fold_and_the_seed_decides_in_which() -> None:
    x = ratings(missing=7)
    folds = random_folds(x, 4, seed=0)
    together = np.sum(folds, axis=0)
    assert (together == ~np.isnan(x.values_E)).all()
    assert {int(fold.sum()) for fold in folds} == {23, 24}
    again, other = random_folds(x, 4, seed=0), random_folds(x, 4, seed=1)
    assert np.array_equal(folds, again) and not np.array_equal(folds, other)


def test_what_is_held_out_is_not_told() -> None:
    x = ratings(missing=3)
    test_E = random_folds(x, 5, seed=0)[0]
    told, asked = [], []

    def predict(history: History, rows: np.ndarray) -> np.ndarray:
        told.append(history.values)
        asked.append(rows)
        return np.full(len(rows), 3.0)

    errors = rating_errors(predict, x, test_E)
    assert errors.num_ratings == sum(map(len, asked)) == test_E.sum()
    assert np.array_equal(np.concatenate(asked), x.rows_E[test_E])
    users = np.unique(np.repeat(np.arange(20), 5)[test_E])
    assert [len(one) for one in told] == [5 - int(test_E[5 * u : 5 * u + 5].sum()) for u in users]
    off = x.values_E[test_E] - 3
    assert errors.rmse == pytest.approx(np.sqrt((off**2).mean()))
    assert errors.mae == pytest.approx(np.abs(off).mean())


def test_predictions_stay_in_the_range_of_what_was_given() -> None:
    x = ratings()
    test_E = random_folds(x, 5, seed=0)[0]
    far = rating_errors(lambda history, rows: np.full(len(rows), 99.0), x, test_E)
    best = rating_errors(lambda history, rows: np.full(len(rows), 5.0), x, test_E)
    assert far == best


def test_the_baseline_is_the_formula() -> None:
    x = group_by_user(
        np.array([0, 0, 1]),
        np.array([1, 2, 1], np.int32),
        np.arange(3),
        np.array([5, 2, 4], np.float32),
        num_rows=4,
    )
    mean = 11 / 3
    first, second = (9 - 2 * mean) / 12, (2 - mean) / 11
    user = (5 - mean - first + 2 - mean - second) / 7
    found = damped_means(x)(x.history(0), np.array([1, 3]))
    np.testing.assert_allclose(found, [mean + user + first, mean + user], rtol=1e-6)
    assert damped_means(x)(x.history(0).last(0), np.array([3]))[0] == pytest.approx(mean)


def test_what_cannot_be_measured_is_refused() -> None:
    x = ratings(missing=98)
    with pytest.raises(ValueError, match="2 events with a value cannot make 5 folds"):
        random_folds(x, 5, seed=0)
    with pytest.raises(ValueError, match="cannot make 1 folds"):
        random_folds(ratings(), 1, seed=0)
    with pytest.raises(ValueError, match="both parts need ratings"):
        rating_errors(damped_means(ratings()), ratings(), np.ones(100, np.bool_))
    with pytest.raises(ValueError, match="0 ratings to predict"):
        rating_errors(damped_means(ratings()), ratings(), np.zeros(100, np.bool_))
