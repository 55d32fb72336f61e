"""Evaluation of any scorer on the targets of a split, over the full catalogue.

A target is an event at an absolute position of the interactions; the user's events before it are
the history that the scorer gets and the items that are filtered as seen. The scorer is also told
the target's time, as a server would know the time of a request.
Shape legend: T = targets, B = targets of a batch, N = catalogue rows with padding, U = users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.metrics import (
    UNRANKED,
    coverage,
    ndcg,
    rank_and_top,
    recall,
    reciprocal_rank,
)
from ouzel.evaluation.statistics import Interval, bootstrap
from ouzel.events.interactions import History, Interactions

Scorer = Callable[[list[History], NDArray[np.int64]], NDArray[np.float32]]
"""(histories of B users, request times (B,) in ms) -> scores (B, N); read only, never kept."""

PerTarget = Callable[[NDArray[np.int64], int], NDArray[np.float64]]

METRICS: dict[str, PerTarget] = {"recall": recall, "ndcg": ndcg, "mrr": reciprocal_rank}


class Targets(Protocol):
    """Which events to predict: `users_T` positions in the interactions, `ends_T` in its columns."""

    @property
    def users_T(self) -> NDArray[np.int64]:
        """Return the position of each target's user."""
        ...

    @property
    def ends_T(self) -> NDArray[np.int64]:
        """Return the absolute index of each target event in the columns of the interactions."""
        ...


@dataclass(frozen=True)
class Report:
    """Ranks of all targets (`users_T`, `ranks_T`), in the order given, and what was shown."""

    model: str
    split: str
    k: int
    users_T: NDArray[np.int64]
    ranks_T: NDArray[np.int64]
    coverage: float

    def values_TM(self) -> NDArray[np.float64]:
        """Return each target's value of each of `METRICS`."""
        return np.stack([metric(self.ranks_T, self.k) for metric in METRICS.values()], axis=1)

    def row(self, *, seed: int = 0) -> dict[str, str | int | float]:
        """Return the table row: means, 95% interval ends (`_low`, `_high`), coverage, counts.

        `num_unreachable` counts targets that filtering hides or the model never proposes: their
        share caps recall.
        """
        row: dict[str, str | int | float] = {"model": self.model, "split": self.split}
        intervals = bootstrap(self.values_TM(), self.users_T, seed=seed)
        named = dict(zip(METRICS, intervals, strict=True))
        for name, interval in {**named, "hit_rate": named["recall"]}.items():
            row[f"{name}@{self.k}"] = interval.mean
            row[f"{name}@{self.k}_low"] = interval.low
            row[f"{name}@{self.k}_high"] = interval.high
        row[f"coverage@{self.k}"] = self.coverage
        row["num_users"] = len(np.unique(self.users_T))
        row["num_targets"] = len(self.ranks_T)
        row["num_unreachable"] = int(np.count_nonzero(self.ranks_T == UNRANKED))
        return row

    def against(self, other: Report, metric: str = "ndcg", *, seed: int = 0) -> Interval:
        """Return this model's lead over `other` in `metric`@k, paired by target.

        Raises:
            ValueError: the reports are of different targets or k, or the metric is unknown.
        """
        if self.k != other.k or not np.array_equal(self.users_T, other.users_T):
            raise ValueError(
                f"{self.model} and {other.model} were evaluated on different targets or k: "
                "evaluate both on one split"
            )
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is unknown: give one of {', '.join(METRICS)}")
        lead_T = METRICS[metric](self.ranks_T, self.k) - METRICS[metric](other.ranks_T, other.k)
        return bootstrap(lead_T[:, None], self.users_T, seed=seed)[0]


def evaluate(
    scorer: Scorer,
    full: Interactions,
    targets: Targets,
    *,
    model: str,
    split: str = "test",
    k: int = 10,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Return the report of `scorer` on `targets`, events of `full`.

    Histories of like length are scored together. `progress` is told (targets done, all targets).

    Raises:
        ValueError: no targets, a target outside its user's events, or scores of a wrong shape.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> last = SimpleNamespace(users_T=np.array([0]), ends_T=np.array([1]))
    >>> scores = lambda histories, now_ms: np.array([[0, 9, 8, 7]], np.float32)
    >>> report = evaluate(scores, from_histories([visit], num_rows=4), last, model="fixed")
    >>> report.row()["recall@10"]
    1.0
    """
    starts_T = _starts(full, targets)
    ranks_T = np.empty(len(starts_T), np.int64)
    shown_N = np.zeros(full.num_rows, np.bool_)
    done = 0
    for chosen in _batches(targets.ends_T - starts_T, batch_size):
        ends_B = targets.ends_T[chosen]
        histories = [
            History(full.rows_E[start:end], full.times_ms_E[start:end], full.values_E[start:end])
            for start, end in zip(starts_T[chosen].tolist(), ends_B.tolist(), strict=True)
        ]
        scores_BN = scorer(histories, full.times_ms_E[ends_B])
        _check_scores(scores_BN, len(chosen), full.num_rows)
        seen = [history.rows for history in histories]
        ranks_T[chosen], top = rank_and_top(scores_BN, full.rows_E[ends_B], seen, k=k)
        shown_N[top] = True
        done += len(chosen)
        if progress is not None:
            progress(done, len(ranks_T))
    return Report(model, split, k, targets.users_T, ranks_T, coverage(shown_N))


def _starts(full: Interactions, targets: Targets) -> NDArray[np.int64]:
    users_T, ends_T = targets.users_T, targets.ends_T
    if len(users_T) == 0 or len(users_T) != len(ends_T):
        raise ValueError(
            f"{len(users_T)} users and {len(ends_T)} ends of targets: there must be at least one "
            "target; a data set this small needs another split"
        )
    starts_T = full.offsets_U1[users_T]
    outside = np.flatnonzero((ends_T < starts_T) | (ends_T >= full.offsets_U1[users_T + 1]))
    if len(outside):
        raise ValueError(
            f"target {outside[0]} at event {ends_T[outside[0]]} is not an event of its user "
            f"{users_T[outside[0]]}: the split belongs to other interactions"
        )
    return starts_T


def _batches(lengths_T: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    order = np.argsort(lengths_T, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _check_scores(scores_BN: NDArray[np.float32], batch: int, num_rows: int) -> None:
    if scores_BN.ndim != 2 or len(scores_BN) != batch or scores_BN.shape[1] > num_rows:
        raise ValueError(
            f"the scorer gave scores of shape {scores_BN.shape} for {batch} histories: "
            f"give ({batch}, up to {num_rows})"
        )
