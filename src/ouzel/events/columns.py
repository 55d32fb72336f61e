"""Interactions as columns of ids, on their way from a file into the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EventColumns:
    """E interactions in file order; all columns have the same length.

    `timestamps_ms_E` int64 UTC milliseconds, `values_E` float32 (NaN if absent), `numbers_E`
    int64: the row number of each in its source, which together with the digest of the source
    makes its event id.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    verbs: Sequence[str]
    timestamps_ms_E: NDArray[np.int64]
    values_E: NDArray[np.float32]
    numbers_E: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {
            "user_ids": len(self.user_ids),
            "item_ids": len(self.item_ids),
            "verbs": len(self.verbs),
            "timestamps_ms_E": len(self.timestamps_ms_E),
            "values_E": len(self.values_E),
            "numbers_E": len(self.numbers_E),
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length {lengths}: give one entry an event in each")

    def __len__(self) -> int:
        return len(self.user_ids)
