"""BPR: factors that put what was seen before what was not, one pair of items at a time.

What is minimised, over events of a user u on an item i and others j drawn from all items,

    - log sigmoid(w_u . v_i - w_u . v_j) + l2 / 2 (|w_u|^2 + |v_i|^2 + |v_j|^2),

by one step of gradient descent for each, in random order. An other that the user has seen is drawn
again once.

Cost of an event: 10 D multiply-adds. A request folds its user in by least squares, in which items
that were not seen weigh `alpha` (see `ouzel.inference.fold_in`): the squares stand for the
logarithms, which near 0 they are but for their scale.

References:
    Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from
    Implicit Feedback", UAI 2009.

Shape legend: E = events, N = catalogue rows with the padding row 0, D = dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.features.matrix import Matrix
from ouzel.models.about import About
from ouzel.models.drawing import other_rows, unseen_rows
from ouzel.models.encoder import Ridge, check_factors, check_matrix
from ouzel.models.online import OnlineEncoder, Places, check_steps
from ouzel.models.steps import Tables, ranked_steps


@dataclass(frozen=True, kw_only=True)
class BPRConfig:
    """The shape of the model and its steps; every field changes what is computed."""

    dim: int = 64
    """Size D of user and item factors."""
    epochs: int = 100
    """At most this many passes over the data; the best one on validation is kept."""
    rate: float = 0.05
    """How far a step goes."""
    l2: float = 0.01
    """Weight of the ridge on the vectors of an event."""
    alpha: float = 0.1
    """Weight of an item that was not seen, relative to one that was, when a user is folded in."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_factors(self)
        check_steps(self.rate, self.l2, self.alpha)


PRESETS = {"S": BPRConfig()}


class BPR(OnlineEncoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "bpr"
    about = About(
        paper="Rendle et al., UAI 2009",
        cost="passes of a tenth of a second per million events; a request solves one system",
        use="the classic of ranking by pairs, and a stream that is to be learned as it comes",
    )
    presets = PRESETS
    config: BPRConfig

    @classmethod
    def build(cls, config: BPRConfig, *, num_users: int, num_rows: int) -> BPR:
        """Return an untrained model."""
        return cls(config, num_users=num_users, num_rows=num_rows, std=0.1)

    def ridge(self) -> Ridge:
        """Return how a user is folded in: least squares, the ridge once for each event."""
        items = self.items.weight.detach()
        return Ridge(self.config.alpha * items.T @ items, self.config.l2, 0.0, 1.0)

    @torch.no_grad()
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean loss before each step, one for each pair in random order.

        Raises:
            ValueError: `matrix` is of other users or items.
        """
        check_matrix(matrix, self)
        order = torch.randperm(len(matrix)).numpy()
        users_E, rows_E = matrix.users_E()[order].astype(np.int64), matrix.rows_E[order]
        others_E = unseen_rows(matrix, users_E, rows_E)
        scores_E, other_scores_E = self._steps(users_E, rows_E, others_E)
        return float(np.logaddexp(0, other_scores_E - scores_E).mean())

    @torch.no_grad()
    def partial_fit(self, users_E: Places, rows_E: Places) -> NDArray[np.float32]:
        """Return the score (E,) that each event had right before its step.

        Raises:
            ValueError: the columns differ in length, or a user or a row is none.

        >>> model = BPR.build(BPRConfig(dim=4), num_users=1, num_rows=4)
        >>> scores = model.partial_fit(np.full(400, 2), np.full(400, 3, np.int32))
        >>> bool(scores[0] < 0.5 < scores[-1]), len(model.users.weight), len(model.items.weight)
        (True, 3, 4)
        """
        self.admit(users_E, rows_E)
        return self._steps(users_E, rows_E, other_rows(rows_E, len(self.items.weight)))[0]

    def _steps(
        self,
        users_E: Places,
        rows_E: Places,
        others_E: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tables = Tables(*self.arrays(), self.config.rate, self.config.l2)
        if len(tables.items_ND) < 3:  # The only item has no other to be put before.
            scores_E = np.einsum("ed,ed->e", tables.users_UD[users_E], tables.items_ND[rows_E])
            return scores_E, np.zeros_like(scores_E)
        return ranked_steps(tables, users_E, rows_E, others_E)
