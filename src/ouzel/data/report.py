"""What reading a source found: counts, and the first problems with line, column and remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["missing", "unparsable", "out of range", "duplicate"]
"""Why a row is left out."""

MAX_PROBLEMS = 100
"""How many problems a report lists; the counts are of all."""


@dataclass(frozen=True)
class Problem:
    """One row that was left out: where, which value, why, and what to do.

    `line` counts from 1 in text files, header included, and rows from 1 elsewhere.
    """

    line: int
    column: str
    value: str
    reason: Reason
    remedy: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.column} {self.value!r} is {self.reason}: {self.remedy}"


@dataclass(frozen=True)
class ReadReport:
    """What was recognised, how many rows were read and kept, what was dropped and why.

    `has_time` is False if the source has no timestamps and file order stands for time.
    """

    recognised: str
    rows_read: int
    rows_kept: int
    dropped: dict[Reason, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    has_time: bool = True

    def __str__(self) -> str:
        lost = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        kept = f"{self.recognised}: kept {self.rows_kept:,} of {self.rows_read:,} rows"
        return f"{kept} (dropped {lost})" if lost else kept
