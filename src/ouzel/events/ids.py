"""Ids that nobody else gives: of events that come without one, and of lists."""

from __future__ import annotations

import os

RANDOM_BYTES = 10
"""What is random of an id: enough for as many as there will ever be."""


def time_ordered_id(now_ms: int, randomness: str | None = None) -> str:
    """Return an id that is greater than those of the milliseconds before `now_ms`.

    Ids that grow, as UUIDs of version 7 do, go to the end of the log's index and keep it compact.
    `randomness` is 2 `RANDOM_BYTES` hexadecimal digits, taken from the system by default.

    >>> time_ordered_id(255, "00" * RANDOM_BYTES)
    '0000000000ff00000000000000000000'
    >>> len(time_ordered_id(255)), time_ordered_id(1) < time_ordered_id(2)
    (32, True)
    """
    made = os.urandom(RANDOM_BYTES).hex() if randomness is None else randomness
    return f"{now_ms:012x}{made}"
