"""The kind of models that predict the value of a rating: an average over draws of all factors.

The rating that user u gives item i, in deviations of all ratings from their mean, is normal around

    r_ui = p_u . q_i + b_u + b_i

with a precision that is learned, and so is what users' (p, b) and items' (q, b) are spread around:
there is no ridge and no learning rate to choose. A sweep draws the vectors of all users given those
of items, then those of items given those of users (Gibbs sampling), each with its own system of
least squares. After a fifth of the sweeps, `samples` draws are kept, evenly spaced. A prediction is
the mean of what these say, which errs less than the best single set of factors does, most of all
where ratings are few.

It serves as one inner product: an item's vector holds (q, 1, b) of all draws, one behind the other,
and a request folds its user in, once for each draw (`ouzel.inference.rated_fold_in`).

Cost of a sweep: 2 E K^2 + (U + N) K^3 / 3 multiply-adds.

References:
    Salakhutdinov and Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain Monte
    Carlo", ICML 2008. Rendle, Zhang and Koren, "On the Difficulty of Evaluating Baselines", 2019,
    which finds it ahead of most that came later.

Shape legend: U = users, N = catalogue rows with the padding row 0, D = dim, K = size of what is
drawn for a user or an item (D, and 1 for a bias), S = draws kept, E = ratings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ouzel.features.matrix import RatedMatrix
from ouzel.models.about import About
from ouzel.models.gibbs import Prior, Side

WARM_UP = 0.2
"""The share of sweeps that no draw is kept of, for they still depend on where it began."""

FIRST_NOISE = 1.3
FIRST_STD = 0.1
IMPLIED = 0.75
"""The quantile of all values that an event without one is taken for: who chose it, likes it."""


class RatingConfig(Protocol):
    """What every config of such a model says, beside what is the model's own."""

    @property
    def dim(self) -> int:
        """Return the size D of user and item factors."""
        ...

    @property
    def epochs(self) -> int:
        """Return the number of sweeps."""
        ...

    @property
    def samples(self) -> int:
        """Return S, how many draws are kept."""
        ...


@dataclass(frozen=True)
class _Draw:
    items_NK: Tensor
    users: Prior
    noise: float


class RatingModel(nn.Module, ABC):
    """A model of ratings; whose rating is asked for need not have been there in training.

    Its tensors are draws and no parameters: what the last sweep left is always the best.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""

    def __init__(self, config: RatingConfig, matrix: RatedMatrix) -> None:
        """Make an untrained model of the ratings in `matrix`."""
        super().__init__()
        self.config = config
        values_E = matrix.values_E.astype(np.float64)
        self._mean, self._scale = float(values_E.mean()), float(values_E.std())
        self._implied = float(np.quantile(values_E, IMPLIED))
        scaled = ((values_E - self._mean) / self._scale).astype(np.float32)
        scaled_matrix, size = RatedMatrix(matrix.pairs, scaled), config.dim + self.biased
        # An item's line holds users, whose count begins at 0, so both sides have all rows.
        self._users = Side(scaled_matrix, size, l2=self.implicit)
        self._items = Side(scaled_matrix.transposed(), size, l2=self.implicit)
        self._items.vectors_XK[:, : config.dim].normal_(std=FIRST_STD)
        self._matrix = matrix
        self._noise = FIRST_NOISE
        self._sweeps = 0
        self._draws: list[_Draw] = []

    @classmethod
    def build(cls, config: Any, matrix: RatedMatrix) -> Self:
        """Return an untrained model of the ratings in `matrix`.

        Raises:
            ValueError: what it needs does not fit into memory.
        """
        return cls(config, matrix)

    @property
    @abstractmethod
    def biased(self) -> bool:
        """Return whether users and items have biases."""

    @property
    @abstractmethod
    def implicit(self) -> float | None:
        """Return the weight of the ridge of the implicit term, None if there is none."""

    @torch.no_grad()
    def sweep(self, matrix: RatedMatrix) -> float:
        """Return the mean squared error on the ratings, after drawing all vectors once.

        Raises:
            ValueError: `matrix` is not what the model was made for.
        """
        if matrix is not self._matrix:
            raise ValueError("the matrix is another than the model was made for: build one for it")
        self._users.draw_vectors(*self._as_other(self._items.vectors_XK), self._noise)
        self._users.draw_prior()
        items_NK, noise = self._as_other(self._users.vectors_XK), self._noise
        squares = self._items.draw_vectors(*items_NK, noise)
        self._items.draw_prior()
        shape, rate = torch.tensor([1 + len(matrix) / 2, 1 + squares / 2]).double()
        self._noise = float(torch._standard_gamma(shape) / rate)
        self._sweeps += 1
        if self._is_kept(self._sweeps):
            self._draws.append(self._drawn())
        return self._scale**2 * squares / len(matrix)

    def _as_other(self, vectors_XK: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the other side is multiplied with, and what is added to that."""
        if not self.biased:
            return vectors_XK, torch.zeros(len(vectors_XK))
        features_XK = vectors_XK.clone()
        features_XK[:, -1] = 1
        return features_XK, vectors_XK[:, -1]

    def _is_kept(self, sweep: int) -> bool:
        """Return whether the draw of a sweep is kept: `samples` of them, counted from the end.

        Fewer sweeps than that behind the first give fewer.
        """
        epochs, samples = self.config.epochs, self.config.samples
        apart = max(1, int(epochs * (1 - WARM_UP)) // samples)
        before_end = epochs - sweep
        warm = sweep > WARM_UP * epochs
        return warm and before_end % apart == 0 and before_end // apart < samples

    def _drawn(self) -> _Draw:
        return _Draw(self._items.settled_XK().clone(), self._users.prior, self._noise)

    @torch.no_grad()
    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model, by file and name.

        "items" has the `vectors` (N, S (K + 1)): of each draw what a user is multiplied with, then
        what an item gets from anybody. "fold_in" is what `ouzel.inference.rated_fold_in` reads.
        """
        draws = self._draws or [self._drawn()]
        parts, partners = [], []
        for draw in draws:
            features_NK, biases_N = self._as_other(draw.items_NK)
            base_N = self._mean + self._scale * biases_N
            parts.append(torch.cat([features_NK, base_N[:, None]], dim=1))
            if draw.users.partners_MK is not None:
                partners.append(draw.users.partners_MK)
        vectors = torch.cat(parts, dim=1)
        vectors[0] = 0
        fold_in = {
            "means": torch.stack([draw.users.mean_K for draw in draws]).numpy(),
            "precisions": torch.stack([draw.users.precision_KK for draw in draws]).numpy(),
            "noise": np.array([draw.noise for draw in draws]),
            "values": np.array([self._scale, self._implied]),
        }
        if partners:
            fold_in["partners"] = torch.cat(partners, dim=1).numpy()
        return {"items": {"vectors": vectors.numpy()}, "fold_in": fold_in}


def check_draws(config: RatingConfig) -> None:
    """Return nothing if a config may say this.

    Raises:
        ValueError: it may not.

    >>> from types import SimpleNamespace
    >>> check_draws(SimpleNamespace(dim=8, epochs=20, samples=0))
    Traceback (most recent call last):
    ...
    ValueError: samples is 0: give 1 or more
    """
    for name in ("dim", "epochs", "samples"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: give 1 or more")
