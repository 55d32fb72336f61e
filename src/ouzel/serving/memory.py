"""Memory that was asked for while a server was opened, and is not needed any more."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give back to the system what the C library keeps of it (glibc; others give back themselves).

    Postings are sorted, lists ranked and ids read when a home is opened: of a million items 40 MB
    would be kept for later, and not be asked for.

    >>> give_back()
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
