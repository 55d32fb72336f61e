"""Negative samplers: which items a target is told apart from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uniform_negatives(rng: np.random.Generator, *, num_rows: int, count: int) -> NDArray[np.int64]:
    """Return `count` different catalogue rows (>= 1), each as likely; all of them if fewer exist.

    They are shared by the whole batch, which makes scoring them one matrix product.

    >>> sorted(uniform_negatives(np.random.default_rng(0), num_rows=4, count=9).tolist())
    [1, 2, 3]
    """
    available = num_rows - 1
    if count >= available:
        return np.arange(1, num_rows, dtype=np.int64)
    return rng.choice(available, size=count, replace=False).astype(np.int64) + 1


def popular_negatives(
    rng: np.random.Generator, chance_ends_N: NDArray[np.float64], *, count: int
) -> NDArray[np.int64]:
    """Return `count` catalogue rows, some maybe twice, drawn by their cumulated chances.

    >>> popular_negatives(np.random.default_rng(0), np.array([0.0, 0.0, 1.0]), count=2).tolist()
    [2, 2]
    """
    drawn = np.searchsorted(chance_ends_N, rng.random(count) * chance_ends_N[-1], side="right")
    return np.asarray(drawn, np.int64)
