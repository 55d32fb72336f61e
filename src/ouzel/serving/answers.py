"""From a request to a ranked list: who asks becomes a `Query`, and queries share passes.

Requests that arrive in the same tick of the event loop ride in one pass of the pipeline: one
graph call and one index search for all. A lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from ouzel.events import clock
from ouzel.events.catalog import Catalog
from ouzel.ranking.filters import Filters, Mask
from ouzel.ranking.paths import Paths
from ouzel.ranking.pipeline import Pass, Pipeline, Ranked
from ouzel.retrieval.arrangement import Arrangement
from ouzel.retrieval.types import Candidates
from ouzel.serving.arranging import (
    arrangement,
    distinct_items,
    fields_of,
    filters_of,
)
from ouzel.serving.problem import FieldError, ProblemError, invalid
from ouzel.serving.queries import Asked, Held, ListRequest, Queries
from ouzel.serving.rebuilds import Rebuilds
from ouzel.serving.timing import Part, Timing
from ouzel.serving.visitors import Visitors
from ouzel.serving.wire import RankRequest, RecommendRequest, SimilarRequest

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

WATCH_SECONDS = 0.05
"""How often passes beside the loop are looked after: one past its deadline goes on without the
stage that does not come back."""

REBUILD_MS = 150.0
"""How long a request may wait for its user's state to be made beside the loop."""

MAX_FILTERS = 32
"""Most filters being read for the first time."""

MAX_WAITING = 1024
"""Most requests that may wait for a pass. Even answered by fallbacks alone, at about 0.2 ms each,
these take the time of one deadline: who came after them would wait for nothing but a late list."""


