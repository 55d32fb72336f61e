"""What a sequence model is trained for, by name: a loss with the negatives that it needs.

Negatives are shared by a batch, so scoring them is one matrix product. Item vectors are made for
the rows that a batch needs, unless these are as many as the catalogue has.

Shape legend: T = positions with a target, D = vector size, N = catalogue rows, K = negatives, M =
rows that a batch needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouzel.events.interactions import Interactions
from ouzel.models.protocols import SequenceEncoder
from ouzel.training.losses import (
    binary_cross_entropy,
    calibration,
    cut_softmax,
    full_softmax,
    log_chances,
    pairwise,
    sampled_softmax,
)
from ouzel.training.samplers import popular_negatives, uniform_negatives

POPULARITY_POWER = 0.75
"""Of the counts that popular negatives are drawn by."""

POSITIONS_A_DRAW = 256
"""Positions that share negatives where not all of a batch do: about a sequence's."""


@dataclass(frozen=True)
class Loss:
    """A loss by name: against all items, or negatives drawn in one of three ways."""

    name: str
    negatives: Literal["all", "uniform", "popular", "batch"]
    of: Callable[..., Tensor]
    shares: bool = True
    """Whether a batch has one draw of negatives. What compares a target with them does not mind; a
    binary loss is to get the level of every item right, and would push a few of them at a time."""


LOSSES: tuple[Loss, ...] = (
    Loss("sampled_softmax", "uniform", sampled_softmax),
    Loss("popular_softmax", "popular", sampled_softmax),
    Loss("batch_softmax", "batch", sampled_softmax),
    Loss("full_softmax", "all", full_softmax),
    Loss("cut_softmax", "all", cut_softmax),
    Loss("bce", "uniform", binary_cross_entropy, shares=False),
    Loss("gbce", "uniform", binary_cross_entropy, shares=False),
    Loss("bpr", "uniform", pairwise),
)
"""Every loss that can be chosen; the first is the default."""


def loss_named(name: str) -> Loss:
    """Return the loss of this name.

    Raises:
        ValueError: there is none; the message suggests the nearest.

    >>> loss_named("gbc")
    Traceback (most recent call last):
    ...
    ValueError: there is no loss 'gbc': did you mean 'gbce'?
    """
    known = {loss.name: loss for loss in LOSSES}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
    raise ValueError(f"there is no loss {name!r}: {hint}")


class Objective:
    """A loss on the data of one training, with at most `num_negatives` negatives a batch."""

    def __init__(self, name: str, interactions: Interactions, *, num_negatives: int) -> None:
        self.loss = loss_named(name)
        self.num_rows = interactions.num_rows
        self.num_negatives = num_negatives
        self._exponent = calibration(num_negatives, self.num_rows - 1) if name == "gbce" else None
        self._log_chance_N: Tensor | None = None
        if self.loss.negatives in ("popular", "batch"):
            counts_N = np.bincount(interactions.rows_E, minlength=self.num_rows)
            power = POPULARITY_POWER if self.loss.negatives == "popular" else 1.0
            self._log_chance_N = log_chances(torch.from_numpy(counts_N), power=power)
            self._chance_ends_N = np.cumsum(self._log_chance_N.double().exp().numpy())

    def __call__(
        self,
        model: SequenceEncoder,
        vectors_TD: Tensor,
        targets_T: Tensor,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return the loss of user vectors whose next events are on the rows `targets_T`."""
        if self.loss.negatives == "all":
            return self.loss.of(vectors_TD, targets_T, model.item_vectors())
        if self.loss.name == "sampled_softmax" and self.num_negatives >= self.num_rows - 1:
            return full_softmax(vectors_TD, targets_T, model.item_vectors())
        negatives = torch.from_numpy(self._draws(targets_T.numpy(), rng))
        told = {} if self._exponent is None else {"exponent": self._exponent}
        log_chance_N = self._log_chance_N
        if len(targets_T) + negatives.numel() >= self.num_rows:
            items_ND = model.item_vectors()
        else:
            both = torch.cat([targets_T, negatives.flatten()])
            rows_M, places = torch.unique(both, return_inverse=True)
            items_ND = model.item(rows_M, model.items.weight)
            targets_T, negatives = (
                places[: len(targets_T)],
                places[len(targets_T) :].view(negatives.shape),
            )
            log_chance_N = None if log_chance_N is None else log_chance_N[rows_M]
        more = () if log_chance_N is None else (log_chance_N,)
        return self.loss.of(vectors_TD, targets_T, items_ND, negatives, *more, **told)

    def _draws(self, targets_T: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the negatives of a batch: (K,) for all, or (G, K) for runs of its positions."""
        if self.loss.shares:
            return self._draw(targets_T, rng)
        groups = max(1, -(-len(targets_T) // POSITIONS_A_DRAW))
        return np.stack([self._draw(targets_T, rng) for _ in range(groups)])

    def _draw(self, targets_T: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return negatives (K,)."""
        if self.loss.negatives == "uniform":
            return uniform_negatives(rng, num_rows=self.num_rows, count=self.num_negatives)
        if self.loss.negatives == "popular":
            return popular_negatives(rng, self._chance_ends_N, count=self.num_negatives)
        return targets_T[rng.permutation(len(targets_T))[: self.num_negatives]]
