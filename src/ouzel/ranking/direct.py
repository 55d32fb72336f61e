"""The standard path for users whose states are held, in as few steps as there are.

What a pipeline does for nearly every request is: read the states that are held, search once, see
that every list is full. Here that is done without queries, candidates and turns of stages. What
else may turn up (no state, a list that is short, a score that is no number) is for the pipeline: it
asks the same states and the same index, so who is answered here is answered alike.

Cost: 15 microseconds a pass beside what states and index take; the stages, 150.

Shape legend: B = users, K = results, N = catalogue rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.inference.states import UserStates
from ouzel.ranking.pipeline import Pipeline
from ouzel.ranking.stages import DropForbidden, EncodeUser, FillFrom, SearchIndex, TopK


class Lists(NamedTuple):
    """The best K rows and their scores (B, K) of B users.

    Those that are `full_B` have an item and a score that is a number in all places. `spent_ms` is
    what states and search took.
    """

    rows_BK: NDArray[np.int32]
    scores_BK: NDArray[np.float32]
    full_B: list[bool]
    spent_ms: tuple[float, float]


class DirectSearch:
    """Finds lists as the first two stages of a standard path do, if the others only fill up."""

    def __init__(self, states: UserStates, search: SearchIndex) -> None:
        self._states = states
        self._search = search

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self | None:
        """Return what answers in place of `pipeline`, None if it does more to a full list.

        >>> DirectSearch.of(Pipeline([TopK()])) is None
        True
        """
        first, rest = pipeline.stages[:2], pipeline.stages[2:]
        if not all(isinstance(stage, FillFrom | DropForbidden | TopK) for stage in rest):
            return None
        match first:
            case (EncodeUser(states=UserStates() as states), SearchIndex() as search):
                return cls(states, search)
        return None

    @property
    def brief(self) -> bool:
        """Return whether a search is too brief to go elsewhere."""
        return self._search.brief(1)

    def serves(self, user: int) -> bool:
        """Return whether the user's state is held, and a search is brief."""
        return self.brief and self._states.contains(user)

    def lists(
        self,
        users: Sequence[int],
        k: int,
        *,
        seen: Sequence[NDArray[np.int32]],
        hidden: NDArray[np.bool_] | None,
        now_ms: int,
    ) -> Lists:
        """Return lists of k for users; states that are not held are made first, from the log.

        No list has what its user has `seen` (sorted rows, each once) or what is `hidden` (N,).

        Raises:
            ValueError: a vector is not finite, or nothing is known of a user.
        """
        begun = perf_counter()
        vectors_BD, known_B = self._states.query(users, now_ms)
        if not all(known_B):
            raise ValueError("nothing that the model knows is known of a user: look elsewhere")
        read = perf_counter()
        masks = None if hidden is None else [hidden] * len(users)
        rows_BK, scores_BK = self._search.index.search(vectors_BD, k, exclude=seen, hidden=masks)
        full_B = _full(rows_BK, scores_BK)
        done = perf_counter()
        spent_ms = ((read - begun) * 1000, (done - read) * 1000)
        return Lists(rows_BK, scores_BK, full_B, spent_ms)


def _full(rows_BK: NDArray[np.int32], scores_BK: NDArray[np.float32]) -> list[bool]:
    """Return which lists have an item and a number everywhere."""
    flat = scores_BK.ravel()
    # One product tells of all: where a list is short its scores end with -inf.
    if math.isfinite(float(flat.dot(flat))) and rows_BK[:, -1].all():
        return [True] * len(rows_BK)
    good_BK = (rows_BK > 0) & np.isfinite(scores_BK)
    return [bool(good_K.all()) for good_K in good_BK]
