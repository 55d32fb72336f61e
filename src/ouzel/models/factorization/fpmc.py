"""FPMC: what a user likes, and what comes after the last item, as one score of two halves.

For a user u after item l, the score of item i is

    w_u . v_i + a_l . b_i,

a matrix of users and items and one of items and the items after them, each of its own factors. It
is learned by pairs: for each event, with another item j in place of i,

    - log sigmoid(score of i - score of j) + l2 / 2 (the squares of all vectors in it)

goes down its gradient, those of a batch added up. A first event has no item before it: a_0 = 0.

Who was not there in training has a vector too: the half w_u is folded in from the history (see
`ouzel.inference.fold_in`), where an item that was seen should score `taste`, and the half a_l is
that of the newest event.

Cost of a pass: 10 E D multiply-adds for E events. Serving has vectors of D numbers, half and half.

References:
    Rendle, Freudenthaler and Schmidt-Thieme, "Factorizing Personalized Markov Chains for
    Next-Basket Recommendation", WWW 2010.

Shape legend: E = events, U = users, N = catalogue rows with the padding row 0, D = dim, H = D / 2,
B = events of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ouzel.events.interactions import Interactions
from ouzel.features.matrix import Matrix, OrderedMatrix, ordered_matrix_of
from ouzel.models.about import About
from ouzel.models.drawing import unseen_rows
from ouzel.models.encoder import Encoder, Ridge, check_factors, check_matrix
from ouzel.models.online import check_steps


@dataclass(frozen=True, kw_only=True)
class FPMCConfig:
    """The shape of the model and its steps; every field changes what is computed."""

    dim: int = 128
    """Size D of an item's vector, half of it for users and half for the item before."""
    epochs: int = 100
    """At most this many passes over the data; the best one on validation is kept."""
    batch_size: int = 512
    """Events whose steps are taken at once; fewer if there are few events."""
    rate: float = 0.05
    """How far a step goes."""
    l2: float = 0.005
    """Weight of the ridge on the vectors of an event."""
    alpha: float = 0.1
    """Weight of an item that was not seen, relative to one that was, when a user is folded in."""
    taste: float = 4.0
    """What an item that was seen should score by taste when a user is folded in."""
    half_life: float | None = 10.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_factors(self)
        check_steps(self.rate, self.l2, self.alpha)
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}: give an even number, for two halves")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give 1 or more")
        if not self.taste > 0:
            raise ValueError(f"taste is {self.taste}: give more than 0")


EVENTS_A_SWEEP = 20_000
"""Small data are passed over more than once in a sweep, or it would change next to nothing."""

MOST_PASSES = 100
"""A handful of events would take thousands, one by one, and is learned long before."""

BATCHES_A_PASS = 8
"""At least, lest one step go too far."""

PRESETS = {"S": FPMCConfig()}


class FPMC(Encoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "fpmc"
    about = About(
        paper="Rendle et al., WWW 2010",
        cost="passes of a few seconds per million events; a request solves one system",
        use="what comes next hangs on taste and on the last event, and training must be quick",
    )
    presets = PRESETS
    config: FPMCConfig

    def __init__(self, config: FPMCConfig, *, num_users: int, num_rows: int) -> None:
        super().__init__(config, num_users=num_users, num_rows=num_rows, std=0.1)
        half = config.dim // 2
        self.users = nn.Embedding(num_users, half, _weight=0.1 * torch.randn(num_users, half))
        self.after = nn.Embedding(
            num_rows, half, padding_idx=0, _weight=0.1 * torch.randn(num_rows, half)
        )
        with torch.no_grad():
            self.after.weight[0] = 0

    @classmethod
    def build(cls, config: FPMCConfig, *, num_users: int, num_rows: int) -> FPMC:
        """Return an untrained model."""
        return cls(config, num_users=num_users, num_rows=num_rows)

    @classmethod
    def data_of(cls, interactions: Interactions) -> Matrix:
        """Return what a sweep reads: who had to do with what, and what came right before.

        Raises:
            ValueError: there is nothing in it, or a row is outside the catalogue.
        """
        return ordered_matrix_of(interactions)

    def ridge(self) -> Ridge:
        """Return how a user is folded in: least squares of one half, the newest event the other."""
        tastes = self.items.weight.detach()[:, : self.config.dim // 2]
        after = self.after.weight.detach() / self.config.taste
        return Ridge(self.config.alpha * tastes.T @ tastes, self.config.l2, 0.0, 1.0, after)

    @torch.no_grad()
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean loss before each step, one for each event in random order or several.

        Raises:
            ValueError: `matrix` is of other users or items, or does not know the order.
        """
        check_matrix(matrix, self)
        if not isinstance(matrix, OrderedMatrix):
            raise ValueError("this matrix does not say what came before what: use `data_of`")
        events = len(matrix.next_T)
        passes = min(MOST_PASSES, max(1, EVENTS_A_SWEEP // events))
        order = torch.cat([torch.randperm(events) for _ in range(passes)]).numpy()
        users_T, rows_T = matrix.users_T[order], matrix.next_T[order]
        given = (users_T, matrix.before_T[order], rows_T, unseen_rows(matrix, users_T, rows_T))
        columns = [torch.from_numpy(column.astype(np.int64)) for column in given]
        size, loss = min(self.config.batch_size, max(1, events // BATCHES_A_PASS)), 0.0
        for first in range(0, len(order), size):
            loss += self._step(*(column[first : first + size] for column in columns))
        self.items.weight[0] = 0
        return loss / len(order)

    def _step(self, users_B: Tensor, before_B: Tensor, rows_B: Tensor, others_B: Tensor) -> float:
        """Take the steps of a batch; return the sum of the losses before them."""
        users_UH, after_NH, items_ND = self.users.weight, self.after.weight, self.items.weight
        half = users_UH.shape[1]
        query_BD = torch.cat([users_UH[users_B], after_NH[before_B]], dim=1)
        item_BD, other_BD = items_ND[rows_B], items_ND[others_B]
        leads_B = (query_BD * (item_BD - other_BD)).sum(1)
        rate, shrink = self.config.rate, self.config.rate * self.config.l2
        steps_B1 = rate * torch.sigmoid(-leads_B)[:, None]
        moved_BD = steps_B1 * (item_BD - other_BD) - shrink * query_BD
        users_UH.index_add_(0, users_B, moved_BD[:, :half])
        after_NH.index_add_(0, before_B, moved_BD[:, half:])
        after_NH[0] = 0
        items_ND.index_add_(0, rows_B, steps_B1 * query_BD - shrink * item_BD)
        items_ND.index_add_(0, others_B, -steps_B1 * query_BD - shrink * other_BD)
        return float(nn.functional.softplus(-leads_B).sum())
