"""The request path as stages: each has a name, a time budget and a fallback, none knows another.

A pass carries a few requests at once (B queries that arrived together), so that one graph call
and one index search serve them all. Scores do not depend on who else is in the pass.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Work:
    """B queries and what was found for each: `queries[i]` belongs to `found[i]`.

    `late` are the positions that the stage which returns this had no time for.
    """

    queries: tuple[Query, ...]
    found: tuple[Candidates, ...]
    late: tuple[int, ...] = ()

    def with_found(self, found: Sequence[Candidates]) -> Work:
        """Return the same queries with other candidates."""
        return Work(self.queries, tuple(found))


class Stage(ABC):
    """One step of the request path: work -> work, of the same B queries in the same order.

    `kind` says what it does: hydrate (complete the query), source (find candidates), filter
    (drop some), score (re-score them), select (choose the final list). `budget_ms` is what
    each query of a pass may cost. An `optional` stage is left out once the deadline of a pass has
    gone by, and rests after repeated overruns of its budget.
    """

    name: str
    kind: Kind
    budget_ms: float = BUDGET_MS
    optional: bool = False

    @abstractmethod
    def run(self, work: Work) -> Work:
        """Return the work with this step done."""

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


class Pipeline:
    """Stages in order under a deadline. A failing stage degrades an answer, never loses it.

    A stage that raises is tried again query by query, so one bad query does not degrade its
    neighbours; where it raises again its fallback goes on. `failures` and `overruns` count per
    stage. Without `resting` no stage is bypassed for its overruns: who asks in bulk would rather
    wait. `monotonic_ms` is the clock of budgets and deadlines; tests replace it.

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
        self._resting = resting
        self._monotonic_ms = monotonic_ms
        self._streak = dict.fromkeys(self.names, 0)
        self._rest_until = dict.fromkeys(self.names, 0.0)

    def run(self, queries: Sequence[Query]) -> Ranked:
        """Return the final candidates of each query; no exception of a stage comes out."""
        work = Work(tuple(queries), tuple(Candidates.empty() for _ in queries))
        degraded: list[str | None] = [None] * len(queries)
        deadline = min((query.deadline_ms for query in queries), default=float("inf"))
        stage_ms = []
        begun = self._monotonic_ms()
        for stage in self.stages:
            if self._bypassed(stage, begun, deadline):
                _mark(degraded, range(len(queries)), stage.name)
                work = stage.fallback(work)
            else:
                work, failed = self._guarded(stage, work)
                _mark(degraded, failed, stage.name)
            ended = self._monotonic_ms()
            stage_ms.append(ended - begun)
            self._watch(stage, (ended - begun) / max(1, len(queries)), ended)
            begun = ended
        return Ranked(work.found, tuple(degraded), tuple(stage_ms))

    def _bypassed(self, stage: Stage, now: float, deadline: float) -> bool:
        return stage.optional and (now > deadline or now < self._rest_until[stage.name])

    def _watch(self, stage: Stage, query_ms: float, now: float) -> None:
        if query_ms <= stage.budget_ms:
            self._streak[stage.name] = 0
            return
        self.overruns[stage.name] += 1
        self._streak[stage.name] += 1
        if self._resting and self._streak[stage.name] >= OVERRUNS_BEFORE_REST:
            self._streak[stage.name] = 0
            self._rest_until[stage.name] = now + REST_MS

    def _guarded(self, stage: Stage, work: Work) -> tuple[Work, Sequence[int]]:
        """Return the work after the stage, and the positions that had to take the fallback."""
        try:
            done = stage.run(work)
            return (replace(done, late=()) if done.late else done), done.late
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
                done.append(stage.run(single))
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


def _mark(degraded: list[str | None], places: Sequence[int], name: str) -> None:
    for place in places:
        if degraded[place] is None:
            degraded[place] = name
