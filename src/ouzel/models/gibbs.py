"""Draws of the factors of one side, users or items, and of what they are spread around.

The vectors of a side are normal around a mean with one precision for all, and these are drawn too,
from a Normal-Wishart prior. With an *implicit* term the mean of a vector depends on which partners
its line has, whatever the values: it is m + x Y, where x is 1 / sqrt(n) at each of the n partners
and the rows of Y are normal around 0 with the precision of the vectors times l2.

Cost of a draw: E K^2 + X K^3 / 3 multiply-adds; of the implicit term min(X, M)^2 K more, and
min(X, M)^2 (max(X, M) + min(X, M)) once.

References:
    Salakhutdinov and Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain Monte
    Carlo", ICML 2008. Simm et al., "Macau: Scalable Bayesian Factorization with High-Dimensional
    Side Information using MCMC", MLSP 2017, for Y. Koren, "Factorization Meets the Neighborhood",
    KDD 2008, for x.

Shape legend: X = lines of this side, M = rows of the other, K = size of a vector, E = entries, B =
lines of a chunk, L = longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from ouzel.features.matrix import Matrix, RatedMatrix, cooccurrences

CHUNK_CELLS = 1 << 19
"""Numbers that are gathered at once: 2 MiB, which stays in cache."""

MOST_LINES = 24_000
"""Lines of the smaller side up to which an implicit term fits into memory: 2.3 GiB."""

MEAN_WEIGHT = 2.0
"""How many lines the prior counts for where the mean is drawn."""

FIRST_PRECISION = 10.0


@dataclass(frozen=True)
class _Chunk:
    lines_B: Tensor
    rows_BL: Tensor
    values_BL: Tensor


@dataclass(frozen=True)
class Prior:
    """What vectors are spread around: `mean_K` and what the partners add, `precision_KK`."""

    mean_K: Tensor
    precision_KK: Tensor
    partners_MK: Tensor | None
    """Y: what each partner adds; None without an implicit term."""


class Side:
    """All lines of a matrix and their vectors (X, K), zeros at first."""

    def __init__(self, matrix: RatedMatrix, size: int, *, l2: float | None) -> None:
        """Make a side of vectors of `size`; `l2` is that of its implicit term, None: it has none.

        Raises:
            ValueError: the implicit term does not fit into memory.
        """
        self.lengths_X = torch.from_numpy(matrix.pairs.lengths_U())
        self.vectors_XK = torch.zeros(matrix.pairs.num_users, size)
        self.prior = Prior(torch.zeros(size), FIRST_PRECISION * torch.eye(size), None)
        self._chunks = _chunks(matrix, size)
        self._implicit = None if l2 is None else _Implicit(matrix.pairs, l2)
        self._means_XK = torch.zeros_like(self.vectors_XK)

    def draw_vectors(self, features_MK: Tensor, offsets_M: Tensor, noise: float) -> float:
        """Draw all vectors given those of the other side; return the sum of squared errors.

        A value is normal around vector . feature + offset with the precision `noise`.
        """
        padded_MK = torch.cat([features_MK, torch.zeros_like(features_MK[:1])])
        offsets = torch.cat([offsets_M, torch.zeros(1)])
        precision_KK, squares = self.prior.precision_KK, 0.0
        pulls_XK = self._means_XK @ precision_KK
        for chunk in self._chunks:
            there_BL = chunk.rows_BL < len(features_MK)
            features_BLK = embedding(chunk.rows_BL, padded_MK)
            targets_BL = chunk.values_BL - embedding(chunk.rows_BL, offsets[:, None]).squeeze(2)
            targets_BL *= there_BL
            gram_BKK = features_BLK.transpose(1, 2) @ features_BLK
            told_BK = torch.einsum("blk,bl->bk", features_BLK, targets_BL)
            right_BK = noise * told_BK + pulls_XK[chunk.lines_B]
            vectors_BK = _draw(noise * gram_BKK + precision_KK, right_BK)
            explained_BK = 2 * told_BK - torch.einsum("bjk,bk->bj", gram_BKK, vectors_BK)
            squares += float(targets_BL.square().sum() - (explained_BK * vectors_BK).sum())
            self.vectors_XK[chunk.lines_B] = vectors_BK
        return squares

    def draw_prior(self) -> None:
        """Draw what the vectors are spread around, given the vectors of lines that have entries."""
        there_X = self.lengths_X > 0
        implicit, size = self._implicit, self.vectors_XK.shape[1]
        left_XK = self.vectors_XK - (0 if implicit is None else implicit.means_XK(size))
        left_XK = left_XK[there_X].double()
        count, mean_K = len(left_XK), left_XK.mean(0)
        apart_XK = left_XK - mean_K
        scatter_KK = torch.eye(size, dtype=torch.float64) + apart_XK.T @ apart_XK
        scatter_KK += MEAN_WEIGHT * count / (MEAN_WEIGHT + count) * torch.outer(mean_K, mean_K)
        freedom = float(size + count)
        if implicit is not None and implicit.partners_MK is not None:
            partners_MK = implicit.partners_MK[implicit.known_M].double()
            scatter_KK += implicit.l2 * partners_MK.T @ partners_MK
            freedom += len(partners_MK)
        precision_KK = _draw_wishart(freedom, torch.linalg.inv(scatter_KK))
        around_K = count * mean_K / (MEAN_WEIGHT + count)
        drawn_K = around_K + _noise((MEAN_WEIGHT + count) * precision_KK, 1)[0]
        mean_K, precision_KK = drawn_K.float(), precision_KK.float()
        partners = None
        self._means_XK = mean_K.expand(len(self.vectors_XK), -1)
        if implicit is not None:
            apart_XK = (self.vectors_XK - mean_K) * there_X[:, None]
            partners = implicit.draw(apart_XK, precision_KK)
            self._means_XK = mean_K + implicit.means_XK(size)
        self.prior = Prior(mean_K, precision_KK, partners)

    def settled_XK(self) -> Tensor:
        """Return the vectors as drawn; of a line without entries its mean, which is no guess."""
        return torch.where((self.lengths_X > 0)[:, None], self.vectors_XK, self._means_XK)


class _Implicit:
    """Y, what each partner of a line adds to its mean."""

    def __init__(self, lines: Matrix, l2: float) -> None:
        self.l2 = l2
        self.partners_MK: Tensor | None = None
        self.known_M = torch.from_numpy(lines.counts_N() > 0)
        self._scales_X = torch.from_numpy(lines.lengths_U()).clamp(min=1).float().rsqrt()
        self._rows_E = torch.from_numpy(lines.rows_E.astype(np.int64))
        self._offsets_X1 = torch.from_numpy(lines.offsets_U1)
        turned = lines.transposed()
        self._lines_E = torch.from_numpy(turned.rows_E.astype(np.int64))
        self._offsets_M1 = torch.from_numpy(turned.offsets_U1)
        self._by_line = lines.num_users < lines.num_rows
        smaller = min(lines.num_users, lines.num_rows)
        if smaller > MOST_LINES:
            raise ValueError(
                f"the implicit term needs {4 * smaller**2 / 2**30:.1f} GiB for {smaller:,} users "
                "or items: take svd, or leave rare ones out with k_core"
            )
        gram = self._gram_by_line(turned) if self._by_line else self._gram(lines)
        gram.diagonal().add_(l2)
        # Many solves follow, and a product is several times faster than two of triangles.
        self._inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(gram))

    def means_XK(self, size: int) -> Tensor:
        """Return x Y (X, K), what the partners of each line add."""
        if self.partners_MK is None:
            return torch.zeros(len(self._scales_X), size)
        return self._spread(self.partners_MK)

    def draw(self, apart_XK: Tensor, precision_KK: Tensor) -> Tensor:
        """Draw and return Y (M, K), given how far the vectors are from what else they are around.

        That is the solution of a ridge regression whose targets, and whose prior, are moved by
        noise (Simm et al., section 2).
        """
        noise_XK = _noise(precision_KK, len(apart_XK))
        noise_MK = _noise(precision_KK, len(self.known_M)) * self.l2**0.5
        right_MK = self._gathered(apart_XK + noise_XK) + noise_MK
        if self._by_line:
            inner_XK = self._inverse @ self._spread(right_MK)
            solved_MK = (right_MK - self._gathered(inner_XK)) / self.l2
        else:
            solved_MK = self._inverse @ right_MK
        self.partners_MK = solved_MK * self.known_M[:, None]
        return self.partners_MK

    def _spread(self, vectors_MK: Tensor) -> Tensor:
        sums_XK = embedding_bag(
            self._rows_E, vectors_MK, self._offsets_X1, mode="sum", include_last_offset=True
        )
        return sums_XK * self._scales_X[:, None]

    def _gathered(self, vectors_XK: Tensor) -> Tensor:
        scaled_XK = vectors_XK * self._scales_X[:, None]
        sums: Tensor = embedding_bag(
            self._lines_E, scaled_XK, self._offsets_M1, mode="sum", include_last_offset=True
        )
        return sums

    def _gram(self, lines: Matrix) -> Tensor:
        return _dense(lines, self._scales_X.square().double().numpy())

    def _gram_by_line(self, turned: Matrix) -> Tensor:
        return _dense(turned, None) * self._scales_X[:, None] * self._scales_X


def _dense(lines: Matrix, weights: np.ndarray | None) -> Tensor:
    gram = np.zeros((lines.num_rows, lines.num_rows), np.float32)
    for rows, others, sums in cooccurrences(lines, weights):
        gram[rows, others] = sums
    return torch.from_numpy(gram)


def _draw(precision_BKK: Tensor, right_BK: Tensor) -> Tensor:
    """Return draws (B, K) of the normal distributions with the means precision^-1 right."""
    factor_BKK, failed_B = torch.linalg.cholesky_ex(precision_BKK)
    if failed_B.any():
        raise ValueError("the factors grew beyond all bounds: take a smaller dim")
    half_BK1 = torch.linalg.solve_triangular(factor_BKK, right_BK[:, :, None], upper=False)
    half_BK1 += torch.randn_like(half_BK1)
    drawn_BK1: Tensor = torch.linalg.solve_triangular(factor_BKK.mT, half_BK1, upper=True)
    return drawn_BK1.squeeze(2)


def _noise(precision_KK: Tensor, count: int) -> Tensor:
    """Return draws (count, K) of the normal distribution around 0 with this precision."""
    factor_KK = torch.linalg.cholesky(precision_KK)
    plain = torch.randn(len(precision_KK), count, dtype=precision_KK.dtype)
    drawn: Tensor = torch.linalg.solve_triangular(factor_KK.T, plain, upper=True)
    return drawn.T


def _draw_wishart(freedom: float, scale_KK: Tensor) -> Tensor:
    """Return a draw (K, K) of the Wishart distribution, by Bartlett's decomposition."""
    size = len(scale_KK)
    squares_K = 2 * torch._standard_gamma((freedom - torch.arange(size).double()) / 2)
    lower_KK = torch.tril(torch.randn(size, size, dtype=scale_KK.dtype), -1)
    lower_KK += torch.diag(squares_K.sqrt())
    half_KK: Tensor = torch.linalg.cholesky(scale_KK) @ lower_KK
    return half_KK @ half_KK.T


def _chunks(matrix: RatedMatrix, size: int) -> list[_Chunk]:
    """Return lines of like length together, few enough to be gathered at once, rows padded."""
    lines, lengths_X = matrix.pairs, matrix.pairs.lengths_U()
    order = np.argsort(lengths_X, kind="stable")
    chunks, stop = [], len(order)
    while stop:
        longest = max(1, int(lengths_X[order[stop - 1]]))
        start = max(0, stop - max(1, CHUNK_CELLS // (size * max(longest, size))))
        lines_B = order[start:stop]
        column_L = np.arange(longest)
        there_BL = column_L < lengths_X[lines_B][:, None]
        places_BL = np.where(there_BL, lines.offsets_U1[lines_B][:, None] + column_L, 0)
        rows_BL = np.where(there_BL, lines.rows_E[places_BL], lines.num_rows).astype(np.int64)
        values_BL = np.where(there_BL, matrix.values_E[places_BL], 0).astype(np.float32)
        chunks.append(_Chunk(*map(torch.from_numpy, (lines_B, rows_BL, values_BL))))
        stop = start
    return chunks
