"""The kind of models that are one formula: a matrix of users and items in, arrays out.

Shape legend: N = catalogue rows with the padding row 0, n = events of a history, W = weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.matrix import Matrix
from ouzel.features.recency import fade_of
from ouzel.models.about import About


class ClosedFormConfig(Protocol):
    """What every config of such a model says, beside what is the model's own."""

    @property
    def keep(self) -> int:
        """Return how many weights of each row are kept, the largest."""
        ...

    @property
    def half_life(self) -> float | None:
        """Return after how many events one counts half as much; None: all count alike."""
        ...


@dataclass(frozen=True)
class ItemWeights:
    """Row i gives `values_W[offsets_N1[i]:offsets_N1[i + 1]]` to the rows there, ascending."""

    offsets_N1: NDArray[np.int64]
    rows_W: NDArray[np.int32]
    values_W: NDArray[np.float32]


class ClosedForm(ABC):
    """A model that is fitted at once, and serves as weights from item to item.

    A user's score of an item is the sum of the weights from the items of the history to it, the
    newest counted most. So every click counts in the very next answer, and nothing about a user is
    stored.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""

    def __init__(self, config: ClosedFormConfig, weights: ItemWeights) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    @abstractmethod
    def fit(cls, matrix: Matrix, config: Any) -> Self:
        """Return the model of `matrix`.

        Raises:
            ValueError: the matrix holds too little to fit.
        """

    @property
    def num_rows(self) -> int:
        """Return N."""
        return len(self.weights.offsets_N1) - 1

    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model: `ouzel.retrieval.item_item` reads it."""
        arrays: dict[str, NDArray[Any]] = {
            "offsets": self.weights.offsets_N1,
            "rows": self.weights.rows_W,
            "values": self.weights.values_W,
            "fade": np.array([fade_of(self.config.half_life)]),
        }
        return {"item_item": arrays}


def check_kept(keep: int, half_life: float | None) -> None:
    """Return nothing if a config may say this.

    Raises:
        ValueError: it may not.

    >>> check_kept(0, None)
    Traceback (most recent call last):
    ...
    ValueError: keep is 0: give 1 or more
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: give 1 or more")
    if half_life is not None and not half_life > 0:
        raise ValueError(f"half_life is {half_life}: give more than 0, or null for all alike")
