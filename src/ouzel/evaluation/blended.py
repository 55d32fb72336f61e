"""A model blended with the other sources, as a scorer: what `ouzel.ranking.blending` serves.

Shape legend: B = targets of a batch, N = catalogue rows with padding, S = sources, K = items of the
union, F = numbers of an item from a source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.baselines import vmis_scorer
from ouzel.evaluation.metrics import unseen_scores
from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import History, Interactions
from ouzel.ranking.blend_kernel import BREADTH
from ouzel.ranking.blending import BLENDED, Blender, Ordered, ranks_of, union_of
from ouzel.ranking.fusion import fused_scores
from ouzel.retrieval.popular import RECENT_WINDOW_MS, popular_scores, recent_popular_scores
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.vmis import VMISkNN

Parts = Mapping[str, Scorer]
"""What is blended, the model first."""

Unions = Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]
"""Of each history the rows (K,) that some source proposes, and their numbers (K, S, F)."""

Order = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""(numbers (K, S, F) of a union, events of the history) -> scores (K,)."""


def parts_with(scorer: Scorer, train: Interactions) -> dict[str, Scorer]:
    """Return what is blended with the model that `scorer` is of, by the names of `BLENDED`.

    The others are fitted on `train`, and score as they do when they serve.

    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> list(parts_with(lambda histories, now_ms: None, from_histories([visit], num_rows=3)))
    ['model', 'vmis', 'popular', 'recent']
    """
    neighbours = vmis_scorer(VMISkNN.fit(train))

    def voted(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        votes_BN = neighbours(histories, now_ms)
        votes_BN[votes_BN <= 0] = -np.inf
        return votes_BN

    popular = _same_for_all(popular_scores(train))
    recent = _same_for_all(recent_popular_scores(train, window_ms=RECENT_WINDOW_MS))
    return dict(zip(BLENDED, (scorer, voted, popular, recent), strict=True))


def _same_for_all(scores_N: NDArray[np.float32]) -> Scorer:
    return lambda histories, now_ms: np.broadcast_to(scores_N, (len(histories), len(scores_N)))


def unions_of(scores_SBN: Sequence[NDArray[np.float32]], histories: list[History]) -> Unions:
    """Yield of each history the union of the best unseen items of every source.

    It is empty for a history of which the first source, the model, knows nothing.

    >>> visit = History(np.array([1], np.int32), np.array([10]))
    >>> scores_BN = np.array([[0, 9, 8, -np.inf]], np.float32)
    >>> [rows.tolist() for rows, _ in unions_of([scores_BN], [visit])]
    [[2]]
    """
    seen = [history.rows for history in histories]
    for lists in zip(*(_best_unseen(scores_BN, seen) for scores_BN in scores_SBN), strict=True):
        known = len(lists[0][0]) > 0
        yield union_of(lists if known else [(rows[:0], told[:0]) for rows, told in lists])


def _best_unseen(
    scores_BN: NDArray[np.float32], seen: Sequence[NDArray[np.int32]]
) -> Iterator[Ordered]:
    """Yield of each history the best unseen rows and their scores."""
    if scores_BN.strides[0]:
        for masked_N in unseen_scores(scores_BN, seen):
            best_K = top_k(masked_N, BREADTH)
            yield best_K, masked_N[best_K]
        return
    # The same for all: sorted once, as far as anybody may have to look.
    longest = max(map(len, seen), default=0)
    order_M = top_k(scores_BN[0], BREADTH + longest + 1) if len(seen) else np.empty(0, np.int64)
    for rows in seen:
        best_K = order_M[(order_M > 0) & ~np.isin(order_M, rows)][:BREADTH]
        yield best_K, scores_BN[0, best_K]


def blended_scorer(parts: Parts, blender: Blender) -> Scorer:
    """Return the scorer of the whole: the union in the blender's order, then what the model says.

    >>> visit = History(np.array([1], np.int32), np.array([10]))
    >>> one = lambda histories, now_ms: np.array([[0, 9, 8, 7]], np.float32)
    >>> score = blended_scorer(dict.fromkeys(BLENDED, one), Blender(-np.ones((2, 4, 3))))
    >>> int(score([visit], np.array([20]))[0].argmax())  # turned round by negative weights
    3
    """
    return _reordered(parts, blender.scores)


def fused_scorer(parts: Parts) -> Scorer:
    """Return the scorer of reciprocal-rank fusion with equal weights: what nothing is learned for.

    >>> visit = History(np.array([1], np.int32), np.array([10]))
    >>> one = lambda histories, now_ms: np.array([[0, 9, 8, 7]], np.float32)
    >>> score = fused_scorer({"model": one, "vmis": one})
    >>> score([visit], np.array([20]))[0].round(3).tolist()[2:]
    [0.032999999821186066, 0.03200000151991844]
    """

    def order(numbers_KSF: NDArray[np.float32], num_events: int) -> NDArray[np.float32]:
        return fused_scores(ranks_of(numbers_KSF), [1.0] * len(parts))

    return _reordered(parts, order)


def _reordered(parts: Parts, order: Order) -> Scorer:
    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_SBN = [part(histories, now_ms) for part in parts.values()]
        whole_BN = np.array(scores_SBN[0], np.float32)
        unions = zip(histories, unions_of(scores_SBN, histories), strict=True)
        for line, (history, (rows_K, numbers_KSF)) in enumerate(unions):
            if len(rows_K):
                ours_K = order(numbers_KSF, len(history))
                # What nobody proposed follows, in the model's order.
                whole_BN[line] += ours_K.min() - whole_BN[line].max() - 1
                whole_BN[line, rows_K] = ours_K
        return whole_BN

    return score
