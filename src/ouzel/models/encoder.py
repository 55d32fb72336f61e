"""The kind of models that score by an inner product: a query's vector with an item's.

Shape legend: B = batch, K = items of one user, D = dim, N = catalogue rows with the padding row 0,
U = users, n = events of a history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ouzel.features.matrix import Matrix
from ouzel.models.about import About

Objective = Literal["sweep", "pairwise"]
"""How an encoder is trained: by its own exact `sweep`, or by the gradient of a loss on pairs."""


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


class Encoder(nn.Module, ABC):
    """A model of users and items as factors.

    Who is asked about need not have been there in training: the vector of a user is *folded in*
    from the history as it is now, by a ridge regression on item factors that stay as they are. So
    every click counts in the very next answer, and nothing about a user is stored.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    objective: ClassVar[Objective]
    config: EncoderConfig

    @abstractmethod
    def __init__(self, config: Any, *, num_users: int, num_rows: int) -> None:
        """Make an untrained model for the users 0 to U - 1 of a matrix and for a catalogue."""
        super().__init__()

    @abstractmethod
    def forward(self, users_B: Tensor, rows_BK: Tensor) -> Tensor:
        """Return the scores (B, K) of items for users of the training matrix."""

    @abstractmethod
    def encode(self, rows_n: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the vector (D,) folded in from a history, oldest event first; zeros if unknown.

        Rows that the model does not know are passed over; a row counts once, where it was last.
        """

    @abstractmethod
    def item_vectors(self) -> NDArray[np.float32]:
        """Return the vectors (N, D) whose product with a user's vector is the score."""

    @abstractmethod
    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model, by file and name.

        "items" has the `vectors` (N, D), "fold_in" what `ouzel.inference.fold_in` reads.
        """

    def sweep(self, matrix: Matrix) -> None:
        """Improve all factors once; for those whose objective is "sweep"."""
        raise NotImplementedError(f"{self.name} is trained by {self.objective}")
