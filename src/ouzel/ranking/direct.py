"""The standard path for users whose states are held, in as few steps as there are.

What a pipeline does for nearly every request is: read the states that are held, search once, blend
the lists if that was learned, see that every one is full. Here that is done without turns of
stages. What else may turn up (no state, a list that is short, a score that is no number) is for the
pipeline: it asks the same states and the same index, so who is answered here is answered alike.

Cost: 15 microseconds a pass beside what states and index take; the stages, 150.

Shape legend: B = queries, K = results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from time import perf_counter
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.inference.states import UserStates
from ouzel.ranking.blending import BLENDED, BlendSources
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.stages import SEQUENCE, DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK
from ouzel.retrieval.types import Candidates, Query

DIRECT_BYTES = 8 << 20
"""A search that reads no more than that, 0.4 ms, is done with the rest of the request: a thread of
its own would save that time for others, and take longer for this one."""

_FILLING = FillFrom | DropForbidden | TopK
_BITS = np.array([1 << source for source in range(len(BLENDED))], np.int8)


class Lists(NamedTuple):
    """The best rows and their scores (B, K) of B queries, K the longest list that is wanted.

    Those that are `full_B` have an item and a score that is a number in all places that were
    asked for. Where lists are blended, bit s of `proposers_BK` says if source s of `BLENDED`
    proposed the item. `spent_ms` is what the steps took, see `DirectSearch.steps`.
    """

    rows_BK: NDArray[np.int32]
    scores_BK: NDArray[np.float32]
    full_B: list[bool]
    spent_ms: tuple[float, ...]
    proposers_BK: NDArray[np.int8] | None = None


class DirectSearch:
    """Finds lists as the first stages of a standard path do, if the others only fill up."""

    def __init__(
        self, states: UserStates, search: SearchIndex, blend: BlendSources | None = None
    ) -> None:
        self._states = states
        self._search = search
        self.blend = blend

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self | None:
        """Return what answers in place of `pipeline`, None if it does more to a full list.

        >>> DirectSearch.of(Pipeline([TopK()])) is None
        True
        """
        stages = pipeline.stages
        first = list(takewhile(lambda stage: not isinstance(stage, _FILLING), stages))
        if not all(isinstance(stage, _FILLING) for stage in stages[len(first) :]):
            return None
        match first:
            case [EncodeUser(states=UserStates() as states), SearchIndex() as search]:
                return cls(states, search)
            case [
                EncodeUser(states=UserStates() as states),
                SearchIndex() as search,
                BlendSources() as blend,
            ]:
                return cls(states, search, blend)
        return None

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the stages that are done, in order."""
        return ("state", "search") if self.blend is None else ("state", "search", "blend")

    @property
    def brief(self) -> bool:
        """Return whether a search is too brief to go elsewhere."""
        return self._search.brief(1, DIRECT_BYTES)

    def serves(self, user: int) -> bool:
        """Return whether the user's state is held, and a search is brief."""
        return self.brief and self._states.contains(user)

    def lists(self, queries: Sequence[Query]) -> Lists:
        """Return lists for users at one time; states that are not held are made first.

        A query has `user`, `history`, `forbidden` and, the same in all, `hidden` and `now_ms`.

        Raises:
            ValueError: a vector is not finite, or nothing is known of a user.
        """
        begun = perf_counter()
        users = [query.user for query in queries if query.user is not None]
        vectors_BD, known_B = self._states.query(users, queries[0].now_ms)
        if not all(known_B) or len(users) < len(queries):
            raise ValueError("nothing that the model knows is known of a user: look elsewhere")
        read = perf_counter()
        k = max(query.k for query in queries)
        masks = None if queries[0].hidden is None else [query.hidden for query in queries]
        rows_BK, scores_BK = self._search.index.search(
            vectors_BD,
            k if self.blend is None else max(k, self.blend.breadth),
            exclude=[query.forbidden for query in queries],
            hidden=masks,
        )
        if self.blend is None:
            full_B = _full(rows_BK, scores_BK)
            spent_ms = ((read - begun) * 1000, (perf_counter() - read) * 1000)
            return Lists(rows_BK, scores_BK, full_B, spent_ms)
        searched = perf_counter()
        lists = _blended(self.blend, queries, rows_BK, scores_BK, k)
        done = perf_counter()
        spent = (read - begun, searched - read, done - searched)
        return lists._replace(spent_ms=tuple(1000 * seconds for seconds in spent))


def _blended(
    blend: BlendSources,
    queries: Sequence[Query],
    found_BK: NDArray[np.int32],
    told_BK: NDArray[np.float32],
    k: int,
) -> Lists:
    """Return the first k of the blended lists."""
    rows_BK = np.zeros((len(queries), k), np.int32)
    scores_BK = np.zeros((len(queries), k), np.float32)
    proposers_BK = np.zeros((len(queries), k), np.int8)
    full_B = []
    for place, query in enumerate(queries):
        reach = max(query.k, blend.breadth)
        found = Candidates.of(SEQUENCE, found_BK[place, :reach], told_BK[place, :reach])
        best = blend.blended(query, found)
        if best.ranks_KS is None or len(best) < query.k:
            full_B.append(False)
            continue
        rows_BK[place, : query.k] = best.rows_K[: query.k]
        scores_BK[place, : query.k] = best.scores_K[: query.k]
        proposers_BK[place, : query.k] = (best.ranks_KS[: query.k] > 0) @ _BITS
        full_B.append(math.isfinite(float(scores_BK[place].sum())))
    return Lists(rows_BK, scores_BK, full_B, (), proposers_BK)


def _full(rows_BK: NDArray[np.int32], scores_BK: NDArray[np.float32]) -> list[bool]:
    """Return which lists have an item and a number everywhere."""
    flat = scores_BK.ravel()
    # One product tells of all: where a list is short its scores end with -inf.
    if math.isfinite(float(flat.dot(flat))) and rows_BK[:, -1].all():
        return [True] * len(rows_BK)
    good_BK = (rows_BK > 0) & np.isfinite(scores_BK)
    return [bool(good_K.all()) for good_K in good_BK]
