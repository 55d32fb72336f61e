"""Popularity: the simplest baseline, and the answer for visitors nothing is known about.

Shape legend: N = catalogue rows with padding, E = interactions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import Interactions
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.types import Candidates, Query, visible

RECENT_WINDOW_MS = 7 * 24 * 3600 * 1000
"""A week: what "recent" means, as served and as a baseline. Of 1, 3, 7, 14 and 30 days it had the
best recall@10 on validation events of ML-1M and the second best on those of MovieTweetings."""

HEAD = 1 << 16
"""How much of a ranked list is kept. Who is forbidden more than that has all of it ranked anew."""


def popular_scores(x: Interactions) -> NDArray[np.float32]:
    """Return the number of interactions of each row, (N,) float32; 0 for padding.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([2, 1, 2], np.int32), np.array([10, 20, 30]))
    >>> popular_scores(from_histories([visit], num_rows=4))
    array([0., 1., 2., 0.], dtype=float32)
    """
    return _counts(x.rows_E, x.num_rows)


def recent_popular_scores(x: Interactions, *, window_ms: int) -> NDArray[np.float32]:
    """Return each row's interactions, (N,) float32, within `window_ms` of the newest of all.

    Raises:
        ValueError: `window_ms` is not positive.

    >>> from ouzel.events.interactions import History, from_histories
    >>> visit = History(np.array([2, 1, 2], np.int32), np.array([10, 20, 30]))
    >>> recent_popular_scores(from_histories([visit], num_rows=4), window_ms=15)
    array([0., 1., 1., 0.], dtype=float32)
    """
    newest = int(x.times_ms_E.max()) + 1 if len(x) else 0
    return PopularityWindow(x, window_ms=window_ms).scores(newest)


class PopularityWindow:
    """Popularity as it stood at any moment: what happened in the `window_ms` before it.

    Raises:
        ValueError: `window_ms` is not positive.
    """

    def __init__(self, x: Interactions, *, window_ms: int) -> None:
        if window_ms < 1:
            raise ValueError(f"window_ms is {window_ms}: give a positive number of milliseconds")
        order = np.argsort(x.times_ms_E, kind="stable")
        self._times_ms_E = x.times_ms_E[order]
        self._rows_E = x.rows_E[order]
        self._num_rows = x.num_rows
        self._window_ms = window_ms

    def scores(self, now_ms: int) -> NDArray[np.float32]:
        """Return each row's interactions, (N,) float32, in [now - window, now)."""
        first, end = np.searchsorted(self._times_ms_E, [now_ms - self._window_ms, now_ms])
        return _counts(self._rows_E[first:end], self._num_rows)


def _counts(rows: NDArray[np.int32], num_rows: int) -> NDArray[np.float32]:
    counts = np.bincount(rows, minlength=num_rows).astype(np.float32)
    counts[:1] = 0
    return counts


class PopularSource:
    """Source of the same ranked list for everybody, less what a query forbids.

    `scores_N` decides the list: ties by lower row, -inf is never shown, padding neither.

    >>> source = PopularSource(np.array([0, 5, 9, 7], np.float32))
    >>> source.candidates(Query(k=2, now_ms=0, forbidden=np.array([2], np.int32)), 2).rows_K
    array([3, 1], dtype=int32)
    """

    def __init__(self, scores_N: NDArray[np.float32], *, name: str = "popular") -> None:
        self.name = name
        self.scores_N = scores_N
        self._head_R = self._ranked(HEAD)
        self.whole = len(scores_N) <= HEAD

    @property
    def head(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the first rows of the list and their scores (R,): all, if it is `whole`."""
        return self._head_R, self.scores_N[self._head_R].astype(np.float32)

    def candidates(self, query: Query, k: int) -> Candidates:
        """Return the k best rows that the query does not forbid."""
        found = self._allowed(self._head_R, query, k)
        if len(found) < k and not self.whole:
            found = self._allowed(self._ranked(len(self.scores_N)), query, k)
        return Candidates.of(self.name, found, self.scores_N[found])

    def _ranked(self, count: int) -> NDArray[np.int32]:
        order = top_k(self.scores_N, count)
        return order[order > 0].astype(np.int32)

    @staticmethod
    def _allowed(rows_R: NDArray[np.int32], query: Query, k: int) -> NDArray[np.int32]:
        reach = k + len(query.forbidden)
        while True:
            rows = rows_R[:reach]
            shown = ~np.isin(rows, query.forbidden)
            if query.hidden is not None:
                shown &= visible(rows, query.hidden)
            allowed = np.flatnonzero(shown)[:k]
            if len(allowed) == k or reach >= len(rows_R):
                return rows[allowed]
            reach *= 4
