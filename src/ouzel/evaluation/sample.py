"""Some of the targets of a split, and one figure of how high a model puts them.

Shape legend: T = targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.metrics import ndcg
from ouzel.evaluation.protocol import Scorer, Targets, evaluate
from ouzel.events.interactions import Interactions


@dataclass(frozen=True)
class Sample:
    """`Targets` that were chosen."""

    users_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]

    def half(self, number: int) -> Sample:
        """Return every second target, from `number` (0 or 1) on."""
        return Sample(self.users_T[number::2], self.ends_T[number::2])


def sampled(targets: Targets, most: int, *, seed: int) -> Sample:
    """Return up to `most` of the targets, drawn at random.

    >>> some = sampled(Sample(np.arange(9), np.arange(9)), 4, seed=0)
    >>> len(some.users_T), len(some.half(1).ends_T)
    (4, 2)
    """
    chosen = np.random.default_rng(seed).permutation(len(targets.ends_T))[:most]
    return Sample(targets.users_T[chosen], targets.ends_T[chosen])


def mean_ndcg(scorer: Scorer, interactions: Interactions, targets: Targets) -> float:
    """Return the mean NDCG@10 of targets in the lists of a scorer.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = from_histories([History(np.array([1, 2], np.int32), np.arange(2))], num_rows=3)
    >>> best = lambda histories, now_ms: np.array([[0, 0, 9]], np.float32)
    >>> mean_ndcg(best, visit, Sample(np.array([0]), np.array([1])))
    1.0
    """
    report = evaluate(scorer, interactions, targets, model="validation", split="validation")
    return float(ndcg(report.ranks_T, report.k).mean())
