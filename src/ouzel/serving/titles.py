"""Items by their titles: one long lower-case text, searched at the speed of memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

_BETWEEN = "\n"


class TitleSearch:
    """The titles of rows 0, 1, 2, ...; changed ones are few, until this is made anew.

    >>> search = TitleSearch(["", "The Slow River", "Slow Burn", "Heat"])
    >>> list(search.rows("slow", 10))
    [1, 2]
    >>> search.change(1, "Fast")
    >>> list(search.rows("slow", 10)), list(search.rows("fast", 10))
    ([2], [1])
    """

    def __init__(self, titles: Sequence[str]) -> None:
        lines = [title.lower().replace(_BETWEEN, " ") for title in titles]
        self._text = _BETWEEN.join(lines)
        self._starts = [0, *accumulate(len(line) + 1 for line in lines)][:-1]
        self._changed: dict[int, str] = {}

    def change(self, row: int, title: str) -> None:
        """Let a row have another title."""
        self._changed[row] = title.lower()

    def rows(self, query: str, limit: int) -> Iterator[int]:
        """Yield up to `limit` rows whose title holds `query`: changed ones first, then in order."""
        wanted = query.lower().replace(_BETWEEN, " ")
        if not wanted:
            return
        for row, title in list(self._changed.items()):
            if wanted in title and limit > 0:
                yield row
                limit -= 1
        place = self._text.find(wanted)
        while place >= 0 and limit > 0:
            row = bisect_right(self._starts, place) - 1
            if row not in self._changed:
                yield row
                limit -= 1
            following = row + 1
            if following == len(self._starts):
                return
            place = self._text.find(wanted, self._starts[following])
