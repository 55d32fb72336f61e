"""Metrics over the full catalogue, from the rank of the one relevant item of each target.

A target is one event that a model should have put near the top. Its rank counts from 1 among all
items the user has not seen; equal scores count against the target, so a constant score is worth
nothing. No sampling anywhere.
Shape legend: B = targets of a batch, T = targets, N = catalogue rows (row 0 is padding), K = k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.topk import top_k

UNRANKED = np.iinfo(np.int64).max
"""Rank of a target that cannot be shown: seen before, unknown to the scores, or scored -inf."""


def unseen_scores(
    scores_BN: NDArray[np.float32], seen: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Return a copy of the scores with -inf at padding and at each user's seen rows.

    Raises:
        ValueError: a score is NaN, or `seen` has not one array per line of scores.

    >>> unseen_scores(np.ones((1, 4), np.float32), [np.array([2], np.int32)])
    array([[-inf,   1., -inf,   1.]], dtype=float32)
    """
    if len(seen) != len(scores_BN):
        raise ValueError(f"seen has {len(seen)} entries for {len(scores_BN)} lines of scores")
    masked_BN = np.array(scores_BN, np.float32, order="C")
    if np.isnan(masked_BN.max(initial=-np.inf)):
        raise ValueError("a score is NaN, so nothing can be ranked: look at the model's training")
    lines = np.repeat(np.arange(len(seen)), [len(rows) for rows in seen])
    rows = np.concatenate([*seen, np.empty(0, np.int32)])
    known = rows < masked_BN.shape[1]
    masked_BN[lines[known], rows[known]] = -np.inf
    masked_BN[:, 0] = -np.inf
    return masked_BN


def _ranks(masked_BN: NDArray[np.float32], targets_B: NDArray[np.int32]) -> NDArray[np.int64]:
    if len(targets_B) != len(masked_BN):
        raise ValueError(f"{len(targets_B)} targets for {len(masked_BN)} lines of scores")
    if len(targets_B) and targets_B.min() < 1:
        raise ValueError(f"target row {targets_B.min()}: items start at row 1")
    # Padding, column 0, is masked like all that cannot be shown.
    columns_B = np.where(targets_B < masked_BN.shape[1], targets_B, 0)
    marks_B = masked_BN[np.arange(len(columns_B)), columns_B]
    ranks_B = np.count_nonzero(masked_BN >= marks_B[:, None], axis=1).astype(np.int64)
    ranks_B[np.isneginf(marks_B)] = UNRANKED
    return np.asarray(ranks_B)


def rank_and_top(
    scores_BN: NDArray[np.float32],
    targets_B: NDArray[np.int32],
    seen: Sequence[NDArray[np.int32]],
    *,
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each target's rank (B,) among the rows its user has not seen, and the rows shown.

    A target seen before, beyond the scores, or scored -inf is `UNRANKED`: a recommender that hides
    seen items cannot show it. Shown are the rows of all the top k lists, one list after another;
    items of score -inf are in no list.

    Raises:
        ValueError: a score is NaN, a target is padding, or lengths differ.

    >>> scores = np.array([[0, 3, 2, 1]], np.float32)
    >>> ranks_B, shown = rank_and_top(
    ...     scores, np.array([3], np.int32), [np.array([1], np.int32)], k=1
    ... )
    >>> ranks_B.tolist(), shown.tolist()
    ([2], [2])
    """
    masked_BN = unseen_scores(scores_BN, seen)
    ranks_B = _ranks(masked_BN, targets_B)
    return ranks_B, np.concatenate([top_k(scores_N, k) for scores_N in masked_BN])


def recall(ranks_T: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1 for each target ranked in the first k, else 0.

    With one relevant item per target this is recall@k and hit rate@k alike.

    >>> recall(np.array([1, 10, 11]), 10)
    array([1., 1., 0.])
    """
    return (ranks_T <= k).astype(np.float64)


def ndcg(ranks_T: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1 / log2(1 + rank) for each target ranked in the first k, else 0.

    References:
        Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques, TOIS 2002.

    >>> ndcg(np.array([1, 3, 11]), 10)
    array([1. , 0.5, 0. ])
    """
    return np.asarray(recall(ranks_T, k) / np.log2(1.0 + ranks_T))


def reciprocal_rank(ranks_T: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1 / rank for each target ranked in the first k, else 0: its mean is MRR@k.

    >>> reciprocal_rank(np.array([1, 4, 11]), 10)
    array([1.  , 0.25, 0.  ])
    """
    return recall(ranks_T, k) / ranks_T


def coverage(shown_N: NDArray[np.bool_]) -> float:
    """Return the share of the catalogue that some list showed; `shown_N` includes padding.

    >>> coverage(np.array([False, True, False]))
    0.5
    """
    return float(np.count_nonzero(shown_N[1:])) / max(1, len(shown_N) - 1)
