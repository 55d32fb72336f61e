"""What a server does once it has started: nothing that lives now is looked at again."""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    """Leave what was made so far to itself, and give the system what was freed meanwhile.

    A catalogue of a million items is read in pieces that glibc would keep (30 MB); another C
    library is not asked.

    >>> settle()
    >>> gc.get_freeze_count() > 0
    True
    >>> gc.unfreeze()
    """
    gc.collect()
    # What lives now lives as long as the server: the collector need not visit it again.
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
