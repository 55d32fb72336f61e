"""What a model is: the protocol that training, export and the contract suite rely on."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SequenceEncoder(Protocol):
    """A model of histories. B = batch, L = length, D = vector size, N = catalogue rows."""

    def __call__(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time."""

    def item_vectors(self, rows_N: Tensor) -> Tensor:
        """Return the output-side vectors (N, D) of catalogue rows."""
