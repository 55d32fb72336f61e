"""What makes the vector of a history, of any model that keeps no states.

Shape legend: N = catalogue rows, D = dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouzel.inference.fold_in import FoldIn, SumOfInputs
from ouzel.inference.rated_fold_in import RatedFoldIn

HistoryFold = FoldIn | SumOfInputs | RatedFoldIn
"""Whatever makes vectors of histories."""


def fold_in_of(
    tensors: Mapping[str, NDArray[Any]], vectors_ND: NDArray[np.floating]
) -> HistoryFold:
    """Return what a Bundle calls `fold_in`, over its item vectors.

    Raises:
        ValueError: a tensor is missing or does not fit the others.

    >>> inputs, fade = np.eye(3, 2, -1, dtype=np.float32), np.ones(1)
    >>> fold_in_of({"inputs": inputs, "fade": fade}, inputs).vector(np.array([1, 2])).round(2)
    array([0.71, 0.71], dtype=float32)
    """
    kind: type[HistoryFold] = FoldIn
    if "noise" in tensors:
        kind = RatedFoldIn
    elif "inputs" in tensors:
        kind = SumOfInputs
    return kind.from_tensors(tensors, vectors_ND)
