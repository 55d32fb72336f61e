"""From a request to a ranked list: who asks becomes a `Query`, and queries share passes.

Requests that arrive in the same tick of the event loop ride in one pass of the pipeline: one
graph call and one index search for all. A lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ouzel.events import clock
from ouzel.events.catalog import Catalog
from ouzel.events.interactions import History
from ouzel.inference.states import UserStates
from ouzel.ranking.filters import Filters, Mask
from ouzel.ranking.pipeline import Pass, Pipeline, Ranked
from ouzel.ranking.similar import query_like
from ouzel.retrieval.index import Hidden
from ouzel.retrieval.types import Candidates, Query, distinct_rows, no_history
from ouzel.serving.problem import FieldError, ProblemError, invalid
from ouzel.serving.rebuilds import Rebuilds
from ouzel.serving.timing import Part, Timing
from ouzel.serving.visitors import Visitor, Visitors
from ouzel.serving.wire import RecommendRequest, SimilarRequest

logger = logging.getLogger(__name__)

MAX_PASS = 16
"""Most requests in one pass: a longer pass would itself become the slowest answer."""

DEADLINE_MS = 250.0
"""Time after which what is still optional in a pass is left out; it runs from the moment that the
oldest request of the pass was read."""

CROWD_MS = 100.0
"""For how long a moment with two requests at once is remembered."""

MAX_UNDER_WAY = 2
"""Passes beside the loop: one that runs and one that is ready. Who comes later gathers."""

REBUILD_MS = 150.0
"""How long a request may wait for its user's state to be made beside the loop."""

MAX_FILTERS = 32
"""Most filters being read for the first time."""

MAX_WAITING = 1024
"""Most requests that may wait for a pass. Even answered by fallbacks alone, at about 0.2 ms each,
these take the time of one deadline: who came after them would wait for nothing but a late list."""

ListRequest = RecommendRequest | SimilarRequest

