"""Baselines as scorers: what every model is shown beside, fitted on the train part alone.

Shape legend: B = targets of a batch, N = catalogue rows with padding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import History, Interactions
from ouzel.retrieval.popular import RECENT_WINDOW_MS, PopularityWindow, popular_scores
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.vmis import VMISkNN


def popular_scorer(train: Interactions) -> Scorer:
    """Return the scorer that gives everybody the list of `train` by count.

    Scores are places in that list, so equal counts stand by lower row, as when it is served.

    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([2, 2], np.int32), np.array([1, 2]))
    >>> popular_scorer(from_histories([visit], num_rows=4))([visit], np.array([9])).tolist()
    [[0.0, 2.0, 3.0, 1.0]]
    """
    scores_N = _places(popular_scores(train))

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.broadcast_to(scores_N, (len(histories), len(scores_N)))

    return score


def _places(scores_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return N - 1 for the best item, down to 1 for the last, 0 for padding."""
    order = top_k(scores_N[1:], len(scores_N) - 1) + 1
    places_N = np.zeros(len(scores_N), np.float32)
    places_N[order] = np.arange(len(order), 0, -1)
    return places_N


def recent_popular_scorer(train: Interactions, *, window_ms: int = RECENT_WINDOW_MS) -> Scorer:
    """Return the scorer that counts the `window_ms` of `train` before each request.

    Items equal in the window stand in the order of all-time popularity. A request later than the
    end of `train` sees the window before that end: a model fitted then could know no more.

    Raises:
        ValueError: `window_ms` is not positive.

    >>> from ouzel.events.interactions import from_histories
    >>> visit = History(np.array([1, 2], np.int32), np.array([0, 50]))
    >>> scorer = recent_popular_scorer(from_histories([visit], num_rows=3), window_ms=10)
    >>> int(scorer([visit], np.array([51]))[0].argmax())
    2
    """
    window = PopularityWindow(train, window_ms=window_ms)
    tie_break_N = _places(popular_scores(train)) / np.float32(train.num_rows)
    latest = int(train.times_ms_E.max(initial=0)) + 1

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        times, place_B = np.unique(np.minimum(now_ms, latest), return_inverse=True)
        lists = np.stack([window.scores(time) for time in times.tolist()])
        lists += tie_break_N
        return lists[place_B]

    return score


def vmis_scorer(model: VMISkNN) -> Scorer:
    """Return the scorer of session neighbours; what no neighbour holds scores -inf.

    >>> from ouzel.events.interactions import from_histories
    >>> visits = [History(np.array(v, np.int32), np.array([1, 2])) for v in ([1, 2], [3, 4])]
    >>> scorer = vmis_scorer(VMISkNN.fit(from_histories(visits, num_rows=5)))
    >>> np.isfinite(scorer(visits, np.array([3, 3]))).sum(axis=1).tolist()
    [2, 2]
    """

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        scores_BN = np.full((len(histories), model.num_rows), -np.inf, np.float32)
        for scores_N, history in zip(scores_BN, histories, strict=True):
            rows, votes = model.scores(history.rows)
            scores_N[rows] = votes
        return scores_BN

    return score


def baseline_scorers(train: Interactions) -> dict[str, Scorer]:
    """Return every baseline by name, fitted on `train`.

    >>> from ouzel.events.interactions import from_histories
    >>> list(baseline_scorers(from_histories([], num_rows=3)))
    ['popular', 'recent_popular', 'vmis']
    """
    return {
        "popular": popular_scorer(train),
        "recent_popular": recent_popular_scorer(train),
        "vmis": vmis_scorer(VMISkNN.fit(train)),
    }
