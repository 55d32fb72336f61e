"""Changes of item vectors, seen by the very next search, over an engine that cannot change.

What was changed lies beside the engine and is searched exactly; the engine hides those rows.
Every change makes a state of its own that is put in place in one step, so that a search, in
whichever thread, sees all of a change or nothing of it, and what it reads stays until it is done.
Where many rows have changed, a thread builds the engine anew; what changes meanwhile is kept.

Cost: a change copies what was changed before and a mask of N bytes; a search reads the changed
vectors once a query. Without changes a search costs what the engine's does.
Shape legend: N = rows of the engine, M = rows changed, B = queries, K = results, D = dimensions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ouzel.retrieval.engines import Make, like
from ouzel.retrieval.exact import ExactIndex
from ouzel.retrieval.index import Engine, Excluded, Found, Hidden, check_vectors
from ouzel.retrieval.scan import BegunScan, ScanIndex
from ouzel.retrieval.topk import top_k
from ouzel.retrieval.types import among, visible

logger = logging.getLogger(__name__)

MOST_CHANGED = 2048
"""Changed vectors before the engine is built anew: so many take 0.1 ms of a search."""

REBUILDING = "index rebuild"
"""Name of the thread that does so."""


@dataclass(frozen=True, slots=True)
class _State:
    """An engine and what is different from it: never changed, only replaced.

    `gone_N` are the rows that the engine may not find (None: all may be found), `rows_M`, sorted,
    and `vectors_MD` what is found beside it. `num_rows` counts every row there ever was.
    """

    engine: Engine
    gone_N: NDArray[np.bool_] | None
    rows_M: NDArray[np.int32]
    vectors_MD: NDArray[np.float32]
    num_rows: int
    num_found: int

    def changed(
        self, rows: NDArray[np.int32], vectors: NDArray[np.float32], dropped: NDArray[np.int32]
    ) -> _State:
        """Return the state in which `rows` have other vectors and `dropped` are not found."""
        touched = np.concatenate([rows, dropped])
        kept = ~np.isin(self.rows_M, touched)
        rows_M = np.concatenate([self.rows_M[kept], rows])
        order = np.argsort(rows_M, kind="stable")
        vectors_MD = np.concatenate([self.vectors_MD[kept], vectors])[order]
        size = len(self.engine.vectors_ND)
        gone_N = np.zeros(size, np.bool_) if self.gone_N is None else self.gone_N.copy()
        gone_N[touched[touched < size]] = True
        gone_N[:1] = True
        return _State(
            self.engine,
            gone_N,
            rows_M[order],
            vectors_MD,
            max(self.num_rows, int(touched.max(initial=0)) + 1),
            size - int(np.count_nonzero(gone_N)) + len(rows_M),
        )

    def merged(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the vectors (N, D) of all rows, and which of them are not found."""
        before_ND = self.engine.vectors_ND
        vectors_ND = np.zeros((self.num_rows, before_ND.shape[1]), np.float32)
        vectors_ND[: len(before_ND)] = before_ND
        hidden_N = np.ones(self.num_rows, np.bool_)
        hidden_N[1 : len(before_ND)] = False if self.gone_N is None else self.gone_N[1:]
        vectors_ND[: len(before_ND)][hidden_N[: len(before_ND)]] = 0.0
        vectors_ND[self.rows_M] = self.vectors_MD
        hidden_N[self.rows_M] = False
        return vectors_ND, hidden_N


