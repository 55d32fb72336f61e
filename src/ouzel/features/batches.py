"""Batch assembly: histories to padded arrays, the same for training, evaluation and serving.

Shape legend: B = batch, L = longest history in the batch, E = interactions, M = windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History, Interactions

LENGTH_JITTER = 8
"""Windows are grouped by length give or take this much, or an eighth of it if that is less, so that
groups differ between epochs and little of a batch is padding."""


@dataclass(frozen=True)
class PaddedHistories:
    """Histories padded at the end with row 0 and time 0; every array is int64."""

    rows_BL: NDArray[np.int64]
    times_BL: NDArray[np.int64]
    length_B: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingBatch:
    """Inputs, the next event of each as target, its time as request time; all (B, L) int64.

    Where `targets_BL` is 0 there is no event: the position is padding. `places_BL` says where each
    target is in the columns of the interactions.
    """

    rows_BL: NDArray[np.int64]
    times_BL: NDArray[np.int64]
    request_times_BL: NDArray[np.int64]
    targets_BL: NDArray[np.int64]
    places_BL: NDArray[np.int64]


def pad_histories(histories: Sequence[History]) -> PaddedHistories:
    """Return `histories` as one padded batch.

    >>> history = History(np.array([3, 4], np.int32), np.array([10, 20], np.int64))
    >>> pad_histories([history, history.last(1)]).rows_BL.tolist()
    [[3, 4], [4, 0]]
    """
    length_B = np.array([len(history) for history in histories], np.int64)
    shape = (len(histories), int(length_B.max(initial=0)))
    rows_BL, times_BL = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for index, history in enumerate(histories):
        rows_BL[index, : len(history)] = history.rows
        times_BL[index, : len(history)] = history.times_ms
    return PaddedHistories(rows_BL, times_BL, length_B)


def training_windows(
    interactions: Interactions, *, max_length: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return (M, 2) spans [start, stop) of input events; the event after each is its target.

    Each user's newest `max_length` inputs are always one window. What is older is cut into
    windows at a random phase, so that every event is a target with varying context.

    >>> from ouzel.events.interactions import from_histories
    >>> history = History(np.arange(1, 5, dtype=np.int32), np.arange(4))
    >>> x = from_histories([history, history.last(1)], num_rows=5)
    >>> training_windows(x, max_length=9, rng=np.random.default_rng(0)).tolist()
    [[0, 3]]
    """
    spans: list[tuple[int, int]] = []
    offsets = interactions.offsets_U1
    for first, stop in zip(offsets[:-1].tolist(), (offsets[1:] - 1).tolist(), strict=True):
        if stop <= first:
            continue
        spans.append((max(first, stop - max_length), stop))
        if stop - first > max_length:
            cut = stop - int(rng.integers(1, max_length + 1))
            while cut > first:
                spans.append((max(first, cut - max_length), cut))
                cut -= max_length
    return np.array(spans, np.int64).reshape(-1, 2)


def newest_windows(interactions: Interactions, *, max_length: int) -> NDArray[np.int64]:
    """Return (M, 2) spans [start, stop) of each user's newest input events, as many as that.

    The event after each is its target, so a user of one event has none.

    >>> from ouzel.events.interactions import from_histories
    >>> history = History(np.arange(1, 5, dtype=np.int32), np.arange(4))
    >>> x = from_histories([history, history.last(1)], num_rows=5)
    >>> newest_windows(x, max_length=2).tolist()
    [[1, 3]]
    """
    first, stop = interactions.offsets_U1[:-1], interactions.offsets_U1[1:] - 1
    windows = np.stack([np.maximum(first, stop - max_length), stop], axis=1)
    return windows[stop > first]


def mixed_batches(
    interactions: Interactions,
    windows_M2: NDArray[np.int64],
    *,
    size: int,
    rng: np.random.Generator,
) -> Iterator[TrainingBatch]:
    """Yield the windows in random order, `size` of them at once, whatever their lengths.

    >>> from ouzel.events.interactions import from_histories
    >>> x = from_histories([History(np.arange(1, 5, dtype=np.int32), np.arange(4))], num_rows=5)
    >>> windows, rng = np.array([[0, 3], [0, 1]]), np.random.default_rng(0)
    >>> [batch.rows_BL.shape for batch in mixed_batches(x, windows, size=2, rng=rng)]
    [(2, 3)]
    """
    order = rng.permutation(len(windows_M2))
    for start in range(0, len(order), size):
        yield _assemble(interactions, windows_M2[order[start : start + size]])


def training_batches(
    interactions: Interactions,
    windows_M2: NDArray[np.int64],
    *,
    tokens: int,
    rng: np.random.Generator,
) -> Iterator[TrainingBatch]:
    """Yield the windows in random order, grouped by length into batches of at most `tokens`.

    >>> from ouzel.events.interactions import from_histories
    >>> x = from_histories([History(np.arange(1, 5, dtype=np.int32), np.arange(4))], num_rows=5)
    >>> rng = np.random.default_rng(0)
    >>> batch = next(training_batches(x, np.array([[0, 3]]), tokens=100, rng=rng))
    >>> batch.rows_BL.tolist(), batch.targets_BL.tolist()
    ([[1, 2, 3]], [[2, 3, 4]])
    """
    lengths_M = windows_M2[:, 1] - windows_M2[:, 0]
    jitter_M = rng.random(len(lengths_M)) * np.minimum(LENGTH_JITTER, lengths_M / LENGTH_JITTER)
    order = np.argsort(lengths_M + jitter_M, kind="stable")
    groups = _groups(order, lengths_M, tokens)
    for group in rng.permutation(len(groups)):
        yield _assemble(interactions, windows_M2[groups[group]])


def _groups(
    order: NDArray[np.int64], lengths_M: NDArray[np.int64], tokens: int
) -> list[NDArray[np.int64]]:
    """Return consecutive runs of `order` whose padded size stays within `tokens`."""
    groups: list[NDArray[np.int64]] = []
    start, longest = 0, 0
    for index, window in enumerate(order):
        widened = max(longest, int(lengths_M[window]))
        if index > start and (index - start + 1) * widened > tokens:
            groups.append(order[start:index])
            start, widened = index, int(lengths_M[window])
        longest = widened
    if start < len(order):
        groups.append(order[start:])
    return groups


def _assemble(interactions: Interactions, windows_B2: NDArray[np.int64]) -> TrainingBatch:
    length_B = windows_B2[:, 1] - windows_B2[:, 0]
    column_L = np.arange(int(length_B.max()))
    real_BL = column_L < length_B[:, None]
    index_BL = np.where(real_BL, windows_B2[:, :1] + column_L, 0)
    rows_E, times_E = interactions.rows_E, interactions.times_ms_E

    def take(column_E: NDArray[np.int32] | NDArray[np.int64], shift: int) -> NDArray[np.int64]:
        shifted = np.minimum(index_BL + shift, len(column_E) - 1)
        return np.where(real_BL, column_E[shifted], 0).astype(np.int64)

    return TrainingBatch(
        take(rows_E, 0), take(times_E, 0), take(times_E, 1), take(rows_E, 1), index_BL + real_BL
    )
