"""What a request may ask of its list beyond the order of scores: as JSON, and in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ouzel.ranking.conditions import LONGEST
from ouzel.retrieval.arrangement import Arrangement, Boost
from ouzel.retrieval.types import distinct_rows

MOST_BOOSTS = 16
MOST_BREADTH = 1000
MOST_BOOSTED = 1000

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

RowsOf = Callable[[list[str]], NDArray[np.int32]]
"""Returns the rows of items, 0 for those that are not known."""


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

    boosts: Annotated[list[BoostIn], Meta(max_length=MOST_BOOSTS)] = msgspec.field(
        default_factory=list
    )

    def arranges(self) -> bool:
        """Return whether anything is asked."""
        return bool(self.boosts)


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
        return bool(self.sources or self.breadth or self.boosts)


def arrangement(
    asked: Arranging,
    *,
    rows_of: RowsOf,
    masks: Mapping[str, NDArray[np.bool_] | None],
    own_K: NDArray[np.int32] | None = None,
) -> Arrangement:
    """Return what is asked, in rows; `masks` are those of its filters, see `filters_of`.

    Raises:
        ValueError: all sources have the weight 0.

    >>> asked = Gathering(boosts=[BoostIn(factor=2, items=["heat"])], sources={"vmis": 1})
    >>> found = arrangement(asked, rows_of=lambda ids: np.array([2]), masks={})
    >>> found.weights, found.boosts[0].rows_R
    ({'vmis': 1}, array([2]))
    """
    sources: dict[Any, float] = asked.sources if isinstance(asked, Gathering) else {}
    if sources and not any(sources.values()):
        raise ValueError("every source has the weight 0: give one of them more")
    boosts = []
    for boost in asked.boosts:
        if boost.filter is not None:
            boosts.append(Boost(boost.factor, None, masks[boost.filter]))
        else:
            boosts.append(Boost(boost.factor, distinct_rows(rows_of(boost.items or []))))
    return Arrangement(weights=sources or None, own_K=own_K, boosts=tuple(boosts))


def filters_of(asked: Arranging) -> list[str]:
    """Return the filters of the boosts.

    >>> filters_of(Arranging(boosts=[BoostIn(factor=2, filter="price < 5")]))
    ['price < 5']
    """
    return [boost.filter for boost in asked.boosts if boost.filter is not None]


def breadth_of(asked: Arranging, n: int) -> int:
    """Return how many candidates are gathered for a list of n.

    >>> breadth_of(Gathering(breadth=30), 10), breadth_of(Gathering(), 10)
    (30, 100)
    """
    named = asked.breadth if isinstance(asked, Gathering) else 0
    return max(n, named or BREADTH)
