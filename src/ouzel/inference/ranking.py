"""Candidates against user states: the ranker over copies of what the pool holds.

Shape legend: B = requests, K = candidates, A = actions, D = vector size, N = catalogue rows, F = a
line of the ranker's item table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.inference.encoding import encode_into, known_events
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from ouzel.inference.target_attention import BegunRanking, TargetAttentionKernel

Array = NDArray[Any]

AT_ONCE = 16
"""Who is ranked in one call of the graph: 500 candidates take 3 MB each while it runs."""


NO_VECTOR: NDArray[np.float32] = np.empty(0, np.float32)
"""That of who has none."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: a user whose state is stored, or (`user` None) a history that is not."""

    user: int | None
    history: History
    vector: NDArray[np.float32]
    now_ms: int


class _Given(TypedDict):
    """What is asked about and what it is read from: vectors, times, lengths, last layer's rings."""

    query_BD: Array
    now_B: Array
    length_B: Array
    rings: list[Array]


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
    the logits. With a `kernel` of the same ranker its graph is not used.
    """

    reads_vector = True

    def __init__(
        self,
        states: Stored,
        *,
        actions: Sequence[str],
        vectors_ND: NDArray[np.float32],
        items_NF: NDArray[np.float32],
        kernel: TargetAttentionKernel | None = None,
    ) -> None:
        self.actions = tuple(actions)
        self.kernel = kernel
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
        return type(self)(
            states,
            actions=self.actions,
            vectors_ND=vectors_ND,
            items_NF=items_NF,
            kernel=self.kernel,
        )

    def logits(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the logits (B, K, A) of candidate rows, and for whom there are any.

        A user whose state is not in the pool (any more) has none, and a history without known
        events neither. Histories without a stored state are encoded for it.
        """
        begun = self.begin(asking, candidates_BK)
        if begun is None:
            given, known = self._given(asking)
            logits_BKA = self._by_graph(candidates_BK, **given)
        else:
            begun[0].run()
            logits_BKA, known = begun[0].result(), begun[1]
        logits_BKA[~np.array(known)] = 0
        return logits_BKA, known

    def begin(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[BegunRanking, list[bool]] | None:
        """Return the ranking that gives the logits, and for whom there are any; None: no kernel.

        It reads copies of the states as they are now: appends and evictions may go on beside it.
        """
        if self.kernel is None:
            return None
        given, known = self._given(asking)
        return self.kernel.begin(candidates_BK=candidates_BK, **given), known

    def _given(self, asking: Sequence[Asking]) -> tuple[_Given, list[bool]]:
        """Return what is known of all who ask, and for whom that is all there must be."""
        pool, known = self._states.pool, [False] * len(asking)
        stored = {
            at: self._states.slot(a.user) for at, a in enumerate(asking) if a.user is not None
        }
        found = {at: slot for at, slot in stored.items() if slot is not None}
        slot_B = np.zeros(len(asking), np.int64)
        slot_B[list(found)] = list(found.values())
        before_B = pool.epoch_S[slot_B]
        given: _Given = {
            "query_BD": np.stack([who.vector for who in asking]),
            "now_B": np.array([who.now_ms for who in asking], np.int64),
            "length_B": np.maximum(pool.length_S[slot_B], 1),
            "rings": [array[slot_B] for array in _last_layer(pool)],
        }
        # What moved meanwhile, written by another process, was not copied as a whole.
        still_B = (before_B == pool.epoch_S[slot_B]) & (before_B % 2 == 0)
        for at, slot in found.items():
            known[at] = bool(still_B[at]) and self._states.slot(asking[at].user or 0) == slot
        for at in self._encode_passing(asking, given):
            known[at] = True
        return given, known

    def _encode_passing(self, asking: Sequence[Asking], given: _Given) -> list[int]:
        """Put the states of histories that are not stored into place; return whose they are."""
        passing = {
            at: known_events(self._graphs, who.history)
            for at, who in enumerate(asking)
            if who.user is None
        }
        places = [at for at, history in passing.items() if len(history)]
        for start in range(0, len(places), AT_ONCE):
            part = places[start : start + AT_ONCE]
            scratch = self._encoded([passing[at] for at in part])
            for ours, theirs in zip(given["rings"], _last_layer(scratch), strict=True):
                ours[part] = theirs[: len(part)]
            given["length_B"][part] = scratch.length_S[: len(part)]
        return places

    def _encoded(self, histories: Sequence[History]) -> StatePool:
        if self._scratch is None:
            shape = self._graphs.shape
            self._scratch = StatePool(shape, max_bytes=AT_ONCE * slot_bytes(shape))
        encode_into(self._graphs, self._scratch, range(len(histories)), histories)
        return self._scratch

    def _by_graph(
        self,
        candidates_BK: Array,
        query_BD: Array,
        now_B: Array,
        length_B: Array,
        rings: Sequence[Array],
    ) -> NDArray[np.float32]:
        """Return the logits (B, K, A) that the graph gives, a few users at a time."""
        parts = []
        for start in range(0, len(query_BD), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            logits = self._graphs.rank(
                query_BD=query_BD[part],
                now_B=now_B[part],
                candidates_BK=candidates_BK[part],
                tables=self._tables,
                length_B=length_B[part],
                slot_B=np.arange(len(query_BD[part])),
                cache=[array[part] for array in rings],
            )
            parts.append(logits)
        return np.concatenate(parts)


def _last_layer(pool: StatePool) -> list[Array]:
    """Return the arrays of the last layer, over all slots."""
    return pool.cache[-(len(pool.cache) // pool.shape.num_layers) :]
