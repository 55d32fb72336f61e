"""Where the values of an array lie in memory, as compiled code is told."""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

_BYTE: Any = ctypes.c_char


def address_of(array: NDArray[Any]) -> int:
    """Return where the values of an array lie; who is told keeps the array meanwhile.

    >>> import numpy as np
    >>> numbers = np.arange(3)
    >>> address_of(numbers) == numbers.ctypes.data
    True
    """
    try:
        return ctypes.addressof(_BYTE.from_buffer(array))
    except (TypeError, ValueError):  # It may not be written, or is empty.
        address: int = array.__array_interface__["data"][0]  # takes five times as long
        return address
