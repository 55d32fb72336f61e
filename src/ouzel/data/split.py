"""Train, validation and test: leave-one-out as papers do it, and by time as it happens.

Both take interactions in (timestamp, log offset) order, so that ties keep the order of the file.
A target is one event to be predicted from everything its user did before it.

References: Y. Ji et al., "A Critical Study on Data Leakage in Recommender System Offline
Evaluation", TOIS 2023, on why leave-one-out flatters and time does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History, Interactions

MIN_EVENTS = 3
"""Users with fewer events train only, in leave-one-out: one each to train, validate, test."""


@dataclass(frozen=True)
class Targets:
    """T events to predict.

    `users_T` int64 positions of users in the full interactions, `ends_T` int64 index of the
    target event in their columns: the history of a target is its user's slice before that.
    `num_excluded` counts events of the window that had no history to predict them from.
    """

    users_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]
    num_excluded: int = 0

    def __len__(self) -> int:
        return len(self.users_T)

    def history(self, full: Interactions, target: int) -> History:
        """Return what the user of target number `target` did before it."""
        start = full.offsets_U1[self.users_T[target]]
        span = slice(start, self.ends_T[target])
        return History(full.rows_E[span], full.times_ms_E[span], full.values_E[span])


@dataclass(frozen=True)
class Split:
    """`train` and two windows of targets, which index into `full`.

    Nothing in `train` is as late as `cut_off_ms`, for leave-one-out the moment after its last
    event, for a split by time the start of the test window.
    """

    full: Interactions
    train: Interactions
    validation: Targets
    test: Targets
    cut_off_ms: int


def leave_one_out(full: Interactions) -> Split:
    """Return the split where each user's last event is test and the one before validation.

    >>> from ouzel.events.interactions import History, from_histories
    >>> times = np.arange(3)
    >>> split = leave_one_out(from_histories([History(np.array([5, 6, 7]), times)], num_rows=8))
    >>> split.train.rows_E.tolist(), split.full.rows_E[split.test.ends_T].tolist()
    ([5], [7])
    """
    users = np.flatnonzero(full.lengths_U() >= MIN_EVENTS).astype(np.int64)
    last = full.offsets_U1[1:][users] - 1
    in_train = np.ones(len(full), np.bool_)
    in_train[last] = False
    in_train[last - 1] = False
    train = full.keep(in_train)
    cut_off = int(train.times_ms_E.max(initial=-1)) + 1
    return Split(full, train, Targets(users, last - 1), Targets(users, last), cut_off)


def nothing_held_out(full: Interactions) -> Split:
    """Return the split that trains on everything: there is nothing to validate or to test on.

    >>> from ouzel.events.interactions import History, from_histories
    >>> split = nothing_held_out(from_histories([History(np.array([5]), np.arange(1))], num_rows=8))
    >>> len(split.train), len(split.validation), len(split.test)
    (1, 0, 0)
    """
    nobody = np.empty(0, np.int64)
    nothing = Targets(nobody, nobody)
    cut_off = int(full.times_ms_E.max(initial=-1)) + 1
    return Split(full, full, nothing, nothing, cut_off)


def temporal(
    full: Interactions, *, validation_from: float = 0.85, test_from: float = 0.90
) -> Split:
    """Return the split by two moments: the quantiles of all event times.

    Training sees what came before the first moment, validation predicts each event between
    them, test each event from the second on, always from all that the user did before it.

    Raises: ValueError unless 0 < validation_from <= test_from < 1 and there are events.

    >>> from ouzel.events.interactions import History, from_histories
    >>> history = History(np.arange(1, 11), np.arange(10) * 1000)
    >>> split = temporal(from_histories([history], num_rows=11))
    >>> split.cut_off_ms, split.full.rows_E[split.test.ends_T].tolist()
    (9000, [10])
    """
    if not 0 < validation_from <= test_from < 1:
        raise ValueError(
            f"validation_from {validation_from} and test_from {test_from}: give shares of the"
            " events with 0 < validation_from <= test_from < 1"
        )
    if not len(full):
        raise ValueError("there are no events to split: give at least one")
    first, second = _moments(full.times_ms_E, validation_from, test_from)
    times = full.times_ms_E
    return Split(
        full,
        full.keep(times < first),
        _window(full, (times >= first) & (times < second)),
        _window(full, times >= second),
        second,
    )


def _moments(
    times_ms_E: NDArray[np.int64], validation_from: float, test_from: float
) -> tuple[int, int]:
    # Nearest from below, in integers: events of one moment fall on one side.
    ranks = [int(share * len(times_ms_E)) for share in (validation_from, test_from)]
    sorted_ms = np.partition(times_ms_E, ranks)
    return int(sorted_ms[ranks[0]]), int(sorted_ms[ranks[1]])


def _window(full: Interactions, chosen_E: NDArray[np.bool_]) -> Targets:
    ends = np.flatnonzero(chosen_E).astype(np.int64)
    users = np.searchsorted(full.offsets_U1, ends, side="right").astype(np.int64) - 1
    has_history = ends > full.offsets_U1[users]
    return Targets(users[has_history], ends[has_history], int((~has_history).sum()))
