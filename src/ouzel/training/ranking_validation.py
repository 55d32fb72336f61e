"""The score that a ranker's early stopping goes by: NDCG@10 over the best items by retrieval.

Shape legend: B = targets of a batch, K = candidates, N = catalogue rows, L = length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouzel.evaluation.metrics import UNRANKED, ndcg
from ouzel.evaluation.protocol import Targets
from ouzel.events.interactions import History, Interactions
from ouzel.features.batches import pad_histories
from ouzel.models.protocols import Ranker, SequenceEncoder
from ouzel.training.states import States, rank_states, read_states

VALIDATION_BATCH = 64
CUT = 10


@dataclass(frozen=True)
class _Asked:
    """The states of a batch of targets, their candidates, and which of these are the targets."""

    states: States
    candidates_BK: Tensor
    is_target_BK: Tensor
    unknown_BK: Tensor


def ranked_validator(
    ranker: Ranker,
    model: SequenceEncoder,
    full: Interactions,
    targets: Targets,
    *,
    breadth: int,
    max_targets: int,
    seed: int,
) -> Callable[[], float]:
    """Return a function that gives the mean NDCG@10 of the ranker by its first action.

    The sample of at most `max_targets` of `targets`, the states and the `breadth` candidates of
    each are made once: 56 kB a target at preset S.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import from_histories
    >>> from ouzel.models.ranking import TargetAttention
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> x = from_histories([History(np.array([1, 2], np.int32), np.array([10, 20]))], num_rows=3)
    >>> last = SimpleNamespace(users_T=np.array([0]), ends_T=np.array([1]))
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1), x.num_rows).eval()
    >>> ranker = TargetAttention.build(model.config, ("interact",), x.num_rows).eval()
    >>> ranked_validator(ranker, model, x, last, breadth=5, max_targets=9, seed=0)()
    1.0
    """
    size = min(max_targets, len(targets.ends_T))
    chosen = np.random.default_rng(seed).permutation(len(targets.ends_T))[:size]
    users, ends = targets.users_T[chosen], targets.ends_T[chosen]
    order = np.argsort(ends - full.offsets_U1[users], kind="stable")
    parts = [order[start : start + VALIDATION_BATCH] for start in range(0, size, VALIDATION_BATCH)]
    batches = [_asked(model, full, users[part], ends[part], breadth) for part in parts]
    vectors_ND = model.item_vectors().detach()

    @torch.no_grad()
    def validate() -> float:
        ranks = [_ranks(ranker, batch, vectors_ND) for batch in batches]
        return float(ndcg(np.concatenate(ranks), CUT).mean())

    return validate


@torch.no_grad()
def _asked(
    model: SequenceEncoder,
    full: Interactions,
    users_B: NDArray[np.int64],
    ends_B: NDArray[np.int64],
    breadth: int,
) -> _Asked:
    starts_B = full.offsets_U1[users_B]
    histories = [
        History(full.rows_E[start:end], full.times_ms_E[start:end])
        for start, end in zip(starts_B.tolist(), ends_B.tolist(), strict=True)
    ]
    padded = pad_histories([history.last(model.config.window) for history in histories])
    each_B, newest_B = np.arange(len(histories)), padded.length_B - 1
    requests_BL = padded.times_BL.copy()
    requests_BL[each_B, newest_B] = full.times_ms_E[ends_B]
    inputs = (padded.rows_BL, padded.times_BL, requests_BL)
    states = read_states(model, inputs, (each_B, newest_B))
    scores_BN = states.query_BD @ model.item_vectors().T
    scores_BN[:, 0] = -torch.inf
    for scores_N, history in zip(scores_BN, histories, strict=True):
        scores_N[torch.from_numpy(history.rows.astype(np.int64))] = -torch.inf
    best = scores_BN.topk(min(breadth, scores_BN.shape[1]), dim=1)
    targets_B = torch.from_numpy(full.rows_E[ends_B].astype(np.int64))
    unknown_BK = best.values.isneginf()
    is_target_BK = (best.indices == targets_B.unsqueeze(1)) & ~unknown_BK
    return _Asked(states, best.indices, is_target_BK, unknown_BK)


def _ranks(ranker: Ranker, asked: _Asked, vectors_ND: Tensor) -> NDArray[np.int64]:
    """Return the rank of each target among its candidates; one that is none is unranked."""
    logits_BKA = rank_states(ranker, asked.states, asked.candidates_BK, vectors_ND)
    logits_BK = logits_BKA[..., 0].masked_fill(asked.unknown_BK, -torch.inf)
    marks_B1 = logits_BK.masked_fill(~asked.is_target_BK, -torch.inf).max(1, keepdim=True).values
    ranks_B = (logits_BK >= marks_B1).sum(1)
    ranks_B[~asked.is_target_BK.any(1)] = UNRANKED
    return np.asarray(ranks_B.numpy(), np.int64)