_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one request, and the stage that had to be replaced, if any."""

    found: Candidates
    degraded: str | None


@dataclass(slots=True)
class _Waiting(Asked):
    pipeline: Pipeline
    read_ms: float
    future: asyncio.Future[Answer]


@dataclass(slots=True)
class _Ride:
    """A pass with those who ride in it; `troubles[i]` is what failed on the way to query i."""

    pipeline: Pipeline
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
        paths: Paths,
        visitors: Visitors,
        catalog: Catalog,
        *,
        states: Held,
        filters: Filters,
        num_rows: int,
        rebuilds: Rebuilds | None = None,
    ) -> None:
        self.paths = paths
        self.pipeline = paths.standard
        self._rebuilds = rebuilds
        self._catalog = catalog
        self._queries = Queries(visitors, catalog, self.pipeline, states=states, num_rows=num_rows)
        self._filters = filters
        self._waiting: list[_Waiting] = []
        self._made: dict[str, asyncio.Task[Mask]] = {}
        self._under_way = 0
        self._beside: list[tuple[list[_Waiting], _Ride]] = []
        self._open = 0
        self._crowded_ms = -math.inf
        # What a stage costs is part A of an answer, but for what completes the query: part P.
        self._parts: dict[Pipeline, list[tuple[Part, str]]] = {
            pipeline: [
                ("P" if stage.kind == "hydrate" else "A", stage.name) for stage in pipeline.stages
            ]
            for pipeline in paths.all
        }

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
        pipeline, arranged = self.pipeline, None
        if not isinstance(request, SimilarRequest) and request.arranges():
            pipeline, arranged = await self._arranged(request)
        absent = None if self._rebuilds is None else self._queries.absent(request)
        if self._rebuilds is not None and absent is not None:
            await self._rebuilds.wait_for(absent, seconds=REBUILD_MS / 1000)
            timing.mark("P", "rebuild")
        if len(self._waiting) >= MAX_WAITING:
            raise _busy(f"{len(self._waiting)} requests wait already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._pass)
        self._waiting.append(_Waiting(request, timing, hidden, arranged, pipeline, read_ms, future))
        return await future

    async def _arranged(
        self, request: RecommendRequest | RankRequest
    ) -> tuple[Pipeline, Arrangement]:
        """Return the path of a request that asks for more than the list of scores, and what."""
        # One after the other: masks of the same filters are made once, and few at a time.
        masks = {text: await self.hidden(text) for text in filters_of(request)}
        return self._arrange(request, masks)

    def _arrange(
        self, request: RecommendRequest | RankRequest, masks: Mapping[str, NDArray[np.bool_] | None]
    ) -> tuple[Pipeline, Arrangement]:

        def rows_of(item_ids: list[str]) -> NDArray[np.int32]:
            return self._filters.shown(request.filter, self._catalog.rows(item_ids))

        own_K = distinct_items(rows_of(request.items)) if isinstance(request, RankRequest) else None
        try:
            self.paths.categories.check(fields_of(request))
            k = request.n or len(request.items)
            arranged = arrangement(request, k, rows_of=rows_of, masks=masks, own_K=own_K)
        except ValueError as error:
            raise invalid([FieldError("request", "invalid", str(error))]) from None
        return self.paths.union if own_K is None else self.paths.rank, arranged

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
        asked = [
            Asked(request, timing, self._filters.hidden(request.filter), None)
            for request, timing in zip(requests, timings, strict=True)
        ]
        since_ms = _monotonic_ms() if read_ms is None else read_ms
        ride = self._board(self.pipeline, asked, since_ms)
        ranked = self.pipeline.advance(ride.passing)
        assert ranked is not None, "nothing went on beside the caller"
        return ride.answers(ranked, self._parts[self.pipeline])

    def _board(self, pipeline: Pipeline, asked: Sequence[Asked], read_ms: float) -> _Ride:
        """Return the pass of these requests, before its first stage."""
        now_ms = clock.now_ms()
        timings = [one.timing for one in asked]
        for timing in timings:
            timing.mark("T", "wait")
        queries = [self._queries.of(one, now_ms, read_ms + DEADLINE_MS) for one in asked]
        for timing in timings:
            timing.mark("P", "lookup")
        passing = pipeline.begin([query for query, _ in queries])
        return _Ride(pipeline, passing, timings, [trouble for _, trouble in queries])

    def _pass(self) -> None:
        """Begin a pass of those who have waited longest; called again by the end of a pass."""
        if not self._waiting or self._under_way >= MAX_UNDER_WAY:
            return
        pipeline = self._waiting[0].pipeline
        # Those of the path of whoever has waited longest; nearly always that is everybody's.
        of_one = takewhile(lambda one: one.pipeline is pipeline, self._waiting[:MAX_PASS])
        batch = list(of_one)
        self._waiting = self._waiting[len(batch) :]
        batch = [waiting for waiting in batch if not waiting.future.done()]
        if not batch:
            asyncio.get_running_loop().call_soon(self._pass)
            return
        try:
            ride = self._board(pipeline, batch, min(waiting.read_ms for waiting in batch))
        except Exception as error:
            _fail(batch, error)
        else:
            self._under_way += 1
            self._advance(batch, ride)
        if self._waiting:
            # Only now, so that the answers just made leave before the next pass takes the loop.
            asyncio.get_running_loop().call_soon(self._pass)

    def _advance(self, batch: list[_Waiting], ride: _Ride, *, late: bool = False) -> None:
        """Go on with a pass; its answers are given out if that is its end.

        One that is `late` does not wait for the stage that it is beside.
        """

        def again(passing: Pass) -> None:
            if not ride.over:
                self._advance(batch, ride)
                asyncio.get_running_loop().call_soon(self._pass)

        # To go beside the loop would take longer than it saves, if nobody is likely to come by.
        alone = _monotonic_ms() - self._crowded_ms > CROWD_MS
        try:
            if late:
                ride.pipeline.give_up(ride.passing)
            ranked = ride.pipeline.advance(ride.passing, None if alone else again)
            if ranked is None:
                self._look_after(batch, ride)
                return
            answers = ride.answers(ranked, self._parts[ride.pipeline])
        except Exception as error:
            _fail(batch, error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(answer)
        ride.over = True
        self._under_way -= 1

    def _look_after(self, batch: list[_Waiting], ride: _Ride) -> None:
        """Remember a pass that goes on beside the loop, in case that it does not come back."""
        if not self._beside:
            asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)
        self._beside.append((batch, ride))

    def _watch(self) -> None:
        """Let the passes that are past their deadline go on with the fallback of their stage."""
        beside, self._beside = self._beside, []
        for batch, ride in beside:
            if ride.over:
                continue
            if _monotonic_ms() <= ride.passing.deadline_ms:
                self._look_after(batch, ride)
                continue
            self._advance(batch, ride, late=True)
            asyncio.get_running_loop().call_soon(self._pass)


def _busy(what: str) -> ProblemError:
    return ProblemError(503, f"{what}: try again later", headers=[(b"retry-after", b"1")])


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
