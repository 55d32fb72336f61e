"""Processor time and memory of a process and all its children, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class ProcessUse(NamedTuple):
    """Sums over a process and its descendants.

    `cpu_of` has the processor seconds of each by its id. In `rss_mb` a page that several processes
    have in memory counts once, a part of it for each; in `peak_rss_mb` it counts for each.
    """

    cpu_of: dict[int, float]
    rss_mb: float
    peak_rss_mb: float

    def cpu_s_since(self, before: ProcessUse) -> float | None:
        """Return the seconds used since `before`, None if a process measured then has ended.

        What it used until its end can no longer be read.

        >>> ProcessUse({7: 2.5, 8: 0.5}, 1.0, 1.0).cpu_s_since(ProcessUse({7: 2.0}, 1.0, 1.0))
        1.0
        """
        if not before.cpu_of.keys() <= self.cpu_of.keys():
            return None
        return sum(self.cpu_of.values()) - sum(before.cpu_of.values())


def process_use(pid: int) -> ProcessUse:
    """Return what the process `pid` and its descendants have used so far, nothing if it ended.

    >>> process_use(2**30).cpu_of
    {}

    >>> process_use(os.getpid()).rss_mb > 1
    True
    """
    members = _family(pid)
    cpu_s = {member: _cpu_s(member) for member in members}
    cpu_of = {member: spent for member, spent in cpu_s.items() if spent is not None}
    memory = [_memory_mb(member) for member in members]
    return ProcessUse(cpu_of, sum(rss for rss, _ in memory), sum(peak for _, peak in memory))


def stolen_s() -> float:
    """Return the seconds that the host took from this virtual machine's cores since it started.

    A core that wanted to run and was not let counts; 0 where nobody can tell.

    >>> stolen_s() >= 0
    True
    """
    fields = _read(PROC / "stat").partition("\n")[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


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


def _cpu_s(pid: int) -> float | None:
    # The command's name stands in brackets and may hold blanks: fields count from behind it.
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()
    if not fields:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> tuple[float, float]:
    table = _fields(PROC / str(pid) / "status")
    # Whose memory may not be looked into has no share either: its pages all count.
    shares = _fields(PROC / str(pid) / "smaps_rollup")
    return _mb(shares, "Pss") or _mb(table, "VmRSS"), _mb(table, "VmHWM")


def _fields(path: Path) -> dict[str, str]:
    lines = _read(path).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _mb(fields: dict[str, str], name: str) -> float:
    return float(fields.get(name, "0 kB").split()[0]) / 1024
