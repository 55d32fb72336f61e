"""The request path as stages: each has a name, a time budget and a fallback, none knows another.

A pass carries a few requests at once (B queries that arrived together), so that one graph call
and one index search serve them all. Scores do not depend on who else is in the pass.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import msgspec

from ouzel.retrieval.types import Candidates, Query

logger = logging.getLogger(__name__)

Kind = Literal["hydrate", "source", "filter", "score", "select"]

BUDGET_MS = 100.0
"""What one query may cost a stage. Generous: the longest honest step, the re-encode of a full
history by the larger preset, takes 60 ms on one core."""

OVERRUNS_BEFORE_REST = 3
"""A stage this often in a row over its budget is stuck and is bypassed for a while: inline work
cannot be cut off half-way, but the next requests need not wait for it too."""

REST_MS = 1000.0
"""How long a stage is bypassed after repeated overruns, in milliseconds."""


class Work(msgspec.Struct, frozen=True, eq=False):
    """B queries and what was found for each: `queries[i]` belongs to `found[i]`.

    `late` are the positions that the stage which returns this had no time for.
    """

    queries: tuple[Query, ...]
    found: tuple[Candidates, ...]
    late: tuple[int, ...] = ()

    def with_found(self, found: Sequence[Candidates]) -> Work:
        """Return the same queries with other candidates."""
        return Work(self.queries, tuple(found))


Finish = Callable[[], Work]
"""Returns the work after a stage that was begun."""


class Stage(ABC):
    """One step of the request path: work -> work, of the same B queries in the same order.

    `kind` says what it does: hydrate (complete the query), source (find candidates), filter
    (drop some), score (re-score them), select (choose the final list). `budget_ms` is what
    each query of a pass may cost, `breadth` how many candidates it wants for a query that says
    nothing of it. An `optional` stage is left out once the deadline of a pass has gone by, and
    rests after repeated overruns of its budget.
    """

    name: str
    kind: Kind
    budget_ms: float = BUDGET_MS
    optional: bool = False
    breadth: int = 0

    @abstractmethod
    def run(self, work: Work) -> Work:
        """Return the work with this step done."""

    def begin(self, work: Work, done: Callable[[], None]) -> Finish | None:
        """Begin to run beside the caller, if that is possible, and return what will finish it.

        `done` is called later, in the thread of the caller, when that takes no more waiting.
        """
        return None

    def fallback(self, work: Work) -> Work:
        """Return what goes on when `run` raised or is bypassed: the work as it came."""
        return work


@dataclass(frozen=True, slots=True)
class Ranked:
    """The outcome of a pass.

    `found[i]` is the final list of query i, `degraded[i]` the name of the first stage whose
    fallback it had to take, or None. `stage_ms[s]` is the time of `Pipeline.names[s]`, shared by
    the pass.
    """

    found: tuple[Candidates, ...]
    degraded: tuple[str | None, ...]
    stage_ms: tuple[float, ...]


@dataclass(slots=True)
class Pass:
    """A pass under way: how far it is, who is degraded by which stage, and time spent.

    The next stage is that after the last time; `begun_ms` is when the last one ended. `finish` is
    there while a stage goes on beside the caller.
    """

    work: Work
    degraded: list[str | None]
    deadline_ms: float
    begun_ms: float
    stage_ms: list[float] = field(default_factory=list)
    finish: Finish | None = None


class Pipeline:
    """Stages in order under a deadline. A failing stage degrades an answer, never loses it.

    A stage that raises, or whose scores are no numbers, is tried again query by query, so one bad
    query does not degrade its neighbours; where it fails again its fallback goes on. One that goes
    on beside the caller and does not come back can be given up; one that hangs here holds up the
    caller, and nothing but its rest keeps it from the next pass. `failures` and `overruns` count
    per stage. Without `resting` no stage is bypassed for its overruns: who asks in bulk would
    rather wait. `monotonic_ms` is the clock of budgets and deadlines; tests replace it.

    >>> from ouzel.ranking.stages import FillFrom, TopK
    >>> import numpy as np
    >>> class Popular:
    ...     name = "popular"
    ...     def candidates(self, query, k):
    ...         return Candidates.of("popular", np.array([5, 9])[:k], np.array([2.0, 1.0])[:k])
    >>> ranked = Pipeline([FillFrom(Popular()), TopK()]).run([Query(k=1, now_ms=0)])
    >>> ranked.found[0].rows_K.tolist(), ranked.degraded
    ([5], (None,))
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        resting: bool = True,
        monotonic_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
    ) -> None:
        """Raises: ValueError if two stages share a name, or there is none."""
        self.stages = tuple(stages)
        self.names = tuple(stage.name for stage in stages)
        if not stages or len(set(self.names)) != len(stages):
            raise ValueError(f"stages {self.names}: give at least one, each its own name")
        self.failures = dict.fromkeys(self.names, 0)
        self.overruns = dict.fromkeys(self.names, 0)
        self._breadth = max(stage.breadth for stage in self.stages)
        self._resting = resting
        self._monotonic_ms = monotonic_ms
        self._streak = dict.fromkeys(self.names, 0)
        self._rest_until = dict.fromkeys(self.names, 0.0)

    def run(self, queries: Sequence[Query]) -> Ranked:
        """Return the final candidates of each query; no exception of a stage comes out."""
        ranked = self.advance(self.begin(queries))
        assert ranked is not None, "nothing went on beside the caller"
        return ranked

    def begin(self, queries: Sequence[Query]) -> Pass:
        """Return a pass that stands before the first stage, for `advance`."""
        if self._breadth:
            # What is like an item is asked for by the vector of that item, and is not ranked.
            queries = [
                q if q.breadth or q.source else q.with_breadth(self._breadth) for q in queries
            ]
        return Pass(
            Work(tuple(queries), tuple(Candidates.empty() for _ in queries)),
            [None] * len(queries),
            min((query.deadline_ms for query in queries), default=float("inf")),
            self._monotonic_ms(),
        )

    def advance(self, passing: Pass, beside: Callable[[Pass], None] | None = None) -> Ranked | None:
        """Return the outcome of a pass, or None if a stage of it now goes on beside the caller.

        `beside` is then called with the pass when it is time to advance it again. Without `beside`
        every stage is done here.
        """
        while len(passing.stage_ms) < len(self.stages):
            stage = self.stages[len(passing.stage_ms)]
            if self._bypassed(stage, passing):
                _mark(passing.degraded, range(len(passing.work.queries)), stage.name)
                passing.work = stage.fallback(passing.work)
            elif beside is not None and self._begun(stage, passing, beside):
                return None
            else:
                passing.work, failed = self._guarded(stage, passing)
                _mark(passing.degraded, failed, stage.name)
            self._watch(stage, passing)
        return Ranked(passing.work.found, tuple(passing.degraded), tuple(passing.stage_ms))

    def give_up(self, passing: Pass) -> None:
        """Let the fallback go on for a stage beside the caller that does not come back."""
        stage = self.stages[len(passing.stage_ms)]
        passing.finish = None
        self._note(stage, TimeoutError("it did not come back before the deadline of the pass"))
        _mark(passing.degraded, range(len(passing.work.queries)), stage.name)
        passing.work = stage.fallback(passing.work)
        self._watch(stage, passing, late=True)

    def _bypassed(self, stage: Stage, passing: Pass) -> bool:
        if not stage.optional or passing.finish is not None:
            return False
        now = passing.begun_ms
        return now > passing.deadline_ms or now < self._rest_until[stage.name]

    def _begun(self, stage: Stage, passing: Pass, beside: Callable[[Pass], None]) -> bool:
        """Return whether the stage of a pass now goes on beside the caller."""
        if passing.finish is not None:
            return False
        try:
            passing.finish = stage.begin(passing.work, partial(beside, passing))
        except Exception as error:
            self._note(stage, error)
        return passing.finish is not None

    def _watch(self, stage: Stage, passing: Pass, *, late: bool = False) -> None:
        """Note the time of a stage that is done, and if it was `late` or over its budget."""
        now = self._monotonic_ms()
        spent_ms = now - passing.begun_ms
        passing.stage_ms.append(spent_ms)
        passing.begun_ms = now
        if not late and spent_ms / max(1, len(passing.work.queries)) <= stage.budget_ms:
            self._streak[stage.name] = 0
            return
        self.overruns[stage.name] += 1
        self._streak[stage.name] += 1
        if self._resting and self._streak[stage.name] >= OVERRUNS_BEFORE_REST:
            self._streak[stage.name] = 0
            self._rest_until[stage.name] = now + REST_MS

    def _guarded(self, stage: Stage, passing: Pass) -> tuple[Work, Sequence[int]]:
        """Return the work after the stage, and the positions that had to take the fallback."""
        work, finish = passing.work, passing.finish
        passing.finish = None
        try:
            done = stage.run(work) if finish is None else finish()
            _check_scores(stage, work, done)
            return (Work(done.queries, done.found) if done.late else done), done.late
        except Exception as error:
            self._note(stage, error)
        if len(work.queries) == 1:
            return stage.fallback(work), [0]
        return self._one_by_one(stage, work)

    def _one_by_one(self, stage: Stage, work: Work) -> tuple[Work, list[int]]:
        done: list[Work] = []
        failed: list[int] = []
        for place, (query, found) in enumerate(zip(work.queries, work.found, strict=True)):
            single = Work((query,), (found,))
            try:
                after = stage.run(single)
                _check_scores(stage, single, after)
                done.append(after)
            except Exception:
                done.append(stage.fallback(single))
                failed.append(place)
        queries = tuple(single.queries[0] for single in done)
        return Work(queries, tuple(single.found[0] for single in done)), failed

    def _note(self, stage: Stage, error: Exception) -> None:
        self.failures[stage.name] += 1
        # Powers of two only: a stage that fails on every request must not also fill the disk.
        count = self.failures[stage.name]
        if count & (count - 1) == 0:
            logger.warning("stage %s failed (%d so far)", stage.name, count, exc_info=error)


def _check_scores(stage: Stage, before: Work, after: Work) -> None:
    """Return nothing if the scores that a stage gave are numbers, infinite ones if it is a source.

    Raises:
        ValueError: they are not.
    """
    for old, found in zip(before.found, after.found, strict=True):
        if found is old or not len(found):
            continue
        # One product tells of all: a tenth of the cost of looking at each.
        squares = float(found.scores_K.dot(found.scores_K))
        if math.isnan(squares) or (math.isinf(squares) and stage.kind != "source"):
            raise ValueError("it gave a score that is no number")


def _mark(degraded: list[str | None], places: Sequence[int], name: str) -> None:
    for place in places:
        if degraded[place] is None:
            degraded[place] = name
