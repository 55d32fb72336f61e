"""The score that early stopping goes by: NDCG@10 of a torch model on validation targets.

Shape legend: B = batch, L = length, D = vector size, N = catalogue rows, T = targets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.evaluation.protocol import Scorer, Targets
from ouzel.evaluation.sample import mean_ndcg, sampled
from ouzel.events.interactions import History, Interactions
from ouzel.features.batches import pad_histories
from ouzel.models.protocols import SequenceEncoder


def torch_scorer(model: SequenceEncoder, *, max_length: int) -> Scorer:
    """Return the scorer of `model` on the newest `max_length` events of each history.

    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), num_rows=4)
    >>> visit = History(np.array([1, 2], np.int32), np.array([10, 20]))
    >>> torch_scorer(model, max_length=200)([visit], np.array([30])).shape
    (1, 4)
    """

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            padded = pad_histories([history.last(max_length) for history in histories])
            inputs = (padded.rows_BL, padded.times_BL, padded.length_B, now_ms)
            vectors_BD = model.user_vectors(*map(torch.from_numpy, inputs))
            scores_BN = vectors_BD @ model.item_vectors().T
            return np.asarray(scores_BN.numpy(), np.float32)

    return score


def ndcg_validator(
    model: SequenceEncoder,
    full: Interactions,
    targets: Targets,
    *,
    max_length: int,
    max_targets: int,
    seed: int,
) -> Callable[[], float]:
    """Return a function that gives the mean NDCG@10 on at most `max_targets` of `targets`.

    The sample is drawn once, so that epochs are compared on the same targets.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import from_histories
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> last = SimpleNamespace(users_T=np.array([0]), ends_T=np.array([1]))
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), x.num_rows)
    >>> ndcg_validator(model, x, last, max_length=4, max_targets=9, seed=0)()  # one item is left
    1.0
    """
    sample = sampled(targets, max_targets, seed=seed)
    scorer = torch_scorer(model, max_length=max_length)
    return lambda: mean_ndcg(scorer, full, sample)
