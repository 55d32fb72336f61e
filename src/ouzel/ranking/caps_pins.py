"""Rules of a list: at most so many items of one value, and items with places of their own.

Shape legend: K = candidates, P = pinned items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class Caps:
    """Which candidates a list may still take: `values[field]` are those of each candidate.

    An item counts for each of its values, and one without any is never too many.

    >>> caps = Caps({"genres": 1}, {"genres": [("Crime",), ("Crime", "Drama"), ()]}, 3)
    >>> caps.take(0)
    >>> caps.allowed_K
    array([False, False,  True])
    """

    def __init__(
        self,
        most: Mapping[str, int],
        values: Mapping[str, Sequence[Sequence[str]]],
        count: int,
    ) -> None:
        self.allowed_K = np.ones(count, np.bool_)
        self._most = most
        self._values = values
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._holders: dict[tuple[str, str], list[int]] = defaultdict(list)
        for field in most:
            for place, held in enumerate(values[field]):
                for value in held:
                    self._holders[field, value].append(place)

    def take(self, chosen: int) -> None:
        """Count a candidate that the list has taken."""
        for field, most in self._most.items():
            for value in self._values[field][chosen]:
                self._counts[field, value] += 1
                if self._counts[field, value] == most:
                    self.allowed_K[self._holders[field, value]] = False


def pinned_places(pins: Mapping[int, int], rows_K: NDArray[np.int32], caps: Caps) -> dict[int, int]:
    """Return the candidate (a position in K) of each pinned place, counted from 0.

    Pins are taken in the order of their places, as far as the caps allow; of two for a place the
    first holds it.

    >>> pinned_places({7: 2, 9: 1, 5: 2}, np.array([5, 7], np.int32), Caps({}, {}, 2))
    {1: 1}
    """
    at = {row: place for place, row in enumerate(rows_K.tolist())}
    held: dict[int, int] = {}
    for row, position in sorted(pins.items(), key=lambda pin: pin[1]):
        chosen = at.get(row)
        if chosen is None or position - 1 in held or not caps.allowed_K[chosen]:
            continue
        held[position - 1] = chosen
        caps.take(chosen)
    return held