_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one request, and the stage that had to be replaced, if any."""

    found: Candidates
    degraded: str | None


@dataclass(slots=True)
class _Waiting:
    request: ListRequest
    timing: Timing
    read_ms: float
    hidden: NDArray[np.bool_] | None
    future: asyncio.Future[Answer]


@dataclass(slots=True)
class _Ride:
    """A pass with those who ride in it; `troubles[i]` is what failed on the way to query i."""

    passing: Pass
    timings: Sequence[Timing]
    troubles: list[str | None]
    over: bool = False

    def answers(self, ranked: Ranked, parts: Sequence[tuple[Part, str]]) -> list[Answer]:
        for timing in self.timings:
            timing.split(parts, ranked.stage_ms)
        outcomes = zip(self.troubles, ranked.found, ranked.degraded, strict=True)
        return [Answer(found, trouble or degraded) for trouble, found, degraded in outcomes]


class Answers:
    """Answers requests through the pipeline; lives in one event loop.

    The state of a user whom the pool does not hold is made by `rebuilds`, if there are any. What a
    stage can do beside the loop, the search above all, it does there while the loop reads and
    writes HTTP and begins the next pass.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        visitors: Visitors,
        catalog: Catalog,
        *,
        states: UserStates,
        filters: Filters,
        num_rows: int,
        rebuilds: Rebuilds | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._rebuilds = rebuilds
        self._states = states
        self._visitors = visitors
        self._catalog = catalog
        self._num_rows = num_rows
        self._filters = filters
        self._waiting: list[_Waiting] = []
        self._made: dict[str, asyncio.Task[Mask]] = {}
        self._under_way = 0
        self._open = 0
        self._crowded_ms = -math.inf
        # What a stage costs is part A of an answer, but for what completes the query: part P.
        self._parts: list[tuple[Part, str]] = [
            ("P" if stage.kind == "hydrate" else "A", stage.name) for stage in pipeline.stages
        ]

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a pass."""
        return len(self._waiting)

    async def answer(self, request: ListRequest, timing: Timing) -> Answer:
        """Return the list for one request; `timing` learns what each stage took.

        Raises:
            ProblemError: 503 if too many requests wait already.
        """
        read_ms = _monotonic_ms()
        if self._open:
            self._crowded_ms = read_ms
        self._open += 1
        try:
            return await self._answer(request, timing, read_ms)
        finally:
            self._open -= 1

    async def _answer(self, request: ListRequest, timing: Timing, read_ms: float) -> Answer:
        hidden = await self.hidden(request.filter)
        absent = None if self._rebuilds is None else self._absent(request)
        if self._rebuilds is not None and absent is not None:
            await self._rebuilds.wait_for(absent, seconds=REBUILD_MS / 1000)
            timing.mark("P", "rebuild")
        if len(self._waiting) >= MAX_WAITING:
            raise _busy(f"{len(self._waiting)} requests wait already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._pass)
        self._waiting.append(_Waiting(request, timing, read_ms, hidden, future))
        return await future

    async def hidden(self, text: str | None) -> NDArray[np.bool_] | None:
        """Return the mask of rows that a request's filter hides; what is long is done beside.

        Raises:
            ProblemError: 422 if the filter is none, 503 if too many wait for new ones.
        """
        if text is None:
            return self._filters.hidden(None)
        kept = self._filters.kept(text)
        if kept is not None:
            return kept
        task = self._made.get(text)
        if task is None:
            if len(self._made) >= MAX_FILTERS:
                raise _busy(f"{len(self._made)} filters are being read")
            making = asyncio.to_thread(self._filters.make, text)
            task = self._made[text] = asyncio.get_running_loop().create_task(making)
            task.add_done_callback(lambda _: self._made.pop(text))
        try:
            mask = await asyncio.shield(task)
        except ValueError as error:
            raise invalid([FieldError("filter", "invalid", str(error))]) from None
        return self._filters.keep(text, mask)

    def rank(
        self,
        requests: Sequence[ListRequest],
        timings: Sequence[Timing],
        *,
        read_ms: float | None = None,
    ) -> list[Answer]:
        """Return the answers to requests that ride in one pass.

        `read_ms` is when the oldest of them was read, on the scale of `time.monotonic() * 1000`;
        now by default.
        """
        masks = [self._filters.hidden(request.filter) for request in requests]
        since_ms = _monotonic_ms() if read_ms is None else read_ms
        ride = self._board(requests, masks, timings, since_ms)
        ranked = self.pipeline.advance(ride.passing)
        assert ranked is not None, "nothing went on beside the caller"
        return ride.answers(ranked, self._parts)

    def _board(
        self,
        requests: Sequence[ListRequest],
        masks: Hidden,
        timings: Sequence[Timing],
        read_ms: float,
    ) -> _Ride:
        """Return the pass of these requests, before its first stage."""
        now_ms = clock.now_ms()
        for timing in timings:
            timing.mark("T", "wait")
        asked = [
            self._query(request, mask, now_ms, read_ms + DEADLINE_MS)
            for request, mask in zip(requests, masks, strict=True)
        ]
        for timing in timings:
            timing.mark("P", "lookup")
        passing = self.pipeline.begin([query for query, _ in asked])
        return _Ride(passing, timings, [trouble for _, trouble in asked])

    def _pass(self) -> None:
        """Begin a pass of those who have waited longest; called again by the end of a pass."""
        if not self._waiting or self._under_way >= MAX_UNDER_WAY:
            return
        batch, self._waiting = self._waiting[:MAX_PASS], self._waiting[MAX_PASS:]
        batch = [waiting for waiting in batch if not waiting.future.done()]
        if not batch:
            asyncio.get_running_loop().call_soon(self._pass)
            return
        try:
            ride = self._board(
                [waiting.request for waiting in batch],
                [waiting.hidden for waiting in batch],
                [waiting.timing for waiting in batch],
                min(waiting.read_ms for waiting in batch),
            )
        except Exception as error:
            _fail(batch, error)
        else:
            self._under_way += 1
            self._advance(batch, ride)
        if self._waiting:
            # Only now, so that the answers just made leave before the next pass takes the loop.
            asyncio.get_running_loop().call_soon(self._pass)

    def _advance(self, batch: list[_Waiting], ride: _Ride) -> None:
        """Go on with a pass; its answers are given out if that is its end."""

        def again(passing: Pass) -> None:
            if not ride.over:
                self._advance(batch, ride)
                asyncio.get_running_loop().call_soon(self._pass)

        # To go beside the loop would take longer than it saves, if nobody is likely to come by.
        alone = _monotonic_ms() - self._crowded_ms > CROWD_MS
        try:
            ranked = self.pipeline.advance(ride.passing, None if alone else again)
            if ranked is None:
                return
            answers = ride.answers(ranked, self._parts)
        except Exception as error:
            _fail(batch, error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(answer)
        ride.over = True
        self._under_way -= 1

    def _query(
        self,
        request: ListRequest,
        hidden: NDArray[np.bool_] | None,
        now_ms: int,
        deadline_ms: float,
    ) -> tuple[Query, str | None]:
        """Return the query of a request, and the name of what failed on the way to it."""
        if isinstance(request, SimilarRequest):
            return self._like(request, hidden, now_ms, deadline_ms)
        visitor, trouble = self._visitor(request)
        known = visitor.known if visitor is not None else no_history()
        user = visitor.user if visitor is not None else None
        forbidden = visitor.seen if visitor is not None and request.exclude_seen else _NO_ROWS
        context, exclude = self._rows(request.items), self._rows(request.exclude_items)
        if len(exclude) or (len(context) and request.exclude_seen):
            shown = context if request.exclude_seen else _NO_ROWS
            forbidden = distinct_rows(forbidden, shown, exclude)
        if len(context):
            # What was just looked at is newer than all that is stored, and is stored nowhere.
            times_ms = np.full(len(context), now_ms, np.int64)
            known = History(
                np.concatenate([known.rows, context]), np.concatenate([known.times_ms, times_ms])
            )
            user = None
        query = Query(
            k=request.n,
            now_ms=now_ms,
            user=user,
            history=known,
            forbidden=forbidden,
            hidden=hidden,
            deadline_ms=deadline_ms,
        )
        return query, trouble

    def _like(
        self,
        request: SimilarRequest,
        hidden: NDArray[np.bool_] | None,
        now_ms: int,
        deadline_ms: float,
    ) -> tuple[Query, str | None]:
        visitor, trouble = self._visitor(request) if request.exclude_seen else (None, None)
        itself = self._rows([request.item_id])
        seen = _NO_ROWS if visitor is None else visitor.seen
        query = query_like(
            int(itself[0]) if len(itself) else 0,
            self.pipeline,
            k=request.n,
            now_ms=now_ms,
            forbidden=distinct_rows(seen, self._rows(request.exclude_items)),
            hidden=hidden,
            deadline_ms=deadline_ms,
        )
        return query, trouble

    def _absent(self, request: ListRequest) -> int | None:
        """Return the user whose state this request needs and nobody holds, if there is one."""
        if isinstance(request, SimilarRequest):
            return None
        visitor, _ = (None, None) if request.items else self._visitor(request)
        if visitor is None or not len(visitor.known) or self._states.contains(visitor.user):
            return None
        return visitor.user

    def _visitor(self, request: ListRequest) -> tuple[Visitor | None, str | None]:
        if request.user_id is None and request.session_id is None:
            return None, None
        try:
            return self._visitors.find(request.user_id, request.session_id), None
        except Exception:
            # A log that cannot be read costs the history, not the answer.
            logger.exception("the history of a visitor could not be read")
            return None, "history"

    def _rows(self, item_ids: list[str]) -> NDArray[np.int32]:
        if not item_ids:
            return _NO_ROWS
        rows = self._catalog.rows(item_ids)
        return rows[(rows > 0) & (rows < self._num_rows)]


def _busy(what: str) -> ProblemError:
    return ProblemError(503, f"{what}: try again later", headers=[(b"retry-after", b"1")])


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
