"""eALS: factors of implicit feedback in which a popular item that was not seen counts more.

What is minimised, over the pairs S that were seen and over all pairs of users and items,

    sum_{(u, i) in S} (w_u . v_i - 1)^2 + sum_{u, i} c_i (w_u . v_i)^2
    + l2 (sum_u (n_u + sum_i c_i) |w_u|^2 + sum_i (n_i + U c_i) |v_i|^2),

where c_i is proportional to f_i^popularity and `alpha` on the mean, n_u the items of user u, and
f_i = n_i the users of item i, 1 if there are none: who passes over what everybody knows is likelier
not to want it. Up to a scale that is the loss of He et al. with a weight of 1 + c_i and a target of
1 / (1 + c_i) for pairs seen; the ridge is the frequency-scaled one of iALS++. A sweep sets one
entry of a vector after the other to its best value, for all users, then for all items.

An event is learned where it happens: the vector of its user, then that of its item, go to where
such steps would come to rest with all others as they are, by one solve. The Gram matrices of users
and items follow each change, so neither is ever summed up again.

Cost of a sweep: 2 E D + (U + N) D^2 multiply-adds for E pairs; of an event (n_u + n_i) D^2 +
2 D^3 / 3. A request folds its user in by the same solve, see `ouzel.inference.fold_in`.

References:
    He, Zhang, Kan and Chua, "Fast Matrix Factorization for Online Recommendation with Implicit
    Feedback", SIGIR 2016. Rendle, Krichene, Zhang and Koren, RecSys 2022, on the ridge.

Shape legend: U = users, N = catalogue rows with the padding row 0, D = dim, B = lines of a chunk,
L = longest of them, E = events, M = vectors of the other side that a line holds.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouzel.features.matrix import Matrix, chunks
from ouzel.models.about import About
from ouzel.models.encoder import Ridge, check_factors, check_matrix, unseen_weight
from ouzel.models.online import OnlineEncoder, Places


@dataclass(frozen=True, kw_only=True)
class EALSConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of user and item factors."""
    epochs: int = 30
    """At most this many sweeps; the best one on validation is kept."""
    alpha: float | None = None
    """Mean weight of a pair that was not seen, relative to one that was; None: `unseen_weight` of
    the data, and 0.3 where there are none to begin with."""
    popularity: float = 0.4
    """How that weight grows with the users of an item: 1 as they do, 0 not at all."""
    l2: float = 0.007
    """Weight of the ridge."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_factors(self)
        if not (self.weight > 0 and self.l2 > 0):
            raise ValueError(f"alpha is {self.alpha}, l2 is {self.l2}: give more than 0")
        if not self.popularity >= 0:
            raise ValueError(f"popularity is {self.popularity}: give 0 or more")

    @property
    def weight(self) -> float:
        """Return `alpha`, where it is left to the data that of a model without any."""
        return 0.3 if self.alpha is None else self.alpha


PRESETS = {"S": EALSConfig()}


class EALS(OnlineEncoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "eals"
    about = About(
        paper="He et al., SIGIR 2016",
        cost="a dozen sweeps; an event solves two systems of size dim, a request one",
        use="implicit feedback of any size that is to be learned, exactly, as it comes",
    )
    presets = PRESETS
    config: EALSConfig

    def __init__(self, config: EALSConfig, *, num_users: int, num_rows: int) -> None:
        super().__init__(config, num_users=num_users, num_rows=num_rows, std=0.1 / config.dim**0.5)
        offsets_U1 = np.zeros(num_users + 1, np.int64)
        self._matrix = Matrix(offsets_U1, np.empty(0, np.int32), num_rows)
        self._refresh: _Refresh | None = None

    @classmethod
    def settled(cls, config: EALSConfig, matrix: Matrix) -> EALSConfig:
        """Return a config whose `alpha` is told."""
        alpha = unseen_weight(matrix) if config.alpha is None else config.alpha
        return replace(config, alpha=alpha)

    @classmethod
    def build(cls, config: EALSConfig, *, num_users: int, num_rows: int) -> EALS:
        """Return an untrained model."""
        return cls(config, num_users=num_users, num_rows=num_rows)

    def ridge(self) -> Ridge:
        """Return how a user is folded in: the solve of the online refresh."""
        items_ND = self.items.weight.detach()
        weights_N = torch.from_numpy(self._weights()).float()
        base_DD = (items_ND * weights_N[:, None]).T @ items_ND
        return Ridge(base_DD, self.config.l2, float(weights_N.sum()), 1.0)

    def remember(self, matrix: Matrix) -> None:
        """Take in what was learned before: an event is learned beside all others of its item.

        Raises:
            ValueError: `matrix` is of other users or items.
        """
        check_matrix(matrix, self)
        self._matrix, self._refresh = matrix, None

    @torch.no_grad()
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean squared error on pairs seen, after improving all users, then all items.

        Raises:
            ValueError: `matrix` is of other users or items.
        """
        self.remember(matrix)
        users_UD, items_ND = self.users.weight, self.items.weight
        weights_N, l2 = torch.from_numpy(self._weights()).float(), self.config.l2
        base_DD = (items_ND * weights_N[:, None]).T @ items_ND
        all_alike_U = torch.ones(len(users_UD))
        ridge_U = l2 * (torch.from_numpy(matrix.lengths_U()) + weights_N.sum())
        _improve(users_UD, items_ND, matrix, base_DD, all_alike_U, ridge_U)
        # Lines of items hold users, whose count begins at 0: a row of zeros goes before them.
        lines = matrix.transposed()
        padded_MD = torch.cat([torch.zeros(1, users_UD.shape[1]), users_UD])
        lines = Matrix(lines.offsets_U1, lines.rows_E + 1, len(padded_MD))
        ridge_N = l2 * (torch.from_numpy(lines.lengths_U()) + weights_N * len(users_UD))
        ridge_N[0] = 1
        squares = _improve(items_ND, padded_MD, lines, users_UD.T @ users_UD, weights_N, ridge_N)
        items_ND[0] = 0
        return squares / max(1, len(matrix))

    @torch.no_grad()
    def partial_fit(self, users_E: Places, rows_E: Places) -> NDArray[np.float32]:
        """Return the score (E,) that each event had right before it was learned.

        A pair that was seen before refreshes its two vectors and is counted once.

        Raises:
            ValueError: the columns differ in length, or a user or a row is none.

        >>> model = EALS.build(EALSConfig(dim=4), num_users=1, num_rows=2)
        >>> scores = model.partial_fit(np.full(9, 2), np.full(9, 3, np.int32))
        >>> bool(scores[0] < 0.5 < scores[-1]), len(model.users.weight), len(model.items.weight)
        (True, 3, 4)
        """
        self.admit(users_E, rows_E)
        users_UD, items_ND = self.arrays()
        refresh = self._refresh
        if refresh is None or not refresh.holds(len(users_UD), len(items_ND)):
            seen = _Seen(self._matrix) if refresh is None else refresh.seen
            seen.widen(len(users_UD), len(items_ND))
            refresh = self._refresh = _Refresh(users_UD, items_ND, seen, self.config)
        pairs = zip(users_E.tolist(), rows_E.tolist(), strict=True)
        return np.array([refresh.learn(user, row) for user, row in pairs], np.float32)

    def _weights(self) -> NDArray[np.float64]:
        """Return the weight (N,) of each item where it was not seen."""
        refresh = self._refresh
        counts_N = self._matrix.counts_N() if refresh is None else refresh.seen.counts_N()
        powers_N = _powers(counts_N, self.config.popularity)
        scale = self.config.weight * (len(powers_N) - 1) / max(float(powers_N.sum()), 1.0)
        return powers_N * scale


