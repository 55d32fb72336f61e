"""Arrays in pages of their own: what is never touched takes no memory."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def mapped_zeros(shape: tuple[int, ...], dtype: DTypeLike, *, shared: bool = False) -> NDArray[Any]:
    """Return zeros; if `shared`, processes forked from this one later read and write them too.

    Pages are small. NumPy asks for huge ones, whose first touch can take 6 ms on a virtual
    machine: nothing where an array is filled at once, but here somebody waits for one row.

    >>> mapped_zeros((2,), np.int32)
    array([0, 0], dtype=int32)
    """
    count = math.prod(shape)
    size = max(1, count * np.dtype(dtype).itemsize)
    if shared or not hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel without huge pages has nothing to say.
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def shared_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return `mapped_zeros` that this process and those forked from it later read and write.

    >>> shared_zeros((2,), np.int32)
    array([0, 0], dtype=int32)
    """
    return mapped_zeros(shape, dtype, shared=True)
