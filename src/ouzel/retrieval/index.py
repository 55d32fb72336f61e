"""The promise of an item index: the nearest rows to a query vector by inner product.

Shape legend: B = queries, K = results, D = dimensions, M = rows touched by a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.types import all_finite

Excluded = Sequence[NDArray[np.int32]]
"""Per query, the rows that may not be returned: sorted, each once."""


Hidden = Sequence[NDArray[np.bool_] | None]
"""Per query, a mask (N,) of the rows that may not be returned either, None: no more than those."""


Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows (B, K) and scores (B, K), best first."""


class Search(Protocol):
    """What the request path asks of an index.

    Row 0 is padding and never returned. Where fewer than k rows are left, the rest of a result
    is row 0 with score -inf.
    """

    @property
    def recall(self) -> float:
        """Return the share of the exact best 10 that it finds, as it was measured; exact: 1."""
        ...

    def __len__(self) -> int:
        """Return the number of rows that can be found."""
        ...

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows (B, K) int32 and scores (B, K) float32, best first; ties by lower row."""
        ...

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row, None if it has none."""
        ...


class Engine(Search, Protocol):
    """A way to search vectors that do not change; `LiveIndex` changes them. One file a library.

    What it looks at is one number, its `effort`: how many rows it scores exactly, say, as
    `effort_name` tells. More finds more and takes longer. Where there is nothing to choose, the
    name is empty and the effort 0.
    """

    name: ClassVar[str]
    effort_name: ClassVar[str]
    effort: int
    recall: float

    def __init__(
        self,
        vectors_ND: NDArray[np.float32],
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        """Build it, or take what `to_tensors` gave for the same vectors.

        Raises:
            ValueError: as `why_not`, a vector is not finite, or the tensors are others'.
        """
        ...

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return why it cannot search so many rows of so many dimensions here, "" if it can."""
        ...

    @property
    def vectors_ND(self) -> NDArray[np.float32]:
        """Return the vectors (N, D) of all rows, padding row 0 included."""
        ...

    @property
    def most_effort(self) -> int:
        """Return the effort beyond which exact search is as fast, or no more can be found."""
        ...

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what was built, beside the vectors: arrays for a file."""
        ...


def check_search(
    queries_BD: NDArray[np.float32],
    k: int,
    exclude: Excluded | None,
    *,
    dim: int,
    hidden: Hidden | None = None,
) -> None:
    """Return nothing if an index of `dim` dimensions can answer this.

    Raises:
        ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
            `exclude` or `hidden` not one array per query.

    >>> check_search(np.ones((1, 2), np.float32), 5, None, dim=2)
    """
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least 1 result")
    if queries_BD.ndim != 2 or queries_BD.shape[1] != dim:
        raise ValueError(f"queries have shape {queries_BD.shape}: give (B, {dim})")
    if not all_finite(queries_BD):
        raise ValueError("a query holds NaN or infinity: give finite vectors")
    for name, given in (("exclude", exclude), ("hidden", hidden)):
        if given is not None and len(given) != len(queries_BD):
            raise ValueError(
                f"{name} has {len(given)} entries for {len(queries_BD)} queries: "
                "give one array per query"
            )


def check_vectors(vectors: NDArray[np.float32]) -> None:
    """Return nothing if these can be the vectors of an index.

    Raises:
        ValueError: they are not (rows, dimensions), or one is not finite.

    >>> check_vectors(np.ones((1, 2), np.float32))
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors have shape {vectors.shape}: give (rows, dimensions)")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector holds NaN or infinity: give finite vectors")