def _powers(counts_N: NDArray[np.int64], popularity: float) -> NDArray[np.float64]:
    """Return what the weight of each item is a multiple of; 0 for the padding row."""
    powers_N: NDArray[np.float64] = np.maximum(counts_N, 1.0) ** popularity
    powers_N[0] = 0
    return powers_N


def _improve(
    side_XD: Tensor,
    other_MD: Tensor,
    lines: Matrix,
    base_DD: Tensor,
    weights_X: Tensor,
    ridge_X: Tensor,
) -> float:
    """Set each entry of one side's vectors to its best value; return the sum of squared errors.

    X are the lines of this side, `weights_X` what `base_DD` counts in each of them. Where a line
    is padded the other side is zeros, which say nothing.
    """
    squares, lengths = 0.0, lines.lengths_U()
    for chunk_B in chunks(lengths, side_XD.shape[1]):
        rows_BL, chunk = torch.from_numpy(lines.padded(chunk_B)), torch.from_numpy(chunk_B)
        other_DBL = other_MD[rows_BL].permute(2, 0, 1).contiguous()
        vectors_BD, weights_B, ridge_B = side_XD[chunk], weights_X[chunk], ridge_X[chunk]
        missing_BL = 1 - torch.einsum("dbl,bd->bl", other_DBL, vectors_BD)
        for d, entries_BL in enumerate(other_DBL):
            now_B = vectors_BD[:, d].clone()
            left_B = entries_BL.square().sum(1) + weights_B * base_DD[d, d] + ridge_B
            right_B = (entries_BL * missing_BL).sum(1) - ridge_B * now_B
            step_B = (right_B - weights_B * (vectors_BD @ base_DD[:, d])) / left_B
            vectors_BD[:, d] = now_B + step_B
            missing_BL -= entries_BL * step_B[:, None]
        side_XD[chunk] = vectors_BD
        squares += float(missing_BL[rows_BL > 0].square().sum())
    return squares


