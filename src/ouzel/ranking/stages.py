"""The stages of the first request path: state, search, fill, filter, select.

Shape legend: B = queries in a pass, K = candidates of one query, D = dimensions of a vector,
F = rows a list may not show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.ranking.pipeline import BUDGET_MS, Finish, Kind, Stage, Work
from ouzel.retrieval.index import Excluded, Hidden, Search
from ouzel.retrieval.live import LiveIndex
from ouzel.retrieval.scan_worker import ScanWorker
from ouzel.retrieval.types import Candidates, Query, Source, all_finite, among, visible

SEQUENCE = "sequence"
"""Source name of items that the model finds for a known user."""

SESSION = "session"
"""Source name of items that the model finds by the session items that the caller sent."""


BRIEF_BYTES = 2 << 20
"""A search that reads no more than that, 0.1 ms, is done before another thread would be awake."""

RESERVED_MS = 50.0
"""What the state stage leaves of the time until the deadline to the stages after it."""


class UserVectors(Protocol):
    """What the state stage asks of the user-state pool (`ouzel.inference.states.UserStates`)."""

    def contains(self, user: int) -> bool:
        """Return whether the user's state is held, so that `query` need not encode anew."""
        ...

    def query(self, users: Sequence[int], now_ms: int) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the vectors (B, D) of users, and which of them have one."""
        ...

    def query_session(self, history: History, now_ms: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a history that is not stored, None if nothing is known."""
        ...


class EncodeUser(Stage):
    """Gives each query its vector: from the pool for a user, encoded anew for a session.

    A query that came with a vector keeps it; one whose history holds nothing that the model knows
    gets none. The queries of a pass share `now_ms`. States that the pool holds take one call.
    Whole histories are encoded after that, one by one and at least one, for as long as the next
    one will end `RESERVED_MS` before the deadline; the queries left over are `late`.
    `monotonic_ms` is the deadline's clock.
    """

    name = "state"
    kind: Kind = "hydrate"
    optional = True

    def __init__(
        self,
        states: UserVectors,
        *,
        monotonic_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
    ) -> None:
        self.states = states
        self._monotonic_ms = monotonic_ms

    def run(self, work: Work) -> Work:
        """Return the work with vectors in its queries.

        Raises:
            ValueError: the model gave a vector that is not finite.
        """
        deadline = min((query.deadline_ms for query in work.queries), default=math.inf)
        until = deadline - RESERVED_MS
        vectors = self._at_once(work, every=until == math.inf)
        queries, late = list(work.queries), []
        encoded, begun = 0, self._monotonic_ms()
        for place, query in enumerate(work.queries):
            if query.vector is not None or not len(query.history):
                continue
            if query.user is not None and query.user in vectors:
                queries[place] = query.with_vector(vectors[query.user])
                continue
            now = self._monotonic_ms()
            if encoded and now + (now - begun) / encoded > until:
                late.append(place)
            else:
                queries[place] = query.with_vector(self._encoded(query))
                encoded += 1
        return Work(tuple(queries), work.found, tuple(late))

    def _at_once(self, work: Work, *, every: bool) -> dict[int, NDArray[np.float32] | None]:
        """Return the vectors of the users who are held, or of every user."""
        asked = [query for query in work.queries if query.vector is None and len(query.history)]
        users = [query.user for query in asked if query.user is not None]
        if not every:
            users = [user for user in users if self.states.contains(user)]
        if not users:
            return {}
        found_BD, known_B = self.states.query(users, work.queries[0].now_ms)
        rows = zip(users, _finite(found_BD), known_B, strict=True)
        return {user: vector if known else None for user, vector, known in rows}

    def _encoded(self, query: Query) -> NDArray[np.float32] | None:
        if query.user is None:
            vector = self.states.query_session(query.history, query.now_ms)
            return None if vector is None else _finite(vector)
        found_BD, known_B = self.states.query([query.user], query.now_ms)
        return _finite(found_BD[0]) if known_B[0] else None


class SearchIndex(Stage):
    """Finds the best items for every query that has a vector, in one search of the index.

    It finds as many as the query's `k`, or its `breadth` if that is more. The budget grows with the
    index: a search may read every row of it. An index of codes can be searched beside the caller,
    see `work_with`.
    """

    name = "search"
    kind: Kind = "source"
    optional = True

    def __init__(self, index: Search) -> None:
        self.index = index
        self._worker: ScanWorker | None = None
        self.budget_ms = BUDGET_MS * (1 + len(index) / 1e6)

    def run(self, work: Work) -> Work:
        """Return the work with candidates for each query that has a vector."""
        asking = [query for query in work.queries if query.vector is not None]
        if not asking:
            return work
        queries_BD, k, exclude, hidden = _asked(asking)
        found = self.index.search(queries_BD, k, exclude=exclude, hidden=hidden)
        return _with_found(work, *found)

    def work_with(self, worker: ScanWorker | None) -> bool:
        """Let `worker` search beside the caller, None: nobody; return whether the index can."""
        can = isinstance(self.index, LiveIndex) and self.index.scans
        self._worker = worker if can else None
        return can

    def brief(self, queries: int, most: int | None = None) -> bool:
        """Return whether so many queries are better searched here than by the worker.

        They are if they read at most so many bytes, by default `BRIEF_BYTES`.
        """
        if self._worker is None or not queries or not isinstance(self.index, LiveIndex):
            return True
        return queries * self.index.query_bytes <= (BRIEF_BYTES if most is None else most)

    def begin(self, work: Work, done: Callable[[], None]) -> Finish | None:
        """Begin the search with the worker, if there is one."""
        asking = [query for query in work.queries if query.vector is not None]
        if not isinstance(self.index, LiveIndex) or self.brief(len(asking)):
            return None
        assert self._worker is not None, "without a worker every search is brief"
        queries_BD, k, exclude, hidden = _asked(asking)
        begun = self.index.begin(queries_BD, k, exclude=exclude, hidden=hidden)
        self._worker.submit(begun, done)
        return lambda: _with_found(work, *begun.result())