class LiveIndex:
    """An engine whose rows can be changed while threads search; a `Search`.

    >>> index = LiveIndex(ExactIndex(np.array([[9, 9], [1, 0], [0, 1]], np.float32)))
    >>> index.add(np.array([4], np.int32), np.array([[3, 3]], np.float32))
    >>> index.remove(np.array([1], np.int32))
    >>> rows, scores = index.search(np.array([[2, 1]], np.float32), 3)
    >>> rows.tolist(), scores.tolist()
    ([[4, 2, 0]], [[9.0, 1.0, -inf]])
    """

    def __init__(
        self, engine: Engine, *, hidden: NDArray[np.bool_] | None = None, make: Make | None = None
    ) -> None:
        """`hidden` (N,) marks rows that have no vector; `make` builds it anew, by default `like`.

        Raises: ValueError if `hidden` does not fit the vectors.
        """
        self._make = like(engine) if make is None else make
        self._state = _fresh(engine, hidden)
        self._changing = threading.Lock()
        self._building = threading.Lock()
        self._late: list[NDArray[np.int32]] | None = None
        self._mark = MOST_CHANGED

    def __len__(self) -> int:
        return self._state.num_found

    @property
    def engine(self) -> Engine:
        """Return the engine of now; a rebuild puts another in its place."""
        return self._state.engine

    @property
    def recall(self) -> float:
        """Return the recall that the engine states: @10, or of lists that nobody chose @100."""
        return self._state.engine.recall

    @property
    def changed(self) -> int:
        """Return M, the changed vectors that lie beside the engine."""
        return len(self._state.rows_M)

    @property
    def scans(self) -> bool:
        """Return whether a search can `begin` and go on without the caller."""
        return isinstance(self._state.engine, ScanIndex)

    @property
    def query_bytes(self) -> float:
        """Return how many bytes a query reads, of an engine that `scans`; 0 of others."""
        engine = self._state.engine
        return engine.query_bytes if isinstance(engine, ScanIndex) else 0.0

    def add(self, rows_M: NDArray[np.int32], vectors_MD: NDArray[np.float32]) -> None:
        """Put or replace the vectors of `rows_M`; of a row given twice the last one counts.

        The rows between the old end and them stay hidden.

        Raises:
            ValueError: a row is 0 or negative, or the vectors do not fit rows and dimension.
        """
        check_vectors(vectors_MD)
        dim = self._state.engine.vectors_ND.shape[1]
        if vectors_MD.shape != (len(rows_M), dim):
            raise ValueError(f"vectors have shape {vectors_MD.shape}: give ({len(rows_M)}, {dim})")
        if len(rows_M) and rows_M.min() < 1:
            raise ValueError(f"row {rows_M.min()} cannot be added: item rows start at 1")
        rows, last = np.unique(np.asarray(rows_M, np.int32)[::-1], return_index=True)
        self._change(rows, np.asarray(vectors_MD, np.float32)[::-1][last], rows[:0])

    def remove(self, rows_M: NDArray[np.int32]) -> None:
        """Make `rows_M` unfindable until they are added again.

        Raises:
            ValueError: a row was never part of the index.
        """
        num_rows = self._state.num_rows
        outside = rows_M[(rows_M < 1) | (rows_M >= num_rows)]
        if len(outside):
            raise ValueError(f"row {outside[0]} is not in the index of {num_rows} rows")
        rows = np.asarray(rows_M, np.int32)
        self._change(rows[:0], self._state.vectors_MD[:0], rows)

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> Found:
        """Return rows (B, K) int32 and scores (B, K) float32, best first, ties by lower row.

        `exclude` has sorted rows; `hidden` masks rows that may not be found either, those beyond
        its end may. Where fewer than k rows are left, the rest is row 0 with score -inf.

        Raises:
            ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
                `exclude` or `hidden` not one array per query.
        """
        state = self._state
        found = state.engine.search(
            queries_BD, k, exclude=exclude, hidden=_masks(state, hidden, len(queries_BD))
        )
        return _joined(state, queries_BD, exclude, hidden, *found)

    def begin(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> BegunScan:
        """Return the search to be given to a `ScanWorker`: of the vectors as they are now.

        Raises:
            ValueError: as `search`, or the engine is none that can.
        """
        state = self._state
        if not isinstance(state.engine, ScanIndex):
            raise ValueError(f"the engine {state.engine.name} searches in the caller's thread only")
        masks = _masks(state, hidden, len(queries_BD))
        begun = state.engine.begin(queries_BD, k, exclude=exclude, hidden=masks)
        if len(state.rows_M):
            begun.complete = partial(_joined, state, queries_BD, exclude, hidden)
        return begun

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row that can be found, None for others."""
        state = self._state
        place = int(np.searchsorted(state.rows_M, row))
        if place < len(state.rows_M) and state.rows_M[place] == row:
            changed: NDArray[np.float32] = state.vectors_MD[place]
            return changed
        inside = 0 < row < len(state.engine.vectors_ND)
        if not inside or (state.gone_N is not None and state.gone_N[row]):
            return None
        return state.engine.vector(row)

    def rebuild(self) -> None:
        """Build the engine anew with all that has changed; searches and changes go on meanwhile."""
        with self._building:
            with self._changing:
                before, self._late = self._state, []
            try:
                vectors_ND, hidden_N = before.merged()
                fresh = _fresh(self._make(vectors_ND), hidden_N)
                with self._changing:
                    self._state = _caught_up(fresh, self._state, self._late)
                    self._mark = MOST_CHANGED
            finally:
                self._late = None

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return `vectors` (N, D) float32 and `hidden` (N,) uint8: 1 where a row is not found."""
        vectors_ND, hidden_N = self._state.merged()
        return {"vectors": vectors_ND, "hidden": hidden_N.astype(np.uint8)}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[np.generic]], make: Make = ExactIndex
    ) -> Self:
        """Return the index that `to_tensors` described, in the engine that `make` builds.

        Raises:
            ValueError: a tensor is missing, or lengths differ.
        """
        if missing := {"vectors", "hidden"} - set(tensors):
            raise ValueError(f"tensor {sorted(missing)[0]!r} is missing: the index is damaged")
        engine = make(np.asarray(tensors["vectors"], np.float32))
        return cls(engine, hidden=tensors["hidden"].astype(np.bool_))

    def _change(
        self, rows: NDArray[np.int32], vectors: NDArray[np.float32], dropped: NDArray[np.int32]
    ) -> None:
        if not len(rows) and not len(dropped):
            return
        with self._changing:
            self._state = self._state.changed(rows, vectors, dropped)
            if self._late is not None:
                self._late.append(np.concatenate([rows, dropped]))
            elif len(self._state.rows_M) > self._mark:
                # Should that fail, then not before twice as many have changed again.
                self._mark = 2 * len(self._state.rows_M)
                beside = self._rebuild_beside
                threading.Thread(target=beside, name=REBUILDING, daemon=True).start()

    def _rebuild_beside(self) -> None:
        try:
            self.rebuild()
        except Exception:
            logger.exception("the item index could not be built anew; it serves on as it is")


