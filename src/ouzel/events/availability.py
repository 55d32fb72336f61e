"""Which items may be shown: the column `available` of the catalogue, as one mask for all stages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ouzel.events.catalog import Catalog
from ouzel.events.mapped_array import shared_zeros

COLUMN = "available"
HIDING = frozenset({"false", "no", "0"})
"""Texts of the column that hide an item, in whatever case; all others show it."""


class Availability:
    """The rows below `num_rows` that nobody may see; changed in place, so that it is one mask.

    Processes forked later see the changes too.

    >>> catalog = Catalog(["heat", "alien"])
    >>> availability = Availability(catalog, num_rows=3)
    >>> availability.hidden is None  # nothing to look at
    True
    >>> availability.change(2, {"available": "false"})
    >>> availability.hidden
    array([False, False,  True])
    """

    def __init__(self, catalog: Catalog, *, num_rows: int) -> None:
        self._hidden_N = shared_zeros((num_rows,), np.bool_)
        self._count_1 = shared_zeros((1,), np.int64)
        if COLUMN in catalog.column_names:
            texts = catalog.column(COLUMN)
            self._hidden_N[:] = [is_hiding(texts[row]) for row in range(num_rows)]
        self._count_1[0] = self._hidden_N.sum()

    @property
    def hidden(self) -> NDArray[np.bool_] | None:
        """Return the mask (N,) of hidden rows, None while there is none."""
        return self._hidden_N if self._count_1[0] else None

    @property
    def shared(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return the mask (N,) itself, and (1,) how many it hides: both change in place."""
        return self._hidden_N, self._count_1

    def change(self, row: int, columns: Mapping[str, str]) -> None:
        """Let new columns of an item take effect."""
        if COLUMN in columns and row < len(self._hidden_N):
            hides = is_hiding(columns[COLUMN])
            self._count_1[0] += int(hides) - int(self._hidden_N[row])
            self._hidden_N[row] = hides


def is_hiding(text: str) -> bool:
    """Return whether this text in the column hides its item.

    >>> is_hiding("False"), is_hiding("")
    (True, False)
    """
    return text.strip().lower() in HIDING
