"""Processor time and memory of a process and all its children, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class ProcessUse(NamedTuple):
    """Sums over a process and its descendants; shared pages count once for each of them."""

    cpu_s: float
    rss_mb: float
    peak_rss_mb: float


def process_use(pid: int) -> ProcessUse:
    """Return what the process `pid` and its descendants have used so far.

    Raises:
        ValueError: there is no such process, or no /proc.

    >>> process_use(os.getpid()).rss_mb > 1
    True
    """
    if not (PROC / str(pid)).exists():
        raise ValueError(f"process {pid} is not there (or /proc is not): give the server's pid")
    members = _family(pid)
    cpu_s = sum(_cpu_s(member) for member in members)
    memory = [_memory_mb(member) for member in members]
    return ProcessUse(cpu_s, sum(rss for rss, _ in memory), sum(peak for _, peak in memory))


def _family(pid: int) -> list[int]:
    members, at = [pid], 0
    while at < len(members):
        for path in (PROC / str(members[at]) / "task").glob("*/children"):
            members += [int(child) for child in _read(path).split()]
        at += 1
    return members


def _read(path: Path) -> str:
    """Return the file's text, nothing if its process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _cpu_s(pid: int) -> float:
    # The command's name stands in brackets and may hold blanks: fields count from behind it.
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> tuple[float, float]:
    lines = _read(PROC / str(pid) / "status").splitlines()
    table = dict(line.split(":", 1) for line in lines if ":" in line)
    rss, peak = (float(table.get(name, "0 kB").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return rss, peak
