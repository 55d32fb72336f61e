from __future__ import annotations

import numpy as np
import pytest

from ouzel.ranking.exploration import draw


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_candidates_are_drawn_as_often_as_stated(temperature):
    gains, draws = np.array([0.0, 1.0, -np.inf, 0.3, -0.7]), 20_000
    random = np.random.default_rng(3)
    counts, stated = np.zeros(5), np.zeros(5)
    for _ in range(draws):
        chosen, propensity = draw(gains, temperature, random)
        counts[chosen] += 1
        stated[chosen] = propensity
    assert stated.sum() == pytest.approx(1.0) and counts[2] == 0
    kept = stated > 0
    squares = ((counts - stated * draws)[kept] ** 2 / (stated * draws)[kept]).sum()
    # Chi-square with three degrees of freedom: beyond 16.3 once in a thousand.
    assert squares < 16.3


def test_a_temperature_near_0_takes_the_best_and_overflows_nothing():
    gains = np.array([1e4, -1e4, 9.99e3])
    assert draw(gains, 1e-3, np.random.default_rng(0)) == (0, 1.0)
