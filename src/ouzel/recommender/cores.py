"""How much of this machine a process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> float:
    """Return how many cores this process may use, a container's limit counted.

    >>> usable_cores() > 0
    True
    """
    cores = float(_allowed_cores())
    if _CPU_LIMIT.is_file():
        quota, period = _CPU_LIMIT.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_threads() -> int:
    """Return how many threads keep these cores busy, at least one.

    >>> usable_threads() >= 1
    True
    """
    return max(1, int(usable_cores()))


def _allowed_cores() -> int:
    # Only Linux says to which cores a process is bound.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
