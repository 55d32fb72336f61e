"""AUC and log loss: against their definitions, ties, and what cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.evaluation.ctr import auc, logloss


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_is_the_share_of_pairs_in_order(levels) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 300).astype(float), rng.integers(0, levels, 300) / 7
    pairs = np.sign(scores[labels == 1][:, None] - scores[labels == 0]) / 2 + 0.5
    assert auc(labels, scores) == pytest.approx(pairs.mean(), abs=1e-12)


def test_auc_of_a_constant_is_a_half_and_of_an_order_0_or_1() -> None:
    labels = np.array([0.0, 1, 1, 0])
    assert auc(labels, np.zeros(4)) == 0.5
    assert auc(labels, labels) == 1.0 and auc(labels, -labels) == 0.0
    huge = labels * 1e-30 + 1e9  # that are the same in float64
    assert auc(labels, huge) == 0.5


def test_logloss_is_that_of_the_probabilities_also_where_they_are_all_but_certain() -> None:
    labels, logits = np.array([1.0, 0, 1]), np.array([0.3, -1.0, 2.0])
    probabilities = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(labels == 1, probabilities, 1 - probabilities)).mean()
    assert logloss(labels, logits) == pytest.approx(expected)
    assert logloss(np.array([0.0]), np.array([800.0])) == pytest.approx(800)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1.0, 0.0], [np.nan, 1.0], "NaN"),
        ([1.0, 0.5], [1.0, 1.0], "neither 0 nor 1"),
        ([1.0, np.nan], [1.0, 1.0], "neither 0 nor 1"),
        ([1.0], [1.0, 1.0], "shape"),
        ([], [], "shape"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels, scores, message) -> None:
    for metric in (auc, logloss):
        with pytest.raises(ValueError, match=message):
            metric(np.array(labels), np.array(scores))
    with pytest.raises(ValueError, match="same"):
        auc(np.ones(2), np.ones(2))
