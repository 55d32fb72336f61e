"""Answers that many get alike, kept for a while: bounded in bytes and in age.

A key holds the version of all that the answer was made from, taken before it was made. So what is
out of date is not found, rather than having to be removed in time.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec

from ouzel.serving.queries import ListRequest
from ouzel.serving.wire import ShownItem, SimilarRequest

LIST_BYTES = 16 << 20
"""Memory for lists."""

ITEM_BYTES = 8 << 20
"""Memory for what is known of single items."""

KEPT_SECONDS = 60.0
"""How long an answer is kept at most."""

ENTRY_BYTES = 512
"""What an entry costs beside key and value, roughly."""

SHOWN_ITEM_BYTES = 512
"""What an item in a list costs beside its texts, roughly."""

LARGEST_SHARE = 16
"""An answer that would take more than one part in so many of all memory is not kept."""

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class Cache(Generic[T]):
    """The latest answers by key, at most `max_bytes` of them; 0 keeps none.

    >>> cache = Cache(max_bytes=1 << 16)
    >>> cache.put("popular", [7, 1], 16)
    >>> cache.get("popular"), cache.get("recent"), cache.hits, cache.misses
    ([7, 1], None, 1, 1)
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        kept_seconds: float = KEPT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept_seconds = kept_seconds
        self._monotonic = monotonic
        self._entries: OrderedDict[Hashable, tuple[T, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> T | None:
        """Return what was put under `key`, None if that was too long ago, or never."""
        entry = self._entries.get(key)
        if entry is None or entry[2] < self._monotonic():
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: T, num_bytes: int) -> None:
        """Keep `value`, which takes `num_bytes` with its key; what was asked longest ago goes."""
        num_bytes += ENTRY_BYTES
        if num_bytes * LARGEST_SHARE > self.max_bytes:
            return
        before = self._entries.pop(key, None)
        if before is not None:
            self.bytes -= before[1]
        self._entries[key] = (value, num_bytes, self._monotonic() + self._kept_seconds)
        self.bytes += num_bytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]

    def counts(self, name: str) -> dict[str, float]:
        """Return hits and misses so far, as a family of `/metrics` names them."""
        return {f"{name}_hits": self.hits, f"{name}_misses": self.misses}


def is_personal(request: ListRequest) -> bool:
    """Return whether the list depends on who asks, or on more than what is asked.

    >>> from ouzel.serving.wire import RecommendRequest
    >>> is_personal(RecommendRequest(user_id="ada")), is_personal(RecommendRequest(n=5))
    (True, False)
    >>> is_personal(SimilarRequest(item_id="heat", user_id="ada"))
    False
    """
    if isinstance(request, SimilarRequest):
        known = request.user_id is not None or request.session_id is not None
        return known and request.exclude_seen
    if request.arranges():
        return True  # Chance may take part, or what is trending.
    return request.user_id is not None or request.session_id is not None or bool(request.items)


def asked(request: msgspec.Struct) -> bytes:
    """Return what is asked for, whoever asks, as one part of a key.

    >>> asked(SimilarRequest(item_id="a", user_id="ada")) == asked(SimilarRequest(item_id="a"))
    True
    """
    if isinstance(request, SimilarRequest) and not is_personal(request):
        request = msgspec.structs.replace(request, user_id=None, session_id=None)
    return _encode(request)


def list_bytes(key: bytes, items: list[ShownItem]) -> int:
    """Return about how many bytes a list takes with its key, rather too many than too few.

    >>> shown = ShownItem(item_id="heat", score=0.5, rank=1, source="popular")
    >>> list_bytes(b"key", [shown]) > 500
    True
    """
    texts = (text for item in items for text in (item.fields or {}).values())
    return (
        len(key)
        + sum(SHOWN_ITEM_BYTES + len(item.item_id) for item in items)
        + sum(sys.getsizeof(text) for text in texts)
    )
