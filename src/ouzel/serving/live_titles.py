"""The search of titles while they change: made anew, beside the loop, once many have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from ouzel.serving.titles import TitleSearch

logger = logging.getLogger(__name__)

MOST_CHANGED = 1000
"""Changed titles before the search is made anew."""


class LiveTitles:
    """Holds the `search` of now; lives in one event loop.

    >>> titles = LiveTitles(lambda: ["", "Heat"])
    >>> titles.change(1, "Alien")
    >>> list(titles.search.rows("ali", 5))
    [1]
    """

    def __init__(self, read: Callable[[], Sequence[str]]) -> None:
        """`read` gives the titles of all rows; another thread goes over them while some change."""
        self._read = read
        self.search = TitleSearch(read())
        self._late: list[tuple[int, str]] = []
        self._renewing: asyncio.Task[None] | None = None

    def change(self, row: int, title: str) -> None:
        """Let a row have another title, in the very next search."""
        self.search.change(row, title)
        if self._renewing is not None:
            self._late.append((row, title))
        elif self.search.changed > MOST_CHANGED:
            self._late = []
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    def close(self) -> None:
        """Make nothing anew any more."""
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self) -> None:
        """Make the search anew, beside the loop; what changes meanwhile is in it too."""
        try:
            fresh = await asyncio.to_thread(TitleSearch, self._read())
            for row, title in self._late:
                fresh.change(row, title)
            self.search = fresh
        except Exception:
            logger.exception("the search of titles could not be made anew")
        finally:
            self._renewing = None
