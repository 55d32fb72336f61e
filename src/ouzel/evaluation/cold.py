"""Cold and warm targets: how much of its accuracy a model has where it has little to go by.

A target is *cold* by its item if that has fewer than `COLD_ITEM_EVENTS` events in the training part
(none at all, where an item is new), and cold by its user if that user did fewer than
`COLD_USER_EVENTS` things before it. It is `cold` if it is either, and `warm` if it is neither.

Shape legend: T = targets.

References:
    Schein, Popescul, Ungar and Pennock, "Methods and Metrics for Cold-Start Recommendations",
    SIGIR 2002, for measuring the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.protocol import METRICS, Report, Targets
from ouzel.events.interactions import Interactions

COLD_ITEM_EVENTS = 5
"""From so many events in the training part on, an item is warm."""

COLD_USER_EVENTS = 5
"""From so many events before the target on, its user is warm."""

PARTS = ("warm", "cold", "cold_item", "cold_user")
"""The parts that figures are told of, as the ends of their names: `ndcg@10_cold`."""


def parts_of(
    full: Interactions, train: Interactions, targets: Targets
) -> dict[str, NDArray[np.bool_]]:
    """Return which of the targets, events of `full`, are in each of `PARTS`, (T,) each.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([1, 1, 1, 1, 1, 1, 2], np.int32), np.arange(7))
    >>> full = from_histories([visit], num_rows=3)
    >>> asked = SimpleNamespace(users_T=np.array([0, 0, 0]), ends_T=np.array([2, 5, 6]))
    >>> parts = parts_of(full, from_histories([visit], num_rows=3), asked)
    >>> {name: part_T.tolist() for name, part_T in parts.items() if name != "cold"}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'warm': [False, True, False], 'cold_item': [False, False, True],
     'cold_user': [True, False, False]}
    """
    counts_N = np.bincount(train.rows_E, minlength=full.num_rows)
    cold_item_T = counts_N[full.rows_E[targets.ends_T]] < COLD_ITEM_EVENTS
    cold_user_T = targets.ends_T - full.offsets_U1[targets.users_T] < COLD_USER_EVENTS
    cold_T = cold_item_T | cold_user_T
    columns = (~cold_T, cold_T, cold_item_T, cold_user_T)
    return dict(zip(PARTS, columns, strict=True))


def figures_of(
    report: Report, parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, str | int | float]:
    """Return the row of each metric in each part, and how many targets are in it.

    Of a part without targets only their number, 0, is told.

    >>> report = Report("m", "test", 10, np.arange(2), np.array([1, 11]), 0.5)
    >>> figures = figures_of(report, {"warm": np.array([True, False]), "cold": np.zeros(2, bool)})
    >>> figures["ndcg@10_warm"], figures["num_warm"], figures["num_cold"]
    (1.0, 1, 0)
    """
    row: dict[str, str | int | float] = {}
    for part, chosen_T in parts.items():
        row[f"num_{part}"] = int(chosen_T.sum())
        if not chosen_T.any():
            continue
        for name, metric in METRICS.items():
            mean = metric(report.ranks_T[chosen_T], report.k).mean()
            row[f"{name}@{report.k}_{part}"] = float(mean)
    return row
