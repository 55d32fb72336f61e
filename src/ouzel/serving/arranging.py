"""What a request may ask of its list beyond the order of scores: as JSON, and in rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ouzel.ranking.conditions import LONGEST
from ouzel.retrieval.arrangement import Arrangement, Boost, Diversity, Explore, Method
from ouzel.retrieval.types import distinct_rows

MOST_BOOSTS = 16
MOST_BREADTH = 1000
MOST_BOOSTED = 1000
MOST_CAPS = 8
MOST_PINS = 100

BREADTH = 100
"""Candidates that are gathered where the request names no number."""

Id = Annotated[str, Meta(min_length=1, max_length=256, description="at most 256 bytes of UTF-8")]
Filter = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST,
        description='which items may be shown: category in ["shoes"] and price < 50',
    ),
]
SourceName = Literal["sequence", "vmis", "popular", "trending"]
Weight = Annotated[float, Meta(ge=0, le=1000)]
FieldName = Annotated[str, Meta(min_length=1, max_length=64)]

RowsOf = Callable[[list[str]], NDArray[np.int32]]
"""Returns the rows of items, 0 for those that are not known."""


class DiversityIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a list is to vary. `weight` 0 is the order of scores, 1 variety alone.

    `mmr` and `dpp` keep items apart that have like vectors; `calibrated` gives the values of
    `field` the shares that they have in the user's history.
    """

    method: Method
    weight: Annotated[float, Meta(ge=0, le=1)]
    field: FieldName | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError if a calibrated list has no `field`, or another has one."""
        if (self.field is None) == (self.method == "calibrated"):
            raise ValueError("a calibrated list has a field, such as genres, and no other has one")


class PinIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An item with a place of its own, from 1; one that may not be shown leaves it to others."""

    item_id: Id
    position: Annotated[int, Meta(ge=1, le=MOST_BREADTH)]


class ExploreIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Places drawn by chance, in proportion to exp(score / temperature).

    With a `seed` of your own the same request gives the same list, as long as its scores do.
    """

    temperature: Annotated[float, Meta(gt=0, le=1000)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 53)] | None = None


class BoostIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A factor on the weight of items: of those that `filter` holds for, or of `items`.

    2 makes an item twice as likely to be chosen, 0.5 half as likely. The weight is exp(score).
    """

    factor: Annotated[float, Meta(gt=0, le=1000)]
    filter: Filter | None = None
    items: Annotated[list[Id], Meta(min_length=1, max_length=MOST_BOOSTED)] | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError unless one of `filter` and `items` is given."""
        if (self.filter is None) == (self.items is None):
            raise ValueError("a boost is of a filter or of items: give one of them")


class Arranging(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What any list may be asked; nothing of it is the list of scores."""

    diversity: DiversityIn | None = None
    caps: Annotated[
        dict[FieldName, Annotated[int, Meta(ge=1, le=MOST_BREADTH)]], Meta(max_length=MOST_CAPS)
    ] = {}
    pins: Annotated[list[PinIn], Meta(max_length=MOST_PINS)] = []
    boosts: Annotated[list[BoostIn], Meta(max_length=MOST_BOOSTS)] = []
    explore: ExploreIn | None = None

    def arranges(self) -> bool:
        """Return whether anything is asked."""
        return bool(self.diversity or self.caps or self.pins or self.boosts or self.explore)


class Gathering(Arranging, kw_only=True, forbid_unknown_fields=True):
    """What a list that looks for its candidates may be asked as well.

    With `sources` their proposals are united, in the order of their weighted ranks. `breadth` is
    how many candidates are gathered before they are put in order; 0: as many as suit.
    """

    sources: dict[SourceName, Weight] = msgspec.field(default_factory=dict)
    breadth: Annotated[int, Meta(ge=0, le=MOST_BREADTH)] = 0

    def arranges(self) -> bool:
        """Return whether anything is asked."""
        # In one go, because every request is asked this.
        return bool(
            self.sources
            or self.breadth
            or self.diversity
            or self.caps
            or self.pins
            or self.boosts
            or self.explore
        )


def arrangement(
    asked: Arranging,
    k: int,
    *,
    rows_of: RowsOf,
    masks: Mapping[str, NDArray[np.bool_] | None],
    own_K: NDArray[np.int32] | None = None,
) -> Arrangement:
    """Return what is asked of a list of k, in rows.

    `masks` are those of its filters, see `filters_of`; a pin beyond the list is none.

    Raises:
        ValueError: all sources have the weight 0.

    >>> asked = Gathering(boosts=[BoostIn(factor=2, items=["heat"])], sources={"vmis": 1})
    >>> found = arrangement(asked, 5, rows_of=lambda ids: np.full(len(ids), 2), masks={})
    >>> found.weights, found.boosts[0].rows_R
    ({'vmis': 1}, array([2]))
    """
    sources: dict[Any, float] = asked.sources if isinstance(asked, Gathering) else {}
    if sources and not any(sources.values()):
        raise ValueError("every source has the weight 0: give one of them more")
    pins = zip(asked.pins, rows_of([pin.item_id for pin in asked.pins]).tolist(), strict=True)
    return Arrangement(
        weights=sources or None,
        own_K=own_K,
        diversity=_diversity(asked.diversity),
        caps=asked.caps,
        pins={row: pin.position for pin, row in pins if row > 0 and pin.position <= k},
        boosts=tuple(_boost(boost, rows_of, masks) for boost in asked.boosts),
        explore=_explore(asked.explore),
    )


def _diversity(asked: DiversityIn | None) -> Diversity | None:
    return None if asked is None else Diversity(asked.method, asked.weight, asked.field or "")


def _boost(asked: BoostIn, rows_of: RowsOf, masks: Mapping[str, NDArray[np.bool_] | None]) -> Boost:
    if asked.filter is not None:
        return Boost(asked.factor, None, masks[asked.filter])
    return Boost(asked.factor, distinct_rows(rows_of(asked.items or [])))


def _explore(asked: ExploreIn | None) -> Explore | None:
    if asked is None:
        return None
    seed = int.from_bytes(os.urandom(8)) if asked.seed is None else asked.seed
    return Explore(asked.temperature, seed)


def filters_of(asked: Arranging) -> list[str]:
    """Return the filters of the boosts.

    >>> filters_of(Arranging(boosts=[BoostIn(factor=2, filter="price < 5")]))
    ['price < 5']
    """
    return [boost.filter for boost in asked.boosts if boost.filter is not None]


def fields_of(asked: Arranging) -> list[str]:
    """Return the fields of items that the list goes by.

    >>> fields_of(Arranging(caps={"genres": 2}))
    ['genres']
    """
    calibrated = [] if asked.diversity is None else [asked.diversity.field]
    return [*asked.caps, *(field for field in calibrated if field is not None)]


def breadth_of(asked: Arranging, n: int) -> int:
    """Return how many candidates are gathered for a list of n.

    >>> breadth_of(Gathering(breadth=30), 10), breadth_of(Gathering(), 10)
    (30, 100)
    """
    named = asked.breadth if isinstance(asked, Gathering) else 0
    return max(n, named or BREADTH)


def distinct_items(rows_K: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the rows of items, each once, in the order in which they came.

    >>> distinct_items(np.array([7, 0, 3, 7], np.int32))
    array([7, 3], dtype=int32)
    """
    return np.array([row for row in dict.fromkeys(rows_K.tolist()) if row > 0], np.int32)
