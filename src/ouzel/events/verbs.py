"""What people do: the shipped verbs, the names other systems give them, and which are history."""

from __future__ import annotations

import re
from types import MappingProxyType

VERBS = (
    "impression",
    "view",
    "click",
    "add_to_cart",
    "remove_from_cart",
    "purchase",
    "like",
    "dislike",
    "rate",
    "save",
    "share",
    "play",
    "skip",
    "hide",
    "search",
)
"""The shipped verbs. Their order is stored in logs: append, never reorder."""

NOT_HISTORY = frozenset(
    {"impression", "search", "skip", "hide", "dislike", "remove_from_cart"},
)
"""Verbs that say nothing good about an item; every other verb enters a user's history."""

ALIASES = MappingProxyType(
    {
        "view_item": "view",
        "detail-page-view": "view",
        "detail_page_view": "view",
        "product viewed": "view",
        "page_view": "view",
        "pageview": "view",
        "read": "view",
        "watch": "play",
        "listen": "play",
        "video started": "play",
        "product clicked": "click",
        "select_item": "click",
        "add-to-cart": "add_to_cart",
        "addtocart": "add_to_cart",
        "cart": "add_to_cart",
        "product added": "add_to_cart",
        "remove-from-cart": "remove_from_cart",
        "product removed": "remove_from_cart",
        "buy": "purchase",
        "transaction": "purchase",
        "purchase-complete": "purchase",
        "order completed": "purchase",
        "rating": "rate",
        "star": "like",
        "favorite": "save",
        "favourite": "save",
        "bookmark": "save",
        "add_to_wishlist": "save",
        "view_item_list": "impression",
        "product list viewed": "impression",
        "view_search_results": "search",
        "products searched": "search",
    }
)
"""Names used by GA4, Google, Segment, Gorse and public data sets, in lower case."""

_SHIPPED = frozenset(VERBS)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_verb(name: str) -> str:
    """Return `name` if it is a shipped verb or a custom one (`[a-z][a-z0-9_]{0,63}`).

    Raises: ValueError otherwise.

    >>> check_verb("add_to_cart"), check_verb("subscribe")
    ('add_to_cart', 'subscribe')
    """
    if name not in _SHIPPED and not _NAME.fullmatch(name):
        raise ValueError(
            f"event {name[:64]!r} is no verb: use one of {', '.join(VERBS)}"
            " or a name of your own in lower case letters, digits and _"
        )
    return name


def canonical_verb(name: str) -> str:
    """Return Ouzel's verb for the name that another system uses; unknown names as they are.

    Raises: ValueError if the name cannot be a verb.

    >>> canonical_verb("Product Viewed"), canonical_verb("subscribe")
    ('view', 'subscribe')
    """
    return check_verb(ALIASES.get(name.strip().lower(), name))


def enters_history(verb: str) -> bool:
    """Return whether interactions with this verb are part of a user's history.

    >>> enters_history("click"), enters_history("hide")
    (True, False)
    """
    return verb not in NOT_HISTORY
