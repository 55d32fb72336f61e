"""ISGD: factors that take one step of gradient descent for each event, and keep nothing else.

For an event of user u on item i, with the error e = 1 - w_u . v_i,

    w_u += rate (e v_i - l2 w_u),    v_i += rate (e w_u - l2 v_i),

both from the vectors before the event. So that not everything comes to be alike, `negatives` other
items drawn at random follow each event, with the target 0 in place of 1. With ratings for targets
and no negatives this is the matrix factorisation of the Netflix prize.

Cost of an event: 6 D multiply-adds for it and for each negative. A request folds its user in by
least squares, in which items that were not seen weigh `alpha` (see `ouzel.inference.fold_in`).

References:
    Vinagre, Jorge and Gama, "Fast Incremental Matrix Factorization for Recommendation with
    Positive-Only Feedback", UMAP 2014, and "Collaborative Filtering with Recency-Based Negative
    Feedback", SAC 2015. Funk, "Netflix Update: Try This at Home", 2006.

Shape legend: E = events, M = an event and its negatives, N = catalogue rows with the padding row 0,
D = dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.features.matrix import Matrix
from ouzel.models.about import About
from ouzel.models.drawing import other_rows
from ouzel.models.encoder import Ridge, check_factors, check_matrix
from ouzel.models.online import OnlineEncoder, Places, check_steps
from ouzel.models.steps import Tables, squared_steps


@dataclass(frozen=True, kw_only=True)
class ISGDConfig:
    """The shape of the model and its steps; every field changes what is computed."""

    dim: int = 64
    """Size D of user and item factors."""
    epochs: int = 20
    """At most this many passes over the data; the best one on validation is kept."""
    rate: float = 0.03
    """How far a step goes."""
    negatives: int = 6
    """Other items that a user is thought to pass over at each event."""
    l2: float = 0.01
    """Weight of the ridge on the vectors of an event."""
    alpha: float = 0.02
    """Weight of an item that was not seen, relative to one that was, when a user is folded in."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_factors(self)
        check_steps(self.rate, self.l2, self.alpha)
        if self.negatives < 0:
            raise ValueError(f"negatives is {self.negatives}: give 0 or more")


PRESETS = {"S": ISGDConfig()}


class ISGD(OnlineEncoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "isgd"
    about = About(
        paper="Vinagre, Jorge and Gama, UMAP 2014",
        cost="a step of under a microsecond for each event; a request solves one system",
        use="a stream that is to be learned as it comes, item by item and at almost no cost",
    )
    presets = PRESETS
    config: ISGDConfig

    @classmethod
    def build(cls, config: ISGDConfig, *, num_users: int, num_rows: int) -> ISGD:
        """Return an untrained model."""
        return cls(config, num_users=num_users, num_rows=num_rows, std=0.1)

    def ridge(self) -> Ridge:
        """Return how a user is folded in: least squares, the ridge once for each event."""
        items = self.items.weight.detach()
        return Ridge(self.config.alpha * items.T @ items, self.config.l2, 0.0, 1.0)

    @torch.no_grad()
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean squared error before each step, one for each pair in random order.

        Raises:
            ValueError: `matrix` is of other users or items.
        """
        check_matrix(matrix, self)
        order = torch.randperm(len(matrix)).numpy()
        scores_E = self.partial_fit(matrix.users_E()[order], matrix.rows_E[order])
        return float(np.square(1 - scores_E).mean())

    @torch.no_grad()
    def partial_fit(
        self,
        users_E: Places,
        rows_E: Places,
        targets_E: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the score (E,) that each event had right before its step.

        `targets_E` are what the scores should be, such as ratings, and no negatives are drawn then.

        Raises:
            ValueError: the columns differ in length, or a user or a row is none.

        >>> model = ISGD.build(ISGDConfig(dim=4), num_users=1, num_rows=2)
        >>> scores = model.partial_fit(np.full(400, 2), np.full(400, 3, np.int32))
        >>> bool(scores[0] < 0.5 < scores[-1]), len(model.users.weight), len(model.items.weight)
        (True, 3, 4)
        """
        self.admit(users_E, rows_E)
        if targets_E is None:
            return self._with_negatives(users_E, rows_E)
        if len(targets_E) != len(rows_E):
            raise ValueError(f"{len(rows_E)} rows and {len(targets_E)} targets: give one of each")
        return squared_steps(self._tables(), users_E, rows_E, targets_E)

    def _with_negatives(self, users_E: Places, rows_E: Places) -> NDArray[np.float32]:
        """Return the scores (E,) of the events, each with its M - 1 negatives right behind it."""
        negatives, num_rows = self.config.negatives, self.items.num_embeddings
        others = other_rows(np.repeat(rows_E, negatives), num_rows)
        others = others.reshape(len(rows_E), negatives)
        rows_EM = np.concatenate([rows_E.astype(np.int64)[:, None], others], axis=1)
        targets_EM = (np.arange(negatives + 1) == 0) | (rows_EM == rows_EM[:, :1])
        users_EM = np.broadcast_to(users_E[:, None], rows_EM.shape)
        flat = (users_EM.ravel(), rows_EM.ravel(), targets_EM.ravel().astype(np.float32))
        return squared_steps(self._tables(), *flat)[:: negatives + 1]

    def _tables(self) -> Tables:
        return Tables(*self.arrays(), self.config.rate, self.config.l2)
