"""Where the time of one answer went: T (read, decode), P (state), A (find, rank, encode)."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Literal

Part = Literal["T", "P", "A"]


class Timing:
    """The stop-watch of one request; every stage belongs to one part.

    >>> timing = Timing()
    >>> timing.mark("T", "read")
    >>> timing.split([("P", "state")], [1.25])
    >>> timing.parts()["P"], [name for _, name, _ in timing.stages]
    (1.25, ['read', 'state', 'turn'])
    """

    __slots__ = ("last", "route", "stages")

    def __init__(self) -> None:
        self.route = "other"
        self.stages: list[tuple[Part, str, float]] = []
        self.last = perf_counter()

    def mark(self, part: Part, name: str) -> None:
        """Count the time since the last mark for stage `name` of `part`."""
        now = perf_counter()
        self.stages.append((part, name, (now - self.last) * 1000.0))
        self.last = now

    def split(self, names: Sequence[tuple[Part, str]], spent_ms: Sequence[float]) -> None:
        """Count the time since the last mark as stages that were timed one by one elsewhere.

        What is left over was spent between them, waiting for their turn.
        """
        now = perf_counter()
        left = (now - self.last) * 1000.0 - sum(spent_ms)
        for (part, name), spent in zip(names, spent_ms, strict=True):
            self.stages.append((part, name, spent))
        self.stages.append(("T", "turn", max(0.0, left)))
        self.last = now

    def parts(self) -> dict[Part, float]:
        """Return the milliseconds of T, P and A: each the sum of its stages."""
        sums: dict[Part, float] = {"T": 0.0, "P": 0.0, "A": 0.0}
        for part, _, spent_ms in self.stages:
            sums[part] += spent_ms
        return sums

    def total_ms(self) -> float:
        """Return the milliseconds counted so far."""
        return sum(spent_ms for _, _, spent_ms in self.stages)

    def header(self) -> bytes:
        """Return the value of the `Server-Timing` header: `T`, `P`, `A`, then as `T-read`."""
        entries = [f"{part};dur={spent_ms:.3f}" for part, spent_ms in self.parts().items()]
        entries += [f"{part}-{name};dur={spent_ms:.3f}" for part, name, spent_ms in self.stages]
        return ", ".join(entries).encode()
