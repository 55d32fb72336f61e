"""Scoring: gathered candidates in the order of a ranker that weighs several actions.

Shape legend: B = queries in a pass, K = candidates of one query, A = actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ouzel.inference.ranking import NO_VECTOR, Asking, Stored
from ouzel.inference.target_attention import BegunRanking
from ouzel.ranking.pipeline import BUDGET_MS, Finish, Kind, Stage, Work
from ouzel.retrieval.scan_worker import ScanWorker
from ouzel.retrieval.types import Candidates, Query

BREADTH = 500
"""Candidates that are scored for a list."""

SCORE_BUDGET_MS = BUDGET_MS
"""What scoring may cost a query: 500 candidates against a state that is held take 1 ms on one core,
2 without the kernel, and a session is encoded first."""


class ScoresCandidates(Protocol):
    """What the stage asks of a ranker (`ouzel.inference.ranking.StateRanker`, or a model of fields,
    `ouzel.inference.fields.FieldRanker`)."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the actions, in the order of the logits."""
        ...

    @property
    def num_rows(self) -> int:
        """Return how many rows it knows, padding included."""
        ...

    def logits(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the logits (B, K, A) of candidate rows, and for whom there are any."""
        ...

    @property
    def reads_vector(self) -> bool:
        """Return whether who asks must have a vector; if not, a history is enough."""
        ...

    @property
    def kernel(self) -> object | None:
        """Return what ranks in compiled code, None if nothing does."""
        ...

    def begin(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[BegunRanking, list[bool]] | None:
        """Return the ranking that gives the logits, to run in any thread; None: no kernel."""
        ...

    def over(self, states: Stored) -> ScoresCandidates:
        """Return the same over other states."""
        ...


def action_weights(
    actions: Sequence[str], weights: Mapping[str, float] | None
) -> NDArray[np.float32]:
    """Return the weight (A,) of each action; None: the first action alone.

    Raises:
        ValueError: an action is unknown, a weight is no number, or all of them are 0.

    >>> action_weights(("interact", "like"), {"like": 2})
    array([0., 2.], dtype=float32)
    >>> action_weights(("interact", "like"), {"likes": 2})
    Traceback (most recent call last):
    ...
    ValueError: the ranker knows no action 'likes': did you mean 'like'?
    """
    given = {actions[0]: 1.0} if weights is None else weights
    for name, weight in given.items():
        if name not in actions:
            near = get_close_matches(name, actions, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"give some of {', '.join(actions)}"
            raise ValueError(f"the ranker knows no action {name!r}: {hint}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of {name!r} is {weight}: give a number")
    if not any(given.values()):
        raise ValueError(f"every action weighs nothing: give one of {', '.join(actions)} a weight")
    return np.array([given.get(name, 0.0) for name in actions], np.float32)


class RankCandidates(Stage):
    """Puts the candidates of each query that the ranker can read into its order.

    The score of a candidate becomes the weighted sum of its logits. Where there is no ranking (the
    state is gone, the ranker raises or gives NaN) the order of the sources stays.
    What was asked for by the vector of an item, or by weights of sources, has that order on
    purpose. Items that came after the model are last. A ranker with a kernel can rank beside the
    caller, see `work_with`.
    """

    name = "ranker"
    kind: Kind = "score"
    optional = True
    budget_ms = SCORE_BUDGET_MS
    breadth = BREADTH

    def __init__(
        self, ranker: ScoresCandidates, *, weights: Mapping[str, float] | None = None
    ) -> None:
        self.ranker = ranker
        self._weights_A = action_weights(ranker.actions, weights)
        self._worker: ScanWorker | None = None

    def over(self, states: Stored) -> RankCandidates:
        """Return the same stage over other states of the same Bundle."""
        stage = RankCandidates(self.ranker.over(states))
        stage._weights_A = self._weights_A
        return stage

    def run(self, work: Work) -> Work:
        """Return the work with ranked candidates; who could not be ranked is `late`.

        Raises:
            ValueError: the ranker gave a score that is not finite.
        """
        lists = self._lists(work)
        if lists is None:
            return work
        logits_BKA, known = self.ranker.logits(lists.asking, lists.rows_BK)
        return self._ranked(work, lists, logits_BKA, known)

    def work_with(self, worker: ScanWorker | None) -> bool:
        """Let `worker` rank beside the caller, None: nobody; return whether the ranker can."""
        can = self.ranker.kernel is not None
        self._worker = worker if can else None
        return can

    def begin(self, work: Work, done: Callable[[], None]) -> Finish | None:
        """Begin to rank with the worker, if there is one."""
        lists = None if self._worker is None else self._lists(work)
        if self._worker is None or lists is None:
            return None
        begun = self.ranker.begin(lists.asking, lists.rows_BK)
        if begun is None:
            return None
        ranking, known = begun
        self._worker.submit(ranking, done)
        return lambda: self._ranked(work, lists, ranking.result(), known)

    def _lists(self, work: Work) -> _Lists | None:
        """Return the lists of a pass that are to be ranked, None if there are none."""
        places = [
            at
            for at, (query, found) in enumerate(zip(work.queries, work.found, strict=True))
            if len(found) and _wanted(query, self.ranker.reads_vector)
        ]
        if not places:
            return None
        rows_BK = _padded([work.found[at] for at in places])
        late_BK = rows_BK >= self.ranker.num_rows
        rows_BK[late_BK] = 0
        return _Lists(places, [_asking(work.queries[at]) for at in places], rows_BK, late_BK)

    def _ranked(
        self, work: Work, lists: _Lists, logits_BKA: NDArray[np.float32], known: Sequence[bool]
    ) -> Work:
        scores_BK = logits_BKA @ self._weights_A
        found = list(work.found)
        for line, at in enumerate(lists.places):
            if known[line]:
                size = len(found[at])
                late_K = lists.late_BK[line, :size]
                found[at] = _in_order(found[at], scores_BK[line, :size], late_K)
        late = tuple(at for at, ranked in zip(lists.places, known, strict=True) if not ranked)
        return Work(work.queries, tuple(found), late)


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of a pass that are ranked: where they are in it, who asks, rows (B, K), which of
    them the ranker does not know."""

    places: Sequence[int]
    asking: Sequence[Asking]
    rows_BK: NDArray[np.int64]
    late_BK: NDArray[np.bool_]


def _wanted(query: Query, reads_vector: bool) -> bool:
    """Return whether the order of a list is the ranker's business."""
    weighed = query.arrangement is not None and query.arrangement.weights is not None
    told = query.vector is not None if reads_vector else len(query.history) > 0
    return told and not query.source and not weighed


def _asking(query: Query) -> Asking:
    vector = NO_VECTOR if query.vector is None else query.vector
    return Asking(query.user, query.history, vector, query.now_ms)


def _padded(lists: Sequence[Candidates]) -> NDArray[np.int64]:
    """Return the rows of all lists (B, K), filled up with the padding row."""
    rows_BK = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for line_K, candidates in zip(rows_BK, lists, strict=True):
        line_K[: len(candidates)] = candidates.rows_K
    return rows_BK


def _in_order(
    candidates: Candidates, scores_K: NDArray[np.float32], late_K: NDArray[np.bool_]
) -> Candidates:
    """Return the candidates by their scores; `late_K`, of which the ranker knows nothing, last."""
    if not np.isfinite(scores_K).all():
        raise ValueError("the ranker gave a score with NaN or infinity: train again")
    if not late_K.any():
        order = np.argsort(-scores_K, kind="stable")
    elif late_K.all():
        return candidates
    else:
        scores_K = np.where(late_K, scores_K[~late_K].min() - 1, scores_K)
        order = np.lexsort((-scores_K, late_K))
    return replace(candidates, scores_K=scores_K.astype(np.float32, copy=False)).take(order)
