"""Requests about items, with what came of them: what models of fields learn from.

Shape legend: E = examples, S = places of the request's fields, A = actions, H = events of all
histories, B = examples of a batch, L = events read,
K = items of an example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Past:
    """What came before each example: `rows_H[starts_E:ends_E]`, oldest first."""

    rows_H: NDArray[np.int32]
    starts_E: NDArray[np.int64]
    ends_E: NDArray[np.int64]

    def newest(
        self, chosen_B: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the newest events (B, L) of some examples, oldest first, and how many they are.

        >>> past = Past(np.array([5, 6, 7], np.int32), np.array([0, 0]), np.array([3, 1]))
        >>> rows, lengths = past.newest(np.array([0, 1]), 2)
        >>> rows.tolist(), lengths.tolist()
        ([[6, 7], [5, 0]], [2, 1])
        """
        ends_B = self.ends_E[chosen_B]
        starts_B = np.maximum(self.starts_E[chosen_B], ends_B - length)
        length_B = ends_B - starts_B
        places_L = np.arange(length)
        there_BL = places_L < length_B[:, None]
        places_BL = np.where(there_BL, starts_B[:, None] + places_L, 0)
        rows_H = self.rows_H if len(self.rows_H) else np.zeros(1, np.int32)
        return np.where(there_BL, rows_H[places_BL], 0).astype(np.int64), length_B


@dataclass(frozen=True)
class Examples:
    """E requests: ids of their fields (E, S), K items each, labels (E, K, A), what was before.

    A label is 1 where the action happened, 0 where it did not, NaN where nobody knows.
    """

    requests_ES: NDArray[np.int32]
    rows_EK: NDArray[np.int32]
    labels_EKA: NDArray[np.float32]
    past: Past

    def __post_init__(self) -> None:
        lengths = {len(self.requests_ES), len(self.rows_EK), len(self.labels_EKA)}
        lengths.add(len(self.past.ends_E))
        if len(lengths) != 1:
            raise ValueError(f"columns of examples have lengths {sorted(lengths)}: give one length")

    def __len__(self) -> int:
        return len(self.rows_EK)

    def take(self, chosen_B: NDArray[np.int64]) -> Examples:
        """Return some of the examples; what was before them stays where it is.

        >>> past = Past(np.array([5], np.int32), np.zeros(2, np.int64), np.array([0, 1]))
        >>> two = Examples(np.ones((2, 1)), np.array([[3], [4]]), np.ones((2, 1, 1)), past)
        >>> two.take(np.array([1])).rows_EK.tolist()
        [[4]]
        """
        past = Past(self.past.rows_H, self.past.starts_E[chosen_B], self.past.ends_E[chosen_B])
        return Examples(
            self.requests_ES[chosen_B], self.rows_EK[chosen_B], self.labels_EKA[chosen_B], past
        )
