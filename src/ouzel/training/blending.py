"""Fitting of a blender: a softmax over the union of all sources, for the item that came next.

The softmax of a whole list is a smooth form of what LambdaRank does pair by pair: an item that
should have been first pulls away from each of those above it, most from the ones that are far
above. The weights are few and the loss is convex, so L-BFGS comes to rest in a hundred steps.

Shape legend: T = targets, K = items of the longest union, S = sources, F = numbers of an item.

References:
    Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.evaluation.blended import Parts, unions_of
from ouzel.evaluation.protocol import Targets
from ouzel.events.interactions import History, Interactions

STEPS = 100
L2 = 1e-3
"""Weight of the ridge that keeps weights from growing where sources are alike."""

BATCH = 256

Example = tuple[NDArray[np.float32], int, int]
"""Numbers (K, S, F) of a union, the place of the target in it, events of the history."""


def fit_blender(parts: Parts, full: Interactions, targets: Targets) -> NDArray[np.float64] | None:
    """Return the weights (2, S, F) that put `targets`, events of `full`, first.

    They are those of `ouzel.ranking.blending.Blender`. None: nobody proposes any of the targets.

    >>> from types import SimpleNamespace
    >>> from ouzel.events.interactions import from_histories
    >>> full = from_histories([History(np.array([1, 2], np.int32), np.arange(2))], num_rows=4)
    >>> last = SimpleNamespace(users_T=np.array([0]), ends_T=np.array([1]))
    >>> right, wrong = (lambda *told, s=s: np.array([s], np.float32) for s in ([0, 0, 9, 1],
    ...                                                                  [0, 0, 1, 9]))
    >>> weights_2SF = fit_blender({"model": wrong, "vmis": right}, full, last)
    >>> bool(weights_2SF[0, 1, 2] > 0 > weights_2SF[0, 0, 2])
    True
    """
    examples = list(_examples(parts, full, targets))
    if not examples:
        return None
    longest = max(len(numbers) for numbers, _, _ in examples)
    shape = (len(examples), longest, *examples[0][0].shape[1:])
    numbers_TKSF, there_TK = torch.zeros(shape), torch.zeros(shape[:2], dtype=torch.bool)
    for line, (numbers, _, _) in enumerate(examples):
        numbers_TKSF[line, : len(numbers)] = torch.from_numpy(numbers)
        there_TK[line, : len(numbers)] = True
    places_T = torch.tensor([place for _, place, _ in examples])
    short_T = torch.tensor([float(events) for _, _, events in examples]).rsqrt()
    weights_2SF = torch.zeros(2, *shape[2:], requires_grad=True)

    def loss() -> torch.Tensor:
        logits_2TK = torch.einsum("tksf,asf->atk", numbers_TKSF, weights_2SF)
        logits_TK = logits_2TK[0] + logits_2TK[1] * short_T[:, None]
        logits_TK = logits_TK.masked_fill(~there_TK, -torch.inf)
        missed = torch.nn.functional.cross_entropy(logits_TK, places_T)
        return missed + L2 * weights_2SF.square().sum()

    _descend(weights_2SF, loss)
    return np.asarray(weights_2SF.detach().numpy(), np.float64)


def _descend(weights: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _examples(parts: Parts, full: Interactions, targets: Targets) -> Iterator[Example]:
    """Yield what is learned from: targets that some source proposes."""
    for start in range(0, len(targets.ends_T), BATCH):
        ends_B = targets.ends_T[start : start + BATCH]
        firsts_B = full.offsets_U1[targets.users_T[start : start + BATCH]]
        histories = [
            History(full.rows_E[first:end], full.times_ms_E[first:end], full.values_E[first:end])
            for first, end in zip(firsts_B.tolist(), ends_B.tolist(), strict=True)
        ]
        scores_SBN = [part(histories, full.times_ms_E[ends_B]) for part in parts.values()]
        unions = zip(ends_B.tolist(), histories, unions_of(scores_SBN, histories), strict=True)
        for end, history, (rows_K, numbers_KSF) in unions:
            place = int(rows_K.searchsorted(full.rows_E[end]))
            if place < len(rows_K) and rows_K[place] == full.rows_E[end]:
                yield numbers_KSF, place, len(history)
