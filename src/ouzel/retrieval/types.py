"""What a candidate source is asked and what it answers: plain columns, rows only.

Shape legend: D = dimensions of a vector, K = candidates, S = sources of a list, n = events in a
history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.events.interactions import History
from ouzel.retrieval.arrangement import Arrangement


def _no_rows() -> NDArray[np.int32]:
    return np.empty(0, np.int32)


def no_history() -> History:
    """Return a history without events: an anonymous visitor.

    >>> len(no_history())
    0
    """
    return History(_no_rows(), np.empty(0, np.int64))


class Query(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request for candidates, in rows.

    `user` is the log's user row (None: session or anonymous). `history` may be empty. `vector`
    (D,) float32 is the encoded query, None where no model applies. `k` is the length of the
    list wanted in the end.
    `forbidden` are the int32 rows that must not be shown, sorted, each
    once (see `distinct_rows`), and `hidden` (N,) says of every row whether nobody may see it (None:
    all may be seen). `source` names what is found by `vector`; if empty, by whose vector it is.
    `now_ms` is the request time in UTC milliseconds, `deadline_ms` the
    latest moment for an answer on the scale of `time.monotonic() * 1000` (infinite: none).
    `breadth` is how many candidates are gathered in all before they are scored, 0: k of them.
    `arrangement` says how the list is put together where scores alone do not decide.

    >>> Query(k=10, now_ms=0).forbidden
    array([], dtype=int32)
    """

    k: int
    now_ms: int
    user: int | None = None
    history: History = msgspec.field(default_factory=no_history)
    vector: NDArray[np.float32] | None = None
    forbidden: NDArray[np.int32] = msgspec.field(default_factory=_no_rows)
    hidden: NDArray[np.bool_] | None = None
    source: str = ""
    deadline_ms: float = math.inf
    breadth: int = 0
    arrangement: Arrangement | None = None

    @property
    def gathered(self) -> int:
        """Return how many candidates to look for."""
        return max(self.k, self.breadth)

    def with_breadth(self, breadth: int) -> Query:
        """Return the same request, to gather so many candidates."""
        return msgspec.structs.replace(self, breadth=breadth)

    def with_vector(self, vector: NDArray[np.float32] | None) -> Query:
        """Return the same request with this vector."""
        return msgspec.structs.replace(self, vector=vector)


def distinct_rows(*parts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the rows of all parts, sorted, each once: what `Query.forbidden` wants.

    >>> distinct_rows(np.array([5, 2], np.int32), np.array([2], np.int32))
    array([2, 5], dtype=int32)
    """
    rows = np.sort(np.concatenate(parts))
    fresh = np.ones(len(rows), np.bool_)
    np.not_equal(rows[1:], rows[:-1], out=fresh[1:])
    return rows[fresh]


def all_finite(numbers: NDArray[np.floating]) -> bool:
    """Return whether no number is infinite or NaN.

    >>> all_finite(np.array([1.0, 3e38], np.float32)), all_finite(np.array([1.0, np.nan]))
    (True, False)
    """
    # A third of the cost of `all()`.
    return int(np.count_nonzero(np.isfinite(numbers))) == numbers.size


def visible(rows_K: NDArray[np.integer], hidden_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are not hidden; rows beyond N are not.

    >>> visible(np.array([2, 1, 9]), np.array([True, False, True]))
    array([False,  True,  True])
    """
    return np.asarray(~hidden_N.take(rows_K, mode="clip") | (rows_K >= len(hidden_N)))


def among(rows_K: NDArray[np.integer], sorted_F: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which rows occur in a sorted, non-empty array: a tenth of the cost of `np.isin`.

    >>> among(np.array([7, 2]), np.array([2, 5], np.int32))
    array([False,  True])
    """
    places_K = np.minimum(sorted_F.searchsorted(rows_K), len(sorted_F) - 1)
    return np.asarray(sorted_F[places_K] == rows_K)


class Candidates(msgspec.Struct, frozen=True, eq=False):
    """K candidates as columns of one length: never a list of objects.

    `rows_K` int32 catalogue rows, `scores_K` float32 (higher is better), `sources_K` int8: which
    of `names` each came from. In a union of sources `ranks_KS` int16 is the rank, from 1, that each
    of `names` gave the item, 0 where it did not propose it. `propensities_K` float64 are there
    where chance took part: the probability with which each was drawn for its place, given the
    places before it.

    Raises:
        ValueError: the columns differ in length.

    >>> found = Candidates.of("popular", np.array([7, 3]), np.array([2.0, 1.0]))
    >>> found.take(np.array([1])).rows_K
    array([3], dtype=int32)
    """

    rows_K: NDArray[np.int32]
    scores_K: NDArray[np.float32]
    sources_K: NDArray[np.int8]
    names: tuple[str, ...]
    ranks_KS: NDArray[np.int16] | None = None
    propensities_K: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        lengths = (len(self.rows_K), len(self.scores_K), len(self.sources_K))
        if not lengths[0] == lengths[1] == lengths[2]:
            raise ValueError(
                f"columns rows, scores, sources have lengths {lengths}: give one length"
            )

    def __len__(self) -> int:
        return len(self.rows_K)

    @classmethod
    def of(
        cls, name: str, rows_K: NDArray[np.integer], scores_K: NDArray[np.floating]
    ) -> Candidates:
        """Return the candidates of the single source `name`."""
        return cls(
            rows_K.astype(np.int32, copy=False),
            scores_K.astype(np.float32, copy=False),
            np.zeros(len(rows_K), np.int8),
            (name,),
        )

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Candidates:
        """Return no candidates."""
        return cls(_no_rows(), np.empty(0, np.float32), np.empty(0, np.int8), names)

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> Candidates:
        """Return the candidates at the positions `chosen`, in that order, or under a mask."""
        index = np.asarray(chosen, dtype=None if len(chosen) else np.int64)
        ranks_KS, propensities_K = self.ranks_KS, self.propensities_K
        return Candidates(
            self.rows_K[index],
            self.scores_K[index],
            self.sources_K[index],
            self.names,
            None if ranks_KS is None else ranks_KS[index],
            None if propensities_K is None else propensities_K[index],
        )


class Source(Protocol):
    """Something that proposes items: its `name` is shown with every item it proposed."""

    @property
    def name(self) -> str:
        """Return the name that answers carry."""
        ...

    def candidates(self, query: Query, k: int) -> Candidates:
        """Return up to `k` candidates, best first, none of them in `query.forbidden`."""
        ...
