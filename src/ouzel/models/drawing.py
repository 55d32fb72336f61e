"""Items drawn at random to stand for those that a user passed over.

Shape legend: E = events.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ouzel.features.matrix import Matrix

Rows = NDArray[np.integer[Any]]


def other_rows(rows_E: Rows, num_rows: int) -> NDArray[np.int64]:
    """Return for each event a row that is not its own, each other one alike often.

    Of a catalogue of one item that item.

    >>> other_rows(np.array([1, 2]), 3).tolist()
    [2, 1]
    """
    others = num_rows - 2
    if others < 1:
        return rows_E.astype(np.int64)
    shift_E = torch.randint(others, (len(rows_E),)).numpy()
    others_E: NDArray[np.int64] = (rows_E + shift_E) % (others + 1) + 1
    return others_E


def unseen_rows(matrix: Matrix, users_E: Rows, rows_E: Rows) -> NDArray[np.int64]:
    """Return `other_rows`, those that their user has seen drawn again once.

    >>> both = Matrix(np.array([0, 2]), np.array([1, 2], np.int32), 3)
    >>> unseen_rows(both, np.array([0]), np.array([1])).tolist()
    [2]
    """
    others_E = other_rows(rows_E, matrix.num_rows)
    pairs = matrix.users_E().astype(np.int64) * matrix.num_rows + matrix.rows_E
    drawn_E = users_E.astype(np.int64) * matrix.num_rows + others_E
    places_E = np.searchsorted(pairs, drawn_E).clip(max=len(pairs) - 1)
    seen_E = pairs[places_E] == drawn_E
    others_E[seen_E] = other_rows(rows_E[seen_E], matrix.num_rows)
    return others_E
