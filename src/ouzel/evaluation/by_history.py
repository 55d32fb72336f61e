"""Models that keep no state as scorers: what serving runs, over the whole catalogue.

Shape legend: B = targets of a batch, N = catalogue rows with padding, D = vector size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.protocol import Scorer
from ouzel.evaluation.rating import Predictor
from ouzel.events.interactions import History
from ouzel.inference.history_fold import fold_in_of
from ouzel.inference.rated_fold_in import RatedFoldIn
from ouzel.retrieval.item_item import ItemItem

Tensors = Mapping[str, Mapping[str, NDArray[Any]]]
"""What a Bundle holds, by file and name."""


def fold_in_scorer(tensors: Tensors) -> Scorer:
    """Return the scorer of a factor model's `items` and `fold_in`.

    A user without known events gets the same score for every item, which ranks as a miss.

    >>> eye = np.eye(3, 2, -1, dtype=np.float32)
    >>> fold_in = {"base": np.zeros((2, 2)), "ridge": np.ones(3)}
    >>> tensors = {"items": {"vectors": eye}, "fold_in": {**fold_in, "fade": np.ones(1)}}
    >>> visit = History(np.array([2], np.int32), np.array([10]))
    >>> fold_in_scorer(tensors)([visit], np.array([20])).argmax()
    np.int64(2)
    """
    vectors_ND = np.asarray(tensors["items"]["vectors"], np.float32)
    fold_in = fold_in_of(tensors["fold_in"], vectors_ND)
    nothing = np.zeros(vectors_ND.shape[1], np.float32)

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        asked = zip(histories, now_ms.tolist(), strict=True)
        vectors = [fold_in.query_session(history, now) for history, now in asked]
        vectors_BD = np.stack([nothing if one is None else one for one in vectors])
        return np.asarray(vectors_BD @ vectors_ND.T, np.float32)

    return score


def rating_predictor(tensors: Tensors) -> Predictor:
    """Return what a model of ratings predicts, from its `items` and `fold_in`.

    Who has rated nothing is taken for the average of all users.

    >>> fold_in = {"means": np.zeros((1, 1)), "precisions": np.ones((1, 1, 1))}
    >>> fold_in |= {"noise": np.ones(1), "values": np.array([1.0, 4.0])}
    >>> vectors = np.array([[0, 0], [1, 3]], np.float32)
    >>> predict = rating_predictor({"items": {"vectors": vectors}, "fold_in": fold_in})
    >>> rated = History(np.array([1], np.int32), np.array([10]), np.array([5], np.float32))
    >>> predict(rated, np.array([1])).tolist(), predict(rated.last(0), np.array([1])).tolist()
    ([4.0], [3.0])
    """
    vectors_ND = np.asarray(tensors["items"]["vectors"], np.float32)
    fold_in = RatedFoldIn.from_tensors(tensors["fold_in"], vectors_ND)

    def predict(history: History, rows_K: NDArray[np.int32]) -> NDArray[np.float64]:
        vector = fold_in.query_session(history, 0)
        vector = fold_in.stranger() if vector is None else vector
        return np.asarray(vectors_ND[rows_K] @ vector, np.float64)

    return predict


def item_item_scorer(tensors: Tensors) -> Scorer:
    """Return the scorer of weights from item to item; what nothing speaks of scores -inf.

    >>> arrays = {"offsets": np.array([0, 0, 1, 2]), "rows": np.array([2, 1])}
    >>> arrays |= {"values": np.array([0.5, 0.2]), "fade": np.ones(1)}
    >>> visit = History(np.array([2], np.int32), np.array([10]))
    >>> item_item_scorer({"item_item": arrays})([visit], np.array([20])).argmax()
    np.int64(1)
    """
    item_item = ItemItem.from_tensors(tensors["item_item"])

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([item_item.scores(history.rows) for history in histories])

    return score
