"""Items by their titles: one long lower-case text, searched at the speed of memory."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

_BETWEEN = "\n"


class TitleSearch:
    """The titles of rows 0, 1, 2, ...; to be made anew when many have changed, see `changed`.

    >>> search = TitleSearch(["", "The Slow River", "Slow Burn", "Heat"])
    >>> list(search.rows("slow", 10))
    [1, 2]
    >>> search.change(1, "Fast")
    >>> list(search.rows("slow", 10)), list(search.rows("fast", 10))
    ([2], [1])
    """

    def __init__(self, titles: Sequence[str]) -> None:
        lines = [_line(title) for title in titles]
        self._text = _BETWEEN.join(lines)
        # Four or eight bytes each, where a list would take forty.
        kind = "i" if len(self._text) < 1 << 31 else "q"
        self._starts = array(kind, accumulate((len(line) + 1 for line in lines[:-1]), initial=0))
        self._changed: dict[int, str] = {}

    @property
    def changed(self) -> int:
        """Return how many rows have changed; each of them makes every search a little slower."""
        return len(self._changed)

    def change(self, row: int, title: str) -> None:
        """Let a row have another title."""
        line = _line(title)
        if line != self._title(row):
            self._changed[row] = line

    def _title(self, row: int) -> str | None:
        if row in self._changed or row >= len(self._starts):
            return self._changed.get(row)
        end = self._starts[row + 1] - 1 if row + 1 < len(self._starts) else len(self._text)
        return self._text[self._starts[row] : end]

    def rows(self, query: str, limit: int) -> Iterator[int]:
        """Yield up to `limit` rows whose title holds `query`: changed ones first, then in order."""
        wanted = _line(query)
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


def _line(text: str) -> str:
    return text.lower().replace(_BETWEEN, " ")
