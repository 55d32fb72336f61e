"""The kind of models that spread item vectors over the graph of who had to do with what.

A user is a node like an item, and has no vector of his own: it is made of those of his items. So
who comes later is treated as who was there in training.

Shape legend: D = dim, N = catalogue rows with the padding row 0, U = users, E = edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ouzel.features.matrix import Matrix
from ouzel.models.about import About


class GraphConfig(Protocol):
    """What every config of such a model says, beside what is the model's own."""

    @property
    def dim(self) -> int:
        """Return the size D of user and item vectors."""
        ...

    @property
    def epochs(self) -> int:
        """Return the most passes over the edges; the best one on validation is kept."""
        ...

    @property
    def learning_rate(self) -> float:
        """Return the step of Adam."""
        ...

    @property
    def batch_size(self) -> int:
        """Return how many edges there are in a step, each of which spreads over the whole graph."""
        ...

    @property
    def num_negatives(self) -> int:
        """Return how many items the edges of a step are told apart from."""
        ...

    @property
    def half_life(self) -> float | None:
        """Return after how many events one counts half as much in a request; None: all alike."""
        ...


@dataclass(frozen=True)
class Links:
    """The edges of a graph both ways, each with its weight; lines may be empty.

    Line u of `to_users` holds catalogue rows, line i of `to_items` users.
    """

    to_users: _Lines
    to_items: _Lines

    @classmethod
    def of(cls, matrix: Matrix) -> Self:
        """Return the edges of `matrix`, that of user u and item i with 1 / sqrt(n_u n_i)."""
        lengths_U = torch.from_numpy(matrix.lengths_U()).clamp(min=1).float()
        counts_N = torch.from_numpy(matrix.counts_N()).clamp(min=1).float()
        lines = matrix.transposed()
        rows_E, users_E = torch.from_numpy(matrix.rows_E), torch.from_numpy(lines.rows_E)
        each_U = torch.from_numpy(matrix.users_E())
        each_N = torch.from_numpy(lines.users_E())
        return cls(
            _Lines(
                torch.from_numpy(matrix.offsets_U1[:-1]),
                rows_E.long(),
                (lengths_U[each_U] * counts_N[rows_E]).rsqrt(),
            ),
            _Lines(
                torch.from_numpy(lines.offsets_U1[:-1]),
                users_E.long(),
                (lengths_U[users_E] * counts_N[each_N]).rsqrt(),
            ),
        )

    def users(self, items_ND: Tensor) -> Tensor:
        """Return the vectors (U, D) that users have by those of their items."""
        spread: Tensor = _Spread.apply(items_ND, self.to_users, self.to_items)  # type: ignore[no-untyped-call]
        return spread

    def items(self, users_UD: Tensor) -> Tensor:
        """Return the vectors (N, D) that items have by those of their users."""
        spread: Tensor = _Spread.apply(users_UD, self.to_items, self.to_users)  # type: ignore[no-untyped-call]
        return spread


@dataclass(frozen=True)
class _Lines:
    starts: Tensor
    places_E: Tensor
    weights_E: Tensor

    def of(self, vectors_MD: Tensor) -> Tensor:
        """Return the weighted sum of vectors of each line: a sparse matrix times a dense one."""
        return functional.embedding_bag(
            self.places_E, vectors_MD, self.starts, mode="sum", per_sample_weights=self.weights_E
        )


class _Spread(torch.autograd.Function):
    """A product with the edges one way; its gradient is that with the same edges the other way."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, there: _Lines, back: _Lines) -> Tensor:
        ctx.back = back
        return there.of(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back.of(gradients[0].contiguous()), None, None


class GraphEncoder(nn.Module, ABC):
    """A model that is trained by gradients, and serves as the product of two vectors.

    The vector of a user is made at each request, of the history as it is then: the sum of the
    `inputs` of its items, over the square root of how many they are. So every click counts in the
    very next answer, and nothing about a user is stored.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    config: GraphConfig
    items: nn.Embedding
    """What is trained (N, D)."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any, *, num_rows: int) -> Self:
        """Return an untrained model for a catalogue."""

    @abstractmethod
    def forward(self, links: Links) -> tuple[Tensor, Tensor]:
        """Return the vectors of users (U, D) and items (N, D); their product is the score."""

    @abstractmethod
    def settle(self, matrix: Matrix) -> None:
        """Keep for serving what the weights are now, spread over the graph of `matrix`."""

    @abstractmethod
    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model as it was settled last, by file and name.

        "items" has the `vectors` (N, D), "fold_in" what `ouzel.inference.fold_in` reads.
        """
