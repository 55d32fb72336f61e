"""The kind of factor models that also learn from one event at a time: `partial_fit`.

A stream is learned in mini-batches of any size: how it is cut changes nothing about the vectors.

Shape legend: E = events, D = dim, U = users, N = catalogue rows with the padding row 0.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ouzel.features.matrix import Matrix
from ouzel.models.encoder import Encoder, EncoderConfig

Places = NDArray[np.integer[Any]]
"""Users or rows (E,), of any type of whole numbers."""


class OnlineEncoder(Encoder):
    """A factor model whose tables follow a stream of events, and grow with its users and items.

    A user is a place in the table `users`, from 0 on, whatever the log calls them.
    """

    def __init__(self, config: EncoderConfig, *, num_users: int, num_rows: int, std: float) -> None:
        super().__init__(config, num_users=num_users, num_rows=num_rows, std=std)
        self._std = std

    @classmethod
    @abstractmethod
    def build(cls, config: Any, *, num_users: int, num_rows: int) -> OnlineEncoder:
        """Return an untrained model."""

    @abstractmethod
    def partial_fit(self, users_E: Places, rows_E: Places) -> NDArray[np.float32]:
        """Return the score (E,) that each event had right before it was learned.

        Events are learned one after the other, in the order given; users and rows that are not in
        the tables come into them first. Many events at once cost much less than one at a time.

        Raises:
            ValueError: the columns differ in length, or a user or a row is none.
        """

    def remember(self, matrix: Matrix) -> None:
        """Take in what was learned before, in a model that was read from a file.

        Nothing by default: a step of gradient descent needs the vectors alone.
        """

    @torch.no_grad()
    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds: that of every encoder, and "learning", to go on from."""
        users_UD = self.users.weight.detach().numpy().copy()
        return {**super().tensors(), "learning": {"users": users_UD}}

    @torch.no_grad()
    def admit(self, users_E: Places, rows_E: Places) -> None:
        """Give each of these users and rows a vector, small and random, that has none yet.

        The tables are copied if they grow.

        Raises:
            ValueError: the columns differ in length, or a user or a row is none.
        """
        if len(users_E) != len(rows_E):
            raise ValueError(f"{len(users_E)} users and {len(rows_E)} rows: give one of each")
        if not len(users_E):
            return
        if users_E.min() < 0 or rows_E.min() < 1:
            raise ValueError(
                f"users begin at {users_E.min()}, rows at {rows_E.min()}: give users from 0 and "
                "rows from 1"
            )
        self.users = self._grown(self.users, int(users_E.max()) + 1)
        self.items = self._grown(self.items, int(rows_E.max()) + 1)

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return users (U, D) and items (N, D); what is written there is in the model."""
        return self.users.weight.detach().numpy(), self.items.weight.detach().numpy()

    def _grown(self, table: nn.Embedding, size: int) -> nn.Embedding:
        held = len(table.weight)
        if size <= held:
            return table
        fresh = torch.randn(size - held, self.config.dim) * self._std
        weights = torch.cat([table.weight, fresh])
        larger = nn.Embedding(size, self.config.dim, table.padding_idx, _weight=weights)
        return larger


def check_steps(rate: float, l2: float, alpha: float) -> None:
    """Return nothing if the config of a model that takes steps may say this.

    Raises:
        ValueError: it may not.

    >>> check_steps(0.0, 0.1, 0.1)
    Traceback (most recent call last):
    ...
    ValueError: rate is 0.0: give more than 0 and less than 1
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}: give more than 0 and less than 1")
    if not 0 < l2 * rate < 1:
        raise ValueError(f"l2 is {l2}: give more than 0, and less than {1 / rate:g}")
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}: give 0 or more")
