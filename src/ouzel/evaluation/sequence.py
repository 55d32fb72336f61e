"""A Bundle's sequence model as a scorer: what serving runs, over the whole catalogue.

Shape legend: B = targets of a batch, N = catalogue rows with padding, D = vector size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ouzel.evaluation.protocol import Scorer
from ouzel.events.interactions import History
from ouzel.inference.encoding import HistoryEncoder
from ouzel.inference.onnxruntime import Graphs


def sequence_scorer(graphs: Graphs, vectors_ND: NDArray[np.float32]) -> Scorer:
    """Return the scorer of exported `graphs` with output-side item vectors.

    A user without known events gets the same score for every item, which ranks as a miss.

    >>> from types import SimpleNamespace
    >>> from ouzel.features.states import StateShape
    >>> graphs = SimpleNamespace(shape=StateShape(1, 1, 2, 4), num_rows=3)
    >>> score = sequence_scorer(graphs, np.ones((3, 2), np.float32))
    >>> unknown = History(np.array([7], np.int32), np.array([10], np.int64))
    >>> score([unknown], np.array([20])).tolist()
    [[0.0, 0.0, 0.0]]
    """
    encoder = HistoryEncoder(graphs)

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors_BD, _ = encoder(histories, now_ms)
        return np.asarray(vectors_BD @ vectors_ND.T, np.float32)

    return score
