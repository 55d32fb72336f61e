"""iALS++: factors of implicit feedback by exact least squares, block by block.

What is minimised, over the pairs S that were seen and over all pairs of users and items,

    sum_{(u, i) in S} (w_u . v_i - 1)^2 + alpha sum_{u, i} (w_u . v_i)^2
    + l2 (sum_u (n_u + alpha N)^power |w_u|^2 + sum_i (n_i + alpha U)^power |v_i|^2),

with n_u the items of user u and n_i the users of item i: a frequency-scaled ridge. Up to a scale
that is the loss of Hu, Koren and Volinsky with confidence 1 + 1 / alpha and target 1 / (1 + alpha).
A sweep solves for all users, then for all items. Of each vector it solves `block` entries at once,
the others staying as they are: with block >= dim that is ALS, with less it is iALS++, whose cost is
linear in D for a given block.

Cost of a sweep: 2 E D block + (U + N) D block^2 / 3 multiply-adds for E pairs. A request folds its
user in by the same solve, see `ouzel.inference.fold_in`.

References:
    Rendle, Krichene, Zhang and Koren, "iALS++: Speeding up Matrix Factorization with Subspace
    Optimization", 2021, and "Revisiting the Performance of iALS on Item Recommendation Benchmarks",
    RecSys 2022. Hu, Koren and Volinsky, ICDM 2008.

Shape legend: U = users, N = catalogue rows with the padding row 0, D = dim, B = lines of a chunk,
L = longest of them, P = block, M = rows of the other side, X = rows of this side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ouzel.features.matrix import Matrix, chunks
from ouzel.models.about import About
from ouzel.models.encoder import Encoder, Ridge, check_factors, check_matrix, unseen_weight


@dataclass(frozen=True, kw_only=True)
class IALSConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 128
    """Size D of user and item factors."""
    epochs: int = 16
    """At most this many sweeps; the best one on validation is kept."""
    alpha: float | None = None
    """Weight of a pair that was not seen, relative to one that was; None: `unseen_weight` of the
    data, and 0.3 where there are none to begin with."""
    l2: float = 0.007
    """Weight of the ridge."""
    power: float = 1.0
    """How the ridge grows with the number of events: 1 as they do, 0 not at all."""
    block: int = 64
    """Entries of a vector that are solved at once."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        check_factors(self)
        if self.block < 1:
            raise ValueError(f"block is {self.block}: give 1 or more")
        if not (self.weight > 0 and self.l2 > 0):
            raise ValueError(f"alpha is {self.alpha}, l2 is {self.l2}: give more than 0")
        if not self.power >= 0:
            raise ValueError(f"power is {self.power}: give 0 or more")

    @property
    def weight(self) -> float:
        """Return `alpha`, where it is left to the data that of a model without any."""
        return 0.3 if self.alpha is None else self.alpha


PRESETS = {"S": IALSConfig()}


class IALS(Encoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "ials"
    about = About(
        paper="Rendle et al., RecSys 2022",
        cost="a dozen sweeps of least squares; a request solves one system of size dim",
        use="implicit feedback of any size, taste more than order, a small vector for each item",
    )
    presets = PRESETS
    config: IALSConfig

    @classmethod
    def settled(cls, config: IALSConfig, matrix: Matrix) -> IALSConfig:
        """Return a config whose `alpha` is told."""
        alpha = unseen_weight(matrix) if config.alpha is None else config.alpha
        return replace(config, alpha=alpha)

    @classmethod
    def build(cls, config: IALSConfig, *, num_users: int, num_rows: int) -> IALS:
        """Return an untrained model."""
        return cls(config, num_users=num_users, num_rows=num_rows, std=0.1 / config.dim**0.5)

    def ridge(self) -> Ridge:
        """Return how a user is folded in: the solve of a sweep."""
        items = self.items.weight.detach()
        config = self.config
        seen_of = config.weight * (len(items) - 1)
        return Ridge(config.weight * items.T @ items, config.l2, seen_of, config.power)

    @torch.no_grad()
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean squared error on pairs seen, after solving all users, then all items.

        Raises:
            ValueError: `matrix` is of other users or items.
        """
        check_matrix(matrix, self)
        users, items = self.users.weight, self.items.weight
        self._solve(users, items, matrix, everything=len(items) - 1)
        # Lines of items hold users, whose count begins at 0: a row of zeros goes before them.
        lines = matrix.transposed()
        padded = torch.cat([torch.zeros(1, users.shape[1]), users])
        lines = Matrix(lines.offsets_U1, lines.rows_E + 1, len(padded))
        squares = self._solve(items, padded, lines, everything=len(users))
        items[0] = 0
        return squares / len(matrix)

    def _solve(self, side_XD: Tensor, other_MD: Tensor, lines: Matrix, *, everything: int) -> float:
        """Solve for all vectors of one side; return the sum of squared errors on pairs seen."""
        config, squares = self.config, 0.0
        base_DD = config.weight * other_MD.T @ other_MD
        lengths = lines.lengths_U()
        for chunk_B in chunks(lengths, config.dim):
            rows_BL = torch.from_numpy(lines.padded(chunk_B))
            length_B = torch.from_numpy(lengths[chunk_B])
            ridge_B = config.l2 * (length_B + config.weight * everything) ** config.power
            chunk = torch.from_numpy(chunk_B)
            solved_BD, errors_BL = _block_solve(
                side_XD[chunk], other_MD[rows_BL], base_DD, ridge_B.float(), config.block
            )
            side_XD[chunk] = solved_BD
            squares += float(errors_BL[rows_BL > 0].square().sum())
        return squares


def _block_solve(
    vectors_BD: Tensor, other_BLD: Tensor, base_DD: Tensor, ridge_B: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Return the vectors, each block solved with the others fixed, and what they miss 1 by (B, L).

    Where a line is padded, `other_BLD` is zeros, which changes neither side of a system.
    """
    missing_BL = 1 - torch.einsum("bld,bd->bl", other_BLD, vectors_BD)
    for first in range(0, vectors_BD.shape[1], block):
        part = slice(first, first + block)
        here_BLP, now_BP = other_BLD[:, :, part], vectors_BD[:, part]
        left_BPP = here_BLP.transpose(1, 2) @ here_BLP + base_DD[part, part]
        left_BPP.diagonal(dim1=1, dim2=2).add_(ridge_B[:, None])
        right_BP = torch.einsum("blp,bl->bp", here_BLP, missing_BL)
        right_BP -= vectors_BD @ base_DD[:, part] + ridge_B[:, None] * now_BP
        factor = _factor(left_BPP)
        step_BP = torch.cholesky_solve(right_BP[:, :, None], factor).squeeze(2)
        vectors_BD[:, part] = now_BP + step_BP
        missing_BL -= torch.einsum("blp,bp->bl", here_BLP, step_BP)
    return vectors_BD, missing_BL


def _factor(left_BPP: Tensor) -> Tensor:
    try:
        factor: Tensor = torch.linalg.cholesky(left_BPP)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise ValueError("the least squares have no single solution: give more l2") from None
    return factor
