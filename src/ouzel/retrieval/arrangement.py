"""How a list is to be put together where scores alone do not decide, in rows.

Shape legend: N = catalogue rows, K = candidates, R = rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["mmr", "dpp", "calibrated"]


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much a list is to vary: `weight` 0 is the order of scores, 1 variety alone.

    `field` names the categories that a calibrated list takes from the user's history.
    """

    method: Method
    weight: float
    field: str = ""


@dataclass(frozen=True, slots=True)
class Boost:
    """A factor on the weight, exp(score), of some rows.

    They are the sorted `rows_R`; if None, those that `hidden_N` does not mark.
    """

    factor: float
    rows_R: NDArray[np.int32] | None
    hidden_N: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Explore:
    """Places drawn by chance: `temperature` 0 is none at all; `seed` makes it repeatable."""

    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """What one request asks of its list. Without any field it is the list of scores.

    `weights` are those of the sources whose proposals are united, by name; None: the sources are
    asked one after the other until there are enough. `own_K` are the only candidates, those of the
    caller. `caps` is how many items of a list may have one value of a field, `pins` which place,
    from 1, a row is to have.

    >>> Arrangement(caps={"genres": 2}).pins
    {}
    """

    weights: Mapping[str, float] | None = None
    own_K: NDArray[np.int32] | None = None
    diversity: Diversity | None = None
    caps: Mapping[str, int] = field(default_factory=dict)
    pins: Mapping[int, int] = field(default_factory=dict)
    boosts: tuple[Boost, ...] = ()
    explore: Explore | None = None

    def of_place(self, place: int) -> Arrangement:
        """Return what the list at `place` of many that are asked alike is to be: drawn by itself.

        >>> drawn = Arrangement(explore=Explore(temperature=1.0, seed=7))
        >>> drawn.of_place(0).explore == drawn.of_place(1).explore
        False
        """
        if self.explore is None:
            return self
        seed = np.random.SeedSequence([self.explore.seed, place]).generate_state(1, np.uint64)
        return replace(self, explore=replace(self.explore, seed=int(seed[0])))
