"""Candidates against user states: the ranker's graph over the pool, which it only reads.

Shape legend: B = requests, K = candidates, A = actions, D = vector size, N = catalogue rows, F = a
line of the ranker's item table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.inference.encoding import encode_into, known_events
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes

AT_ONCE = 16
"""Who is ranked in one call of the graph: 500 candidates take 3 MB each while it runs."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: a user whose state is stored, or (`user` None) a history that is not."""

    user: int | None
    history: History
    vector: NDArray[np.float32]
    now_ms: int


class Stored(Protocol):
    """Where user states lie (`UserStates`, or `SharedStates` in a process that reads them)."""

    @property
    def graphs(self) -> Graphs:
        """Return the graphs that made them."""
        ...

    @property
    def pool(self) -> StatePool:
        """Return the pool that they are in."""
        ...

    def slot(self, user: int) -> int | None:
        """Return where the state of a user is, None if nobody has it."""
        ...


class StateRanker:
    """The ranker of a Bundle over the states of its users.

    `vectors_ND` are the output-side item vectors, `items_NF` the ranker's own lines; `actions` name
    the logits.
    """

    def __init__(
        self,
        states: Stored,
        *,
        actions: Sequence[str],
        vectors_ND: NDArray[np.float32],
        items_NF: NDArray[np.float32],
    ) -> None:
        self.actions = tuple(actions)
        self._graphs, self._states = states.graphs, states
        self._tables = (np.ascontiguousarray(vectors_ND), np.ascontiguousarray(items_NF))
        self._scratch: StatePool | None = None

    @property
    def num_rows(self) -> int:
        """Return how many rows it knows, padding included."""
        return len(self._tables[0])

    def over(self, states: Stored) -> Self:
        """Return the same ranker over other states of the same Bundle."""
        vectors_ND, items_NF = self._tables
        return type(self)(states, actions=self.actions, vectors_ND=vectors_ND, items_NF=items_NF)

    def logits(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the logits (B, K, A) of candidate rows, and for whom there are any.

        A user whose state is not in the pool (any more) has none, and a history without known
        events neither. Histories without a stored state are encoded for it.
        """
        logits_BKA = np.zeros((*candidates_BK.shape, len(self.actions)), np.float32)
        pool, known = self._states.pool, [False] * len(asking)
        found = {
            at: slot
            for at, who in enumerate(asking)
            if who.user is not None and (slot := self._states.slot(who.user)) is not None
        }
        epochs = {at: int(pool.epoch_S[slot]) for at, slot in found.items()}
        stored = list(found)
        for start in range(0, len(stored), AT_ONCE):
            part = stored[start : start + AT_ONCE]
            slots = [found[at] for at in part]
            self._rank(pool, part, slots, asking, candidates_BK, logits_BKA)
        # What moved meanwhile, written by another process, was not read as a whole.
        stored = [
            at
            for at in stored
            if epochs[at] % 2 == 0
            and epochs[at] == pool.epoch_S[found[at]]
            and self._states.slot(asking[at].user or 0) == found[at]
        ]
        passing = [at for at, who in enumerate(asking) if who.user is None]
        for start in range(0, len(passing), AT_ONCE):
            part = passing[start : start + AT_ONCE]
            histories = {at: known_events(self._graphs, asking[at].history) for at in part}
            part = [at for at in part if len(histories[at])]
            scratch = self._encoded([histories[at] for at in part])
            self._rank(scratch, part, range(len(part)), asking, candidates_BK, logits_BKA)
            stored += part
        for at in stored:
            known[at] = True
        return logits_BKA, known

    def _encoded(self, histories: Sequence[History]) -> StatePool:
        if self._scratch is None:
            shape = self._graphs.shape
            self._scratch = StatePool(shape, max_bytes=AT_ONCE * slot_bytes(shape))
        if histories:
            encode_into(self._graphs, self._scratch, range(len(histories)), histories)
        return self._scratch

    def _rank(
        self,
        pool: StatePool,
        places: Sequence[int],
        slots: Sequence[int],
        asking: Sequence[Asking],
        candidates_BK: NDArray[np.int64],
        logits_BKA: NDArray[Any],
    ) -> None:
        """Put the logits of those at `places`, whose states are in `slots`, into place."""
        if not places:
            return
        slot_B = np.array(slots, np.int64)
        logits_BKA[places] = self._graphs.rank(
            query_BD=np.stack([asking[at].vector for at in places]),
            now_B=np.array([asking[at].now_ms for at in places], np.int64),
            candidates_BK=candidates_BK[places],
            tables=self._tables,
            length_B=pool.length_S[slot_B],
            slot_B=slot_B,
            cache=pool.cache,
        )
