"""Blended lists in compiled code: what the other sources propose, the union, and its order.

In arrays the neighbours of a history take 0.35 ms, the two popular lists 0.08 and the union 0.2;
the kernel (`blend.cpp`) counts votes where they lie. It is built when Ouzel is installed, if there
is a compiler. Elsewhere, and for other sources, `ouzel.ranking.blending` does the same in arrays.

Shape legend: N = catalogue rows, S = sources, F = numbers of an item from a source, K = items of
the model's list, T = items of the union.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.addresses import address_of
from ouzel.retrieval.popular import PopularSource
from ouzel.retrieval.types import Query, Source
from ouzel.retrieval.vmis import VMISkNN

LONGEST_LIST = 1024
"""Most items of the list of a source."""

BREADTH = 100
"""How many items each source proposes."""

LAYOUT = 2
"""Changes with what the structures of the kernel hold."""

BLENDED_WITH = ("vmis", "popular", "recent")
"""What is blended with a model, in this order."""

Columns = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int8], NDArray[np.int16]]
"""Rows, scores and first sources (T,), and the ranks (T, S) that sources gave."""


class BlendKernel:
    """Blends as `BlendSources` does, to the bit; any thread may call it."""

    def __init__(
        self,
        weights_2SF: NDArray[np.float64],
        neighbours: VMISkNN,
        popular: Sequence[PopularSource],
    ) -> None:
        """Make the kernel; `popular` are two lists of rows that the neighbours know."""
        self._kernel = _kernel()
        known = neighbours.neighbourhood
        self.num_rows = len(known.idf_N)
        self._kept: list[NDArray[Any]] = []
        sessions = known.sessions
        blend = _Blend(
            num_rows=self.num_rows,
            postings_from=self._keep(known.starts_N1, np.int64),
            postings=self._keep(known.postings_P, np.int32),
            sessions_from=self._keep(sessions.offsets_S1, np.int64),
            session_rows=self._keep(sessions.rows_I, np.int32),
            idf=self._keep(known.idf_N, np.float32),
            recent=known.config.recent,
            neighbours=known.config.neighbours,
            last=known.config.last,
            weights=self._keep(weights_2SF, np.float64),
            minus_log=self._keep(-np.log(np.arange(1.0, LONGEST_LIST + 1)), np.float32),
            breadth=BREADTH,
        )
        for place, source in enumerate(popular):
            rows_R, scores_R = source.head
            blend.whole[place] = source.whole
            blend.popular_rows[place] = self._keep(rows_R, np.int32)
            blend.popular_scores[place] = self._keep(scores_R, np.float32)
            blend.num_popular[place] = len(rows_R)
        self._blend = blend

    @classmethod
    def of(cls, weights_2SF: NDArray[np.float64], others: Sequence[Source]) -> Self | None:
        """Return the kernel for what is blended with a model, None if arrays are to do it.

        >>> BlendKernel.of(np.zeros((2, 4, 3)), []) is None
        True
        """
        match others:
            case (VMISkNN() as neighbours, PopularSource() as popular, PopularSource() as recent):
                lists = popular, recent
            case _:
                return None
        fits = all(len(each.scores_N) <= neighbours.num_rows for each in lists)
        return cls(weights_2SF, neighbours, lists) if fits and cls.works() else None

    @staticmethod
    def works() -> bool:
        """Return whether it was built for this machine."""
        return _kernel() is not None

    def blend(
        self, query: Query, rows_K: NDArray[np.int32], scores_K: NDArray[np.float32]
    ) -> Columns | None:
        """Return the union of the model's list and what others propose for a query, best first.

        None: more is forbidden than the kernel knows of a popular list.

        Raises:
            MemoryError: there is not enough memory.
        """
        most = len(rows_K) + len(BLENDED_WITH) * BREADTH
        columns = (
            np.empty(most, np.int32),
            np.empty(most, np.float32),
            np.empty(most, np.int8),
            np.empty((most, 1 + len(BLENDED_WITH)), np.int16),
        )
        read = (
            np.ascontiguousarray(query.history.rows, np.int32),
            np.ascontiguousarray(query.forbidden, np.int32),
            np.ascontiguousarray(rows_K, np.int32),
            np.ascontiguousarray(scores_K, np.float32),
        )
        history, forbidden, found, told = read
        hidden = None if query.hidden is None else np.ascontiguousarray(query.hidden, np.bool_)
        asked = _Blending(
            address_of(history),
            len(history),
            len(history),
            address_of(forbidden),
            len(forbidden),
            None if hidden is None else address_of(hidden),
            0 if hidden is None else len(hidden),
            address_of(found),
            address_of(told),
            len(found),
            most,
            *(address_of(column) for column in columns),
        )
        count = self._kernel.ouzel_blend(ctypes.byref(self._blend), ctypes.byref(asked))
        if count == _OUT_OF_REACH:
            return None
        if count < 0:
            raise MemoryError("not enough memory to blend a list: ask for fewer items")
        rows_T, scores_T, sources_T, ranks_TS = columns
        return rows_T[:count], scores_T[:count], sources_T[:count], ranks_TS[:count]

    def call(self) -> tuple[int, int]:
        """Return how compiled code blends: the address of the kernel, and of what stays the same.

        They hold as long as this.
        """
        function = ctypes.cast(self._kernel.ouzel_blend, ctypes.c_void_p).value or 0
        return function, ctypes.addressof(self._blend)

    def _keep(self, array: NDArray[Any], kind: type[np.generic]) -> int:
        kept = np.ascontiguousarray(array, kind)
        self._kept.append(kept)
        return address_of(kept)


_OUT_OF_REACH = -2


class _Blend(ctypes.Structure):
    """`Blend` of `blend.h`."""

    _fields_ = (
        ("num_rows", ctypes.c_int64),
        ("postings_from", ctypes.c_void_p),
        ("postings", ctypes.c_void_p),
        ("sessions_from", ctypes.c_void_p),
        ("session_rows", ctypes.c_void_p),
        ("idf", ctypes.c_void_p),
        ("recent", ctypes.c_int64),
        ("neighbours", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("popular_rows", ctypes.c_void_p * 2),
        ("popular_scores", ctypes.c_void_p * 2),
        ("num_popular", ctypes.c_int64 * 2),
        ("whole", ctypes.c_int64 * 2),
        ("weights", ctypes.c_void_p),
        ("minus_log", ctypes.c_void_p),
        ("breadth", ctypes.c_int64),
    )


class _Blending(ctypes.Structure):
    """`Blending` of `blend.h`."""

    _fields_ = (
        ("history", ctypes.c_void_p),
        ("num_history", ctypes.c_int64),
        ("num_events", ctypes.c_int64),
        ("banned", ctypes.c_void_p),
        ("num_banned", ctypes.c_int64),
        ("hidden", ctypes.c_void_p),
        ("num_hidden", ctypes.c_int64),
        ("found_rows", ctypes.c_void_p),
        ("found_scores", ctypes.c_void_p),
        ("num_found", ctypes.c_int64),
        ("most", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("sources", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
    )


def blend_layout() -> int:
    """Return what compiled code that knows these structures tells of them.

    >>> blend_layout() > 1000 * LAYOUT
    True
    """
    return 1000 * LAYOUT + 10 * ctypes.sizeof(_Blend) + ctypes.sizeof(_Blending)


@cache
def _kernel() -> Any:
    """Return the compiled kernel, None where it was not built or is of another layout."""
    found = importlib.util.find_spec("ouzel.ranking._blend")
    if found is None or found.origin is None:
        return None
    try:
        # It is brief: to let the interpreter go and get it back would take longer.
        kernel = ctypes.PyDLL(found.origin)
    except OSError:
        # Built for another machine, say: an install that was copied.
        return None
    told = getattr(kernel, "ouzel_blend_layout", None)
    if told is None or told() != blend_layout():
        return None  # Of an older Ouzel: a build that failed leaves it behind.
    kernel.ouzel_blend.restype = ctypes.c_int64
    kernel.ouzel_blend.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return kernel
