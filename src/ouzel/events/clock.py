"""The one wall clock. Tests replace `now_ms`; nothing else in the package asks for the time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return the present in UTC milliseconds since 1970.

    >>> now_ms() > 1_700_000_000_000
    True
    """
    return time.time_ns() // 1_000_000
