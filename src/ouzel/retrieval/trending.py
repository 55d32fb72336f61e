"""What is trending: popularity in which an event counts half as much after each half-life.

An event at time t adds 2^((t - landmark) / half-life). All items share the landmark, so their order
needs no look at the clock and an event is one addition.
Shape legend: N = catalogue rows with padding, n = events.

References:
    Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay - A Practical Time Decay Model for Streaming
    Systems, ICDE 2009.
"""

from __future__ import annotations

import numpy as np

from ouzel.events.interactions import History
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Candidates, Query

HALF_LIFE_MS = 24 * 3600 * 1000
"""A day: an evening's news is gone two evenings later."""

RANK_ANEW_MS = 1000
"""How old the ranked list may be, in the time of requests: to rank a million items takes
milliseconds, which no request should pay for each event."""

_MOST_DOUBLINGS = 500.0


class TrendingSource:
    """Source of what happens most now; `observe` every event in whatever order they come.

    >>> trending = TrendingSource(4, half_life_ms=1000)
    >>> for row, time_ms in ((1, 0), (1, 0), (2, 3000)):
    ...     trending.observe(row, time_ms)
    >>> trending.candidates(Query(k=2, now_ms=3000), 2).rows_K
    array([2, 1], dtype=int32)
    """

    name = "trending"

    def __init__(self, num_rows: int, *, half_life_ms: int = HALF_LIFE_MS) -> None:
        """Raises: ValueError if `half_life_ms` is not positive."""
        if half_life_ms < 1:
            raise ValueError(f"half_life_ms is {half_life_ms}: give 1 or more milliseconds")
        self._half_life_ms = half_life_ms
        self._weights_N = np.zeros(num_rows)
        self._landmark_ms: int | None = None
        self._ranked: tuple[PopularSource, int] | None = None
        self._changed = True

    def observe(self, row: int, time_ms: int) -> None:
        """Count an event on a row; one on a row that is not below N is passed over."""
        if 0 < row < len(self._weights_N):
            self._weights_N[row] += 2.0 ** self._doublings(time_ms)
            self._changed = True

    def observe_all(self, events: History) -> None:
        """Count many events, the newest last."""
        if len(events):
            doublings = self._doublings(int(events.times_ms.max()))
            ages_n = (events.times_ms.max() - events.times_ms) / self._half_life_ms
            known_n = (events.rows > 0) & (events.rows < len(self._weights_N))
            weights_n = np.exp2(doublings - ages_n)[known_n]
            np.add.at(self._weights_N, events.rows[known_n], weights_n)
            self._changed = True

    def candidates(self, query: Query, k: int) -> Candidates:
        """Return the k best rows that the query does not forbid, of those that had events.

        A score is the natural logarithm of an item's share of what the first of all items has.
        """
        return self._list(query.now_ms).candidates(query, k)

    def _doublings(self, time_ms: int) -> float:
        if self._landmark_ms is None:
            self._landmark_ms = time_ms
        doublings = (time_ms - self._landmark_ms) / self._half_life_ms
        if doublings <= _MOST_DOUBLINGS:
            return max(doublings, -_MOST_DOUBLINGS)
        # What this makes too small for a number was forgotten long before.
        self._weights_N *= 2.0 ** -min(doublings, 1000.0)
        self._landmark_ms = time_ms
        return 0.0

    def _list(self, now_ms: int) -> PopularSource:
        ranked = self._ranked
        fresh = ranked is not None and 0 <= now_ms - ranked[1] < RANK_ANEW_MS
        if ranked is not None and (fresh or not self._changed):
            return ranked[0]
        strongest = self._weights_N.max(initial=0.0) or 1.0
        with np.errstate(divide="ignore"):
            scores_N = np.log(self._weights_N / strongest).astype(np.float32)
        self._ranked = (PopularSource(scores_N, name=self.name), now_ms)
        self._changed = False
        return self._ranked[0]
