"""A timer for an event loop that is exact to tens of microseconds.

Event loops round their own timers up to whole milliseconds, which is as much as many an answer
takes; the kernel's timer, seen as a file, does not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

CLOCK_MONOTONIC = 1
TFD_TIMER_ABSTIME = 1


class _Timerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("due_s", ctypes.c_long),
        ("due_ns", ctypes.c_long),
    )


class ExactTimer:
    """Calls `callback` once for each `set`, no sooner than asked; on Linux without rounding."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spec = _Timerspec()
        self._file = -1
        if hasattr(self._libc, "timerfd_create"):
            self._file = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            loop.add_reader(self._file, self._ring)

    def set(self, due_s: float) -> None:
        """Ask for a call when `time.monotonic()` reaches `due_s`, at once if it has."""
        if self._file < 0:
            self._loop.call_later(max(0.0, due_s - time.monotonic()), self._callback)
            return
        due_ns = max(1, int(due_s * 1e9))
        self._spec.due_s, self._spec.due_ns = divmod(due_ns, 1_000_000_000)
        self._libc.timerfd_settime(self._file, TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            # Set anew between the wake-up and this read: the later ring is the one that counts.
            return
        self._callback()

    def close(self) -> None:
        """Give the timer back; it will not call any more."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1
