"""Which column is which: the names that other systems use for the five canonical columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

CANONICAL = ("user_id", "item_id", "event", "timestamp", "value")
"""The columns of an event table; the first two are required."""

RATING_NAMES = frozenset({"rating", "overall", "score", "stars"})
"""Value columns that hold ratings, so that rows without a verb are `rate`."""

ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "user_id": (
            *("userid", "user", "uid", "visitorid", "customerid", "reviewerid", "memberid"),
            *("accountid", "sessionid", "session"),
        ),
        "item_id": (
            *("itemid", "item", "iid", "movieid", "productid", "parentasin", "asin", "bookid"),
            *("artistid", "trackid", "songid", "articleid", "newsid", "gameid", "animeid", "sku"),
            *("contentid", "videoid"),
        ),
        "event": ("event", "eventtype", "eventname", "action", "verb", "behavior", "feedbacktype"),
        "timestamp": (
            *("timestamp", "timestampms", "time", "ts", "datetime", "date", "eventtime"),
            *("unixreviewtime", "createdat"),
        ),
        "value": (
            *("value", "rating", "overall", "score", "stars", "weight", "eventvalue"),
            *("feedback", "hours", "count"),
        ),
    }
)
"""Names in lower case without `_`, `-`, spaces and a RecBole type (`:token`), best first."""


def plain(name: str) -> str:
    """Return a column name as the alias table spells it.

    >>> plain("User_ID:token")
    'userid'
    """
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def resolve(names: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return {canonical name: name in the source} for the source columns `names`.

    `columns` says it explicitly for some; a canonical name wins over its aliases.

    Raises: ValueError if user_id or item_id cannot be found, or `columns` names an absent one.

    >>> resolve(["userId", "movieId", "rating", "timestamp"])
    {'user_id': 'userId', 'item_id': 'movieId', 'timestamp': 'timestamp', 'value': 'rating'}
    """
    found = _explicit(names, columns or {})
    taken = set(found.values())
    spelled = {plain(name): name for name in reversed(names) if name not in taken}
    for canonical in CANONICAL:
        if canonical in found:
            continue
        for alias in (plain(canonical), *ALIASES[canonical]):
            if alias in spelled:
                found[canonical] = spelled.pop(alias)
                break
    absent = [canonical for canonical in CANONICAL[:2] if canonical not in found]
    if absent:
        raise ValueError(
            f"no column for {' and '.join(absent)} among {list(names)}:"
            f" name it with {' '.join(f'--map {name}=COLUMN' for name in absent)}, or rename it"
        )
    return {canonical: found[canonical] for canonical in CANONICAL if canonical in found}


def default_event(columns: Mapping[str, str]) -> str:
    """Return the verb of rows that name none: `rate` beside a rating, else `view`.

    >>> default_event({"value": "Rating"}), default_event({"value": "hours"})
    ('rate', 'view')
    """
    return "rate" if plain(columns.get("value", "")) in RATING_NAMES else "view"


def describe(columns: Mapping[str, str]) -> str:
    """Return how columns were understood, for people.

    >>> describe({"user_id": "userId", "item_id": "item_id"})
    'user_id=userId, item_id; no times: file order'
    """
    parts = [name if name == source else f"{name}={source}" for name, source in columns.items()]
    return ", ".join(parts) + ("" if "timestamp" in columns else "; no times: file order")


def _explicit(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    for canonical, name in columns.items():
        if canonical not in CANONICAL:
            raise ValueError(f"{canonical!r} is no event column: map one of {list(CANONICAL)}")
        if name not in names:
            raise ValueError(f"{canonical} is mapped to {name!r}, absent among {list(names)}")
    return dict(columns)
