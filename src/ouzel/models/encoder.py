"""The kind of models that score by an inner product: a query's vector with an item's.

Shape legend: D = dim, N = catalogue rows with the padding row 0, U = users, n = events of a user.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ouzel.events.interactions import Interactions
from ouzel.features.matrix import Matrix, matrix_of
from ouzel.features.recency import fade_of
from ouzel.models.about import About


class EncoderConfig(Protocol):
    """What every config of an encoder says, beside what is the model's own."""

    @property
    def dim(self) -> int:
        """Return the size D of user and item factors."""
        ...

    @property
    def epochs(self) -> int:
        """Return the most passes over the data; the best one on validation is kept."""
        ...

    @property
    def half_life(self) -> float | None:
        """Return after how many events one counts half as much; None: all count alike."""
        ...


@dataclass(frozen=True)
class Ridge:
    """How a user is folded in: `base` (D, D) and the weight l2 (m + offset)^power of the ridge.

    m is the sum of the weights of the events. Of a model that reads the newest event, D is the size
    of the part that is folded in, and `after` (N, H) what that event adds behind it.
    """

    base: Tensor
    l2: float
    offset: float
    power: float
    after: Tensor | None = None


class Encoder(nn.Module, ABC):
    """A model of users and items as factors `users` (U, D) and `items` (N, D).

    Who is asked about need not have been there in training: the vector of a user is *folded in*
    from the history as it is now, by a ridge regression on item factors that stay as they are. So
    every click counts in the very next answer, and nothing about a user is stored.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    config: EncoderConfig
    users: nn.Embedding
    items: nn.Embedding
    """The row 0 is zeros."""

    def __init__(self, config: EncoderConfig, *, num_users: int, num_rows: int, std: float) -> None:
        """Make an untrained model for the users 0 to U - 1 of a matrix and for a catalogue."""
        super().__init__()
        self.config = config
        self.users = nn.Embedding(num_users, config.dim)
        self.items = nn.Embedding(num_rows, config.dim, padding_idx=0)
        nn.init.normal_(self.users.weight, std=std)
        nn.init.normal_(self.items.weight, std=std)
        with torch.no_grad():
            self.items.weight[0] = 0

    @classmethod
    def settled(cls, config: Any, matrix: Matrix) -> Any:
        """Return a config in which nothing is left to the data it is trained on."""
        return config

    @classmethod
    @abstractmethod
    def build(cls, config: Any, *, num_users: int, num_rows: int) -> Encoder:
        """Return an untrained model."""

    @classmethod
    def data_of(cls, interactions: Interactions) -> Matrix:
        """Return what a sweep reads.

        Raises:
            ValueError: there is nothing in it, or a row is outside the catalogue.
        """
        return matrix_of(interactions)

    @abstractmethod
    def ridge(self) -> Ridge:
        """Return how a user is folded in."""

    @abstractmethod
    def sweep(self, matrix: Matrix) -> float:
        """Return the mean loss on pairs seen, after improving all factors once by `data_of`.

        Raises:
            ValueError: `matrix` is of other users or items.
        """

    @torch.no_grad()
    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model, by file and name.

        "items" has the `vectors` (N, D), "fold_in" what `ouzel.inference.fold_in` reads.
        """
        ridge = self.ridge()
        fold_in = {
            "base": ridge.base.numpy(),
            "ridge": np.array([ridge.l2, ridge.offset, ridge.power]),
            "fade": np.array([fade_of(self.config.half_life)]),
        }
        if ridge.after is not None:
            fold_in["after"] = ridge.after.numpy()
        return {"items": {"vectors": self.items.weight.detach().numpy().copy()}, "fold_in": fold_in}


UNSEEN = 6.7
"""What all pairs that were not seen weigh together, relative to all that were: of the values
tried, that of the best NDCG@10 on validation for MovieLens-1M, and good on Amazon Beauty."""


def unseen_weight(matrix: Matrix) -> float:
    """Return what a pair that was not seen weighs, relative to one that was: `UNSEEN` E / (U N).

    A weight that does not follow the density of the data drowns what users of a sparse catalogue
    did in what they did not do.

    >>> lines = Matrix(np.array([0, 1, 2]), np.array([1, 2], np.int32), 101)
    >>> round(unseen_weight(lines), 6)
    0.067
    """
    pairs = matrix.num_users * (matrix.num_rows - 1)
    return UNSEEN * max(1, len(matrix)) / max(1, pairs)


def check_matrix(matrix: Matrix, model: Encoder) -> None:
    """Return nothing if a model is of the users and items of a matrix.

    Raises:
        ValueError: it is of others.

    >>> from types import SimpleNamespace
    >>> tables = SimpleNamespace(users=nn.Embedding(2, 4), items=nn.Embedding(3, 4))
    >>> check_matrix(Matrix(np.array([0, 1]), np.array([1], np.int32), 3), tables)
    ... # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the matrix has 1 users and 3 rows, the model 2 and 3: give the matrix ...
    """
    held = model.users.num_embeddings, model.items.num_embeddings
    if (matrix.num_users, matrix.num_rows) != held:
        raise ValueError(
            f"the matrix has {matrix.num_users} users and {matrix.num_rows} rows, the model "
            f"{held[0]} and {held[1]}: give the matrix it was made for"
        )


def check_factors(config: EncoderConfig) -> None:
    """Return nothing if a config may say this.

    Raises:
        ValueError: it may not.

    >>> from types import SimpleNamespace
    >>> check_factors(SimpleNamespace(dim=0, epochs=1, half_life=None))
    Traceback (most recent call last):
    ...
    ValueError: dim is 0, epochs is 1: give 1 or more
    """
    if config.dim < 1 or config.epochs < 1:
        raise ValueError(f"dim is {config.dim}, epochs is {config.epochs}: give 1 or more")
    if config.half_life is not None and not config.half_life > 0:
        raise ValueError(
            f"half_life is {config.half_life}: give more than 0, or null for all alike"
        )