def _asked(
    queries: Sequence[Query],
) -> tuple[NDArray[np.float32], int, Excluded, Hidden | None]:
    vectors = [query.vector for query in queries if query.vector is not None]
    masks = [query.hidden for query in queries]
    hidden = None if all(mask is None for mask in masks) else masks
    return (
        np.array(vectors),
        max(q.gathered for q in queries),
        [q.forbidden for q in queries],
        hidden,
    )


def _with_found(work: Work, rows_BK: NDArray[np.int32], scores_BK: NDArray[np.float32]) -> Work:
    """Return the work with the rows found for those of its queries that have a vector."""
    found = list(work.found)
    asking = [place for place, query in enumerate(work.queries) if query.vector is not None]
    for place, rows_K, scores_K in zip(asking, rows_BK, scores_BK, strict=True):
        query = work.queries[place]
        name = query.source or (SESSION if query.user is None else SEQUENCE)
        best = Candidates.of(name, rows_K[: query.gathered], scores_K[: query.gathered])
        found[place] = join(found[place], best)
    return work.with_found(found)


class FillFrom(Stage):
    """Tops up each list that is still short of k with the candidates of one source.

    A source that `needs_history` is not asked about those who have none.
    """

    kind: Kind = "source"

    def __init__(
        self,
        source: Source,
        *,
        needs_history: bool = False,
        optional: bool = False,
    ) -> None:
        self.name = source.name
        self.source = source
        self.needs_history = needs_history
        self.optional = optional

    def run(self, work: Work) -> Work:
        """Return the work with short lists filled; an item already found is not added again."""
        if all(
            len(found) >= query.k for query, found in zip(work.queries, work.found, strict=True)
        ):
            return work
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([self._filled(query, found) for query, found in pairs])

    def _filled(self, query: Query, found: Candidates) -> Candidates:
        if len(found) >= query.k or (self.needs_history and not len(query.history)):
            return found
        more = self.source.candidates(query, query.k)
        if len(found):
            more = more.take(~among(more.rows_K, np.sort(found.rows_K)))
        return join(found, more)


class DropForbidden(Stage):
    """Drops what may not be shown: seen or excluded rows, padding, scores that are no number."""

    name = "filter"
    kind: Kind = "filter"

    def run(self, work: Work) -> Work:
        """Return the work with only candidates that may be shown."""
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found([_allowed(query, found) for query, found in pairs])

    def fallback(self, work: Work) -> Work:
        """Return the work without candidates: rather an empty list than a forbidden item."""
        return work.with_found([Candidates.empty() for _ in work.queries])


class TopK(Stage):
    """Keeps the first k: sources stand in the order of the pipeline, each best first."""

    name = "select"
    kind: Kind = "select"

    def run(self, work: Work) -> Work:
        """Return the work with lists of at most k."""
        if all(
            len(found) <= query.k for query, found in zip(work.queries, work.found, strict=True)
        ):
            return work
        pairs = zip(work.queries, work.found, strict=True)
        return work.with_found(
            [
                found if len(found) <= query.k else found.take(np.arange(query.k))
                for query, found in pairs
            ]
        )

    def fallback(self, work: Work) -> Work:
        """Return the same: whatever was wrong, a list is no longer than was asked."""
        return TopK.run(self, work)


def join(first: Candidates, second: Candidates) -> Candidates:
    """Return the candidates of both, first then second, each with its source's name.

    >>> one = Candidates.of("a", np.array([1]), np.array([0.5]))
    >>> both = join(one, Candidates.of("b", np.array([2]), np.array([9.0])))
    >>> both.rows_K.tolist(), [both.names[source] for source in both.sources_K]
    ([1, 2], ['a', 'b'])
    """
    if not len(first):
        return second
    if not len(second):
        return first
    return Candidates(
        np.concatenate([first.rows_K, second.rows_K]),
        np.concatenate([first.scores_K, second.scores_K]),
        np.concatenate([first.sources_K, second.sources_K + np.int8(len(first.names))]),
        first.names + second.names,
    )


def _allowed(query: Query, found: Candidates) -> Candidates:
    if not len(found):
        return found
    keep_K = (found.rows_K > 0) & np.isfinite(found.scores_K)
    if query.hidden is not None:
        keep_K &= visible(found.rows_K, query.hidden)
    if len(query.forbidden):
        keep_K &= ~among(found.rows_K, query.forbidden)
    return found if np.count_nonzero(keep_K) == len(keep_K) else found.take(keep_K)


def _finite(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if not all_finite(vectors):
        raise ValueError("the model gave a vector with NaN or infinity: train again")
    return vectors
