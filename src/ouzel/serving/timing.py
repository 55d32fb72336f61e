"""Where the time of one answer went: T (read, decode), P (state), A (find, rank, encode)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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

    __slots__ = ("last", "names", "route", "spent_ms")

    def __init__(self) -> None:
        self.route = "other"
        self.names: list[tuple[Part, str]] = []
        self.spent_ms: list[float] = []
        self.last = perf_counter()

    @property
    def stages(self) -> list[tuple[Part, str, float]]:
        """Return each stage with its part and its milliseconds, in order."""
        pairs = zip(self.names, self.spent_ms, strict=True)
        return [(part, name, spent) for (part, name), spent in pairs]

    def mark(self, part: Part, name: str) -> None:
        """Count the time since the last mark for stage `name` of `part`."""
        now = perf_counter()
        self.names.append((part, name))
        self.spent_ms.append((now - self.last) * 1000.0)
        self.last = now

    def split(self, names: Sequence[tuple[Part, str]], spent_ms: Sequence[float]) -> None:
        """Count the time since the last mark as stages that were timed one by one elsewhere.

        What is left over was spent between them.
        """
        now = perf_counter()
        left = (now - self.last) * 1000.0 - sum(spent_ms)
        self.names += [*names, ("T", "turn")]
        self.spent_ms += [*spent_ms, max(0.0, left)]
        self.last = now

    def parts(self) -> dict[Part, float]:
        """Return the milliseconds of T, P and A: each the sum of its stages."""
        sums: dict[Part, float] = {"T": 0.0, "P": 0.0, "A": 0.0}
        for (part, _), spent in zip(self.names, self.spent_ms, strict=True):
            sums[part] += spent
        return sums

    def total_ms(self) -> float:
        """Return the milliseconds counted so far."""
        return sum(self.spent_ms)

    def header(self) -> bytes:
        """Return the value of the `Server-Timing` header: `T`, `P`, `A`, then as `T-read`."""
        return (_template(tuple(self.names)) % (*self.parts().values(), *self.spent_ms)).encode()


@lru_cache(maxsize=256)
def _template(names: tuple[tuple[Part, str], ...]) -> str:
    """Return the header of these stages with a place for each number: few kinds, many answers."""
    parts = ["T", "P", "A", *(f"{part}-{name}" for part, name in names)]
    return ", ".join(f"{part};dur=%.3f" for part in parts)