def _fresh(engine: Engine, hidden: NDArray[np.bool_] | None) -> _State:
    """Return the state in which nothing has changed."""
    size, dim = engine.vectors_ND.shape
    if hidden is not None and (hidden.shape != (size,) or not hidden[:1].all()):
        raise ValueError(f"tensor 'hidden' {hidden.shape} does not fit the {size} vectors")
    # Row 0 is found by nobody anyhow.
    gone_N = hidden if hidden is not None and hidden[1:].any() else None
    count = size - 1 if gone_N is None else size - int(np.count_nonzero(gone_N))
    nothing = np.empty((0, dim), np.float32)
    return _State(engine, gone_N, np.empty(0, np.int32), nothing, size, max(0, count))


def _caught_up(fresh: _State, now: _State, late: list[NDArray[np.int32]]) -> _State:
    """Return the fresh state with the rows that changed late as they are now."""
    if not late:
        return fresh
    touched = np.unique(np.concatenate(late))
    chosen = np.isin(now.rows_M, touched)
    rows = now.rows_M[chosen]
    return fresh.changed(rows, now.vectors_MD[chosen], np.setdiff1d(touched, rows))


def _masks(state: _State, hidden: Hidden | None, count: int) -> Hidden | None:
    """Return what each query may not find in the engine: what the caller hides, and what is gone.

    Queries that share a mask share the result.
    """
    gone_N, size = state.gone_N, len(state.engine.vectors_ND)
    if hidden is None:
        return None if gone_N is None else [gone_N] * count
    made: dict[int, NDArray[np.bool_] | None] = {id(None): gone_N}
    for mask in hidden:
        if mask is None or id(mask) in made:
            continue
        if gone_N is None and len(mask) >= size:
            made[id(mask)] = mask
            continue
        both_N = np.zeros(size, np.bool_) if gone_N is None else gone_N.copy()
        reach = min(size, len(mask))
        both_N[:reach] |= mask[:reach]
        made[id(mask)] = both_N
    return [made[id(mask)] for mask in hidden]


def _joined(
    state: _State,
    queries_BD: NDArray[np.float32],
    exclude: Excluded | None,
    hidden: Hidden | None,
    rows_BK: NDArray[np.int32],
    scores_BK: NDArray[np.float32],
) -> Found:
    """Return the best k of what the engine found and of the changed rows beside it."""
    if not len(state.rows_M):
        return rows_BK, scores_BK
    k = rows_BK.shape[1]
    rows_BK, scores_BK = rows_BK.copy(), scores_BK.copy()
    for at, query_D in enumerate(np.asarray(queries_BD, np.float32)):
        allowed_M = np.ones(len(state.rows_M), np.bool_)
        if exclude is not None and len(exclude[at]):
            allowed_M &= ~among(state.rows_M, exclude[at])
        mask = None if hidden is None else hidden[at]
        if mask is not None and len(mask):
            allowed_M &= visible(state.rows_M, mask)
        # One query at a time: its scores do not depend on the others.
        changed_M = np.where(allowed_M, state.vectors_MD @ query_D, np.float32(-np.inf))
        best = top_k(changed_M, k)
        found = scores_BK[at] > -np.inf
        rows = np.concatenate([rows_BK[at][found], state.rows_M[best]])
        scores = np.concatenate([scores_BK[at][found], changed_M[best]])
        order = np.lexsort((rows, -scores))[:k]
        rows_BK[at], scores_BK[at] = 0, -np.inf
        rows_BK[at, : len(order)], scores_BK[at, : len(order)] = rows[order], scores[order]
    return rows_BK, scores_BK
