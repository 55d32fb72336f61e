"""The score that early stopping goes by: NDCG@10 of a torch model on validation targets.

Shape legend: B = batch, L = length, D = vector size, N = catalogue rows, T = targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.evaluation.metrics import ndcg
from ouzel.evaluation.protocol import Scorer, Targets, evaluate
from ouzel.events.interactions import History, Interactions
from ouzel.features.batches import pad_histories
from ouzel.models.protocols import SequenceEncoder


@dataclass(frozen=True)
class _Sample:
    users_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]


def torch_scorer(model: SequenceEncoder, *, max_length: int) -> Scorer:
    """Return the scorer of `model` on the newest `max_length` events of each history."""

    def score(histories: list[History], now_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            padded = pad_histories([history.last(max_length) for history in histories])
            requests_BL = padded.times_BL.copy()
            newest_B = np.maximum(padded.length_B - 1, 0)
            each_B = np.arange(len(histories))
            requests_BL[each_B, newest_B] = now_ms
            inputs = (padded.rows_BL, padded.times_BL, requests_BL)
            vectors_BLD = model(*map(torch.from_numpy, inputs))
            scores_BN = vectors_BLD[each_B, newest_B] @ model.item_vectors().T
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
    """
    size = min(max_targets, len(targets.ends_T))
    chosen = np.random.default_rng(seed).permutation(len(targets.ends_T))[:size]
    sample = _Sample(targets.users_T[chosen], targets.ends_T[chosen])
    scorer = torch_scorer(model, max_length=max_length)

    def validate() -> float:
        report = evaluate(scorer, full, sample, model="validation", split="validation")
        return float(ndcg(report.ranks_T, report.k).mean())

    return validate
