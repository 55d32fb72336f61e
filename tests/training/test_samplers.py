from __future__ import annotations

import numpy as np

from ouzel.training.samplers import uniform_negatives


def test_negatives_are_distinct_rows_and_never_padding() -> None:
    drawn = uniform_negatives(np.random.default_rng(0), num_rows=50, count=30)
    assert len(set(drawn.tolist())) == 30
    assert drawn.min() >= 1 and drawn.max() <= 49


def test_every_row_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(21)
    for _ in range(4000):
        counts[uniform_negatives(rng, num_rows=21, count=5)] += 1
    assert counts[0] == 0
    # 1,000 expected each, standard deviation 27
    assert np.abs(counts[1:] - 1000).max() < 140
