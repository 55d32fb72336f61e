"""The input side of the item table: what an event of an item brings into a user's state.

The output side is most often the same vectors at length 1, which a server holds anyway. A Bundle
then has the lengths alone, and the few rows that a call reads are made when it reads them.

Shape legend: N = catalogue rows with the padding row 0, D = dimensions, M = rows of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle

RELATIVE_ERROR = 1e-6
"""Of a row, by which its direction times its length may miss it; float32 has 1.2e-7."""


class InputTable:
    """The rows (N, D), held whole, or as directions (N, D) with their lengths (N,).

    >>> table = InputTable(np.array([[0, 0], [1, 0], [0.6, 0.8]], np.float32), np.arange(3))
    >>> table.whole()[2].tolist()
    [1.2000000476837158, 1.600000023841858]
    """

    def __init__(
        self, rows_ND: NDArray[np.float32], lengths_N: NDArray[np.float32] | None = None
    ) -> None:
        self._rows_ND = np.ascontiguousarray(rows_ND, np.float32)
        self._lengths_N1 = None if lengths_N is None else lengths_N.astype(np.float32)[:, None]

    @classmethod
    def of(cls, bundle: Bundle) -> InputTable:
        """Return the table of a Bundle of a sequence model."""
        inputs = bundle.tensors("inputs")
        if "lengths" in inputs:
            return cls(bundle.tensors("items")["vectors"], inputs["lengths"])
        return cls(inputs["table"])

    def __len__(self) -> int:
        return len(self._rows_ND)

    @property
    def dim(self) -> int:
        """Return D."""
        return int(self._rows_ND.shape[1])

    def whole(self) -> NDArray[np.float32]:
        """Return all rows (N, D)."""
        if self._lengths_N1 is None:
            return self._rows_ND
        whole_ND: NDArray[np.float32] = self._rows_ND * self._lengths_N1
        return whole_ND

    def read(self, rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return a table that has these rows, and where in it each of them is, 0 for padding.

        Raises:
            ValueError: a row is not there.

        >>> table = InputTable(np.eye(3, dtype=np.float32), np.array([0, 2, 3]))
        >>> part, places = table.read(np.array([[2, 0]]))
        >>> part.tolist(), places.tolist()
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]], [[1, 0]])
        """
        if self._lengths_N1 is None:
            return self._rows_ND, rows
        rows_M = rows.reshape(-1)
        part = np.zeros((len(rows_M) + 1, self.dim), np.float32)
        try:
            np.multiply(self._rows_ND[rows_M], self._lengths_N1[rows_M], out=part[1:])
        except IndexError as error:
            raise ValueError(f"a row is not in the table of items: {error}") from None
        places_M = np.arange(1, len(rows_M) + 1)
        places_M[rows_M == 0] = 0
        return part, places_M.reshape(rows.shape)


def input_tensors(
    table_ND: NDArray[np.float32], vectors_ND: NDArray[np.float32]
) -> Mapping[str, NDArray[np.float32]]:
    """Return what a Bundle holds of an input side whose output side it has: the less of both.

    >>> list(input_tensors(np.array([[0], [3.0]], np.float32), np.array([[0], [1]], np.float32)))
    ['lengths']
    >>> list(input_tensors(np.array([[0], [3.0]], np.float32), np.array([[0], [2]], np.float32)))
    ['table']
    """
    lengths_N = np.linalg.norm(table_ND, axis=1).astype(np.float32)
    lengths_N[0] = 0
    missed_N = np.abs(vectors_ND * lengths_N[:, None] - table_ND).max(axis=1)
    if (missed_N[1:] <= RELATIVE_ERROR * lengths_N[1:]).all():
        return {"lengths": lengths_N}
    return {"table": table_ND}