class _Seen:
    """Who has seen what, by user and by item, as it grows."""

    def __init__(self, matrix: Matrix) -> None:
        by_item = matrix.transposed()
        self.rows_of = [array("i", matrix.line(user)) for user in range(matrix.num_users)]
        self.users_of = [array("i", by_item.line(row)) for row in range(matrix.num_rows)]

    def widen(self, num_users: int, num_rows: int) -> None:
        """Make room for more users and items."""
        self.rows_of += [array("i") for _ in range(num_users - len(self.rows_of))]
        self.users_of += [array("i") for _ in range(num_rows - len(self.users_of))]

    def counts_N(self) -> NDArray[np.int64]:
        """Return how many users have seen each item."""
        return np.array([len(users) for users in self.users_of])

    def add(self, user: int, row: int) -> None:
        """Take in a pair, if it was not seen before."""
        if row not in self.rows_of[user]:
            self.rows_of[user].append(row)
            self.users_of[row].append(user)


class _Refresh:
    """The online update over the tables, with the Gram matrices that it keeps as it goes.

    `items_DD` is the sum over items of f^popularity v v^T, of which all weights are one multiple.
    """

    def __init__(
        self,
        users_UD: NDArray[np.float32],
        items_ND: NDArray[np.float32],
        seen: _Seen,
        config: EALSConfig,
    ) -> None:
        self._users_UD, self._items_ND, self.seen, self._config = users_UD, items_ND, seen, config
        powers_N = _powers(seen.counts_N(), config.popularity)
        self._powers = float(powers_N.sum())
        weighted_ND = items_ND * powers_N[:, None]
        self._items_DD = weighted_ND.T @ items_ND.astype(np.float64)
        self._users_DD = users_UD.T.astype(np.float64) @ users_UD

    def holds(self, num_users: int, num_rows: int) -> bool:
        """Return whether the tables still are those that were given."""
        return (len(self._users_UD), len(self._items_ND)) == (num_users, num_rows)

    def learn(self, user: int, row: int) -> float:
        """Return the score of a pair before its user, then its item, are solved for again."""
        users_UD, items_ND, seen = self._users_UD, self._items_ND, self.seen
        score = float(users_UD[user] @ items_ND[row])
        power = self._power(row)
        seen.add(user, row)
        item_D = items_ND[row].astype(np.float64)
        self._items_DD += (self._power(row) - power) * np.outer(item_D, item_D)
        self._powers += self._power(row) - power
        power, num_items = self._power(row), len(items_ND) - 1
        scale = self._config.weight * num_items / self._powers

        user_D = users_UD[user].astype(np.float64)
        others_MD = items_ND[np.frombuffer(seen.rows_of[user], np.int32)]
        solved_D = self._solved(others_MD, scale * self._items_DD, self._config.weight * num_items)
        users_UD[user] = solved_D
        self._users_DD += np.outer(solved_D, solved_D) - np.outer(user_D, user_D)

        others_MD = users_UD[np.frombuffer(seen.users_of[row], np.int32)]
        weight = scale * power
        solved_D = self._solved(others_MD, weight * self._users_DD, weight * len(users_UD))
        items_ND[row] = solved_D
        self._items_DD += power * (np.outer(solved_D, solved_D) - np.outer(item_D, item_D))
        return score

    def _solved(
        self, others_MD: NDArray[np.float32], base_DD: NDArray[np.float64], unseen: float
    ) -> NDArray[np.float64]:
        left_DD = (others_MD.T @ others_MD) + base_DD
        left_DD[np.diag_indices_from(left_DD)] += self._config.l2 * (len(others_MD) + unseen)
        solved_D: NDArray[np.float64] = np.linalg.solve(left_DD, others_MD.sum(axis=0))
        return solved_D

    def _power(self, row: int) -> float:
        return float(max(1, len(self.seen.users_of[row])) ** self._config.popularity)
