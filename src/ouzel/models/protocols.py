"""What a model is: the interface that training, export and the contract suite rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class SequenceEncoder(nn.Module, ABC):
    """A model of histories. B = batch, L = length, D = vector size, N = catalogue rows."""

    @abstractmethod
    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time.

        `rows_BL` int64 catalogue rows, 0 where padded (at the end only); times int64 ms. A score
        is the inner product of a user vector with an item vector.
        """

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the output-side vectors (N, D) of all catalogue rows."""
