"""Int8 codes in lists of rows that lie near each other: a query reads the nearest lists alone.

Reading all codes of ten million rows takes a core 50 ms; the lists that matter hold a twentieth of
them. Centres of lists are learned by k-means from a sample, in two steps: means of few groups, then
centres within each group. A row goes to the nearest centre of the nearest group. A query reads the
lists in which the largest inner products with it are to be expected: near the centre that of the
centre itself, and more in lists that are wide. The kernel of `scan.py` reads their codes, then the
best rows are scored exactly.

Cost: a query costs C D for the centres and `probes` N / C D for the codes, in bytes.

References:
    Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011 (its
    inverted file).

Shape legend: N = rows with the padding row 0, D = dimensions, C = lists, G = groups of lists,
P = places of the codes, B = queries, K = results, R = ranges of places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ouzel.features.addresses import address_of
from ouzel.retrieval.faiss import POINTS_A_CENTRE, centres_of
from ouzel.retrieval.index import Excluded, Found, Hidden, check_vectors
from ouzel.retrieval.scan import (
    LANES,
    Arguments,
    BegunScan,
    ScanIndex,
    kept_codes,
    packed_codes,
    run_here,
    scale_of,
)

CANDIDATES = 64
"""At least so many rows are scored exactly."""

FIRST_PROBES = 16
FEW_LISTS = 4
"""Fewer lists than that are no lists."""

WORTHWHILE = 4
"""Queries that come together share a scan of all codes: a quarter of it for each, and no lists."""

ROWS_A_LIST = 120
"""Lists end on whole blocks of 16 rows: much shorter ones would be padding for a good part."""

MOST_LISTS = 8192
"""Comparing a query with as many centres takes 0.2 ms."""

SPREADS = 2.0
"""A list is as near as what lies so many standard deviations from its centre, towards the query."""

ROWS_AT_ONCE = 1 << 16

MOST_IN_A_GROUP = 512
"""So many lists at most are learned in one group: rows that are alike would have nearly all."""

LISTS_VERSION = 3
"""Goes up with what lists, spreads or codes are made of: those kept by an older library are not
those that would be made now."""

_FORMS: Mapping[str, tuple[int, str]] = {
    "centres": (2, "<f4"), "spreads": (1, "<f4"), "place_rows": (1, "<i4"), "starts": (1, "<i8")
}  # fmt: skip


class Partition(NamedTuple):
    """Lists: their centres (C, D), how far rows lie from them in a dimension, each row's list (N,).

    `spread_C` is the root of the mean square.
    """

    centres_CD: NDArray[np.float32]
    spread_C: NDArray[np.float32]
    list_N: NDArray[np.int32]


class ScanListsIndex(ScanIndex):
    """Item vectors as int8 codes in lists: `effort` is how many a query reads.

    >>> vectors_ND = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> if ScanListsIndex.works():
    ...     rows_BK, scores_BK = ScanListsIndex(vectors_ND).search(vectors_ND[:5], 3)
    ...     assert np.allclose(scores_BK[4], vectors_ND[rows_BK[4]] @ vectors_ND[4])
    """

    name: ClassVar[str] = "scan_lists"
    effort_name: ClassVar[str] = "probes"

    def __init__(
        self,
        vectors_ND: NDArray[np.float32],
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        """Raises: ValueError if there is no kernel for this machine, a vector is not finite, or
        the tensors are of other vectors.
        """
        check_vectors(vectors_ND)
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if reason := self.why_not(*self._vectors_ND.shape):
            raise ValueError(f"{reason}: take another engine")
        if tensors is None:
            self._centres_CD, self._spread_C, list_N = lists_of(self._vectors_ND)
            self._place_rows, self._starts_C1 = places_of(list_N, len(self._centres_CD))
            self._scale_D = scale_of(self._vectors_ND)
            self._codes = packed_codes(self._vectors_ND, self._scale_D, self._place_rows)
        else:
            self._centres_CD, self._spread_C, self._place_rows, self._starts_C1 = _kept_lists(
                tensors, self._vectors_ND.shape
            )
            shape = len(self._place_rows), self._vectors_ND.shape[1]
            self._scale_D, self._codes = kept_codes(tensors, shape)
        self._reach_C = np.float32(SPREADS) * self._spread_C
        self._starts_C1 = np.ascontiguousarray(self._starts_C1, np.int64)
        self.effort = FIRST_PROBES
        self.recall = float("nan")

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return why it cannot search so many rows, "" if it can."""
        if reason := super().why_not(num_rows, dim):
            return reason
        enough = FEW_LISTS * POINTS_A_CENTRE
        few = f"there are {num_rows - 1} vectors and {enough} are needed"
        return "" if num_rows > enough else few

    @property
    def query_bytes(self) -> float:
        """Return how many bytes a query reads before it scores anything exactly."""
        lists = len(self._centres_CD)
        return self._codes.nbytes * min(1.0, self.effort / lists) + self._centres_CD.nbytes

    @property
    def most_effort(self) -> int:
        """Return C."""
        return len(self._centres_CD)

    @property
    def pays(self) -> bool:
        """Return whether a query reads so little that company would not save as much."""
        return self.effort * WORTHWHILE <= len(self._centres_CD)

    def begin(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> BegunScan:
        """Return the search as `ScanIndex.begin`; who finds fewer than k in his lists reads all.

        Raises:
            ValueError: as `search`.
        """
        begun = super().begin(queries_BD, k, exclude=exclude, hidden=hidden)
        begun.widen = partial(self._widened, queries_BD, exclude, hidden)
        return begun

    def _widened(
        self,
        queries_BD: NDArray[np.float32],
        exclude: Excluded | None,
        hidden: Hidden | None,
        rows_BK: NDArray[np.int32],
        scores_BK: NDArray[np.float32],
    ) -> Found:
        last_B = rows_BK[:, -1]
        if np.count_nonzero(last_B) == len(last_B):
            return rows_BK, scores_BK
        short = np.flatnonzero(last_B == 0).tolist()
        begun = super().begin(
            queries_BD[short],
            rows_BK.shape[1],
            exclude=None if exclude is None else [exclude[at] for at in short],
            hidden=None if hidden is None else [hidden[at] for at in short],
        )
        everything = np.array([[0, self._starts_C1[-1]]] * len(short), np.int64)
        from_B1 = np.arange(len(short) + 1)
        begun.arguments.ranges = address_of(everything)
        begun.arguments.ranges_from = address_of(from_B1)
        run_here(begun)
        rows_BK[short], scores_BK[short] = begun.result()
        return rows_BK, scores_BK

    @property
    def least_width(self) -> int:
        """Return how many rows are scored exactly for a short list."""
        return CANDIDATES

    def _prepared(self) -> Arguments:
        arguments = super()._prepared()
        arguments.probes = self.effort
        return arguments

    def _arguments(self) -> Arguments:
        arguments = super()._arguments()
        arguments.place_rows = address_of(self._place_rows)
        arguments.centres = address_of(self._centres_CD)
        arguments.reaches = address_of(self._reach_C)
        arguments.starts = address_of(self._starts_C1)
        arguments.num_lists = len(self._centres_CD)
        return arguments

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what `ScanIndex` stores, `centres` (C, D), `spreads` (C,), `place_rows` (P,).

        And `starts` (C + 1), the blocks at which lists begin.
        """
        lists: dict[str, NDArray[np.generic]] = {
            "version": np.array([LISTS_VERSION]),
            "centres": self._centres_CD,
            "spreads": self._spread_C,
            "place_rows": self._place_rows,
            "starts": self._starts_C1,
        }
        return {**super().to_tensors(), **lists}


def lists_of(vectors_ND: NDArray[np.float32]) -> Partition:
    """Return the lists of vectors: one for `ROWS_A_LIST` rows, `MOST_LISTS` at most, or nearly so.

    >>> corners = np.repeat(np.array([[9, 0], [0, 9]], np.float32), 500, axis=0)
    >>> lists = lists_of(corners)
    >>> len(set(lists.list_N[1:500]) & set(lists.list_N[500:])), lists.spread_C.max().round(3)
    (0, np.float32(0.0))
    """
    count = len(vectors_ND) - 1
    wanted = max(FEW_LISTS, 2 ** round(math.log2(count / ROWS_A_LIST)))
    groups = _groups_of(vectors_ND, min(wanted, MOST_LISTS, count // POINTS_A_CENTRE))
    centres_CD = np.concatenate(groups.centres)
    first_G = np.cumsum([0, *map(len, groups.centres)])
    list_N = np.zeros(len(vectors_ND), np.int32)
    squares_C = np.zeros(len(centres_CD))
    for start in range(1, len(vectors_ND), ROWS_AT_ONCE):
        part = vectors_ND[start : start + ROWS_AT_ONCE]
        group_n = _nearest(part, groups.means_GD)
        for group, here_MD in enumerate(groups.centres):
            there = np.flatnonzero(group_n == group)
            if len(there):
                chosen = first_G[group] + _nearest(part[there], here_MD)
                list_N[start + there] = chosen
                squares = ((part[there] - centres_CD[chosen]) ** 2).sum(axis=1)
                squares_C += np.bincount(chosen, squares, minlength=len(centres_CD))
    numbers_C = np.maximum(np.bincount(list_N[1:], minlength=len(centres_CD)), 1)
    spread_C = np.sqrt(squares_C / numbers_C / vectors_ND.shape[1])
    return Partition(centres_CD, spread_C.astype(np.float32), list_N)


class _Groups(NamedTuple):
    """The means (G, D) of groups of near lists, and the centres (M, D) of each one's lists."""

    means_GD: NDArray[np.float32]
    centres: list[NDArray[np.float32]]


def _groups_of(vectors_ND: NDArray[np.float32], lists: int) -> _Groups:
    """Return centres of `lists` lists or nearly so, learned group by group."""
    if lists <= FEW_LISTS * POINTS_A_CENTRE:
        centres_CD = centres_of(vectors_ND[1:], lists)
        return _Groups(np.zeros((1, vectors_ND.shape[1]), np.float32), [centres_CD])
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(vectors_ND) - 1, lists * POINTS_A_CENTRE, replace=False)
    sample = vectors_ND[1 + np.sort(chosen)]
    means_GD = centres_of(sample, round(math.sqrt(lists / 2)))
    group_s = _nearest(sample, means_GD)
    members = [sample[group_s == group] for group in range(len(means_GD))]
    used = [group for group, member in enumerate(members) if len(member)]
    shares = [len(members[group]) // POINTS_A_CENTRE for group in used]
    shares = [min(max(1, share), MOST_IN_A_GROUP) for share in shares]
    centres = [centres_of(members[at], share) for at, share in zip(used, shares, strict=True)]
    return _Groups(means_GD[used], centres)


def places_of(
    list_N: NDArray[np.int32], num_lists: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the row at each place (P,), 0 for none, and the blocks (C + 1) where lists begin.

    Every list fills whole blocks of the kernel.

    >>> place_rows, starts_C1 = places_of(np.array([1, 1, 0, 1], np.int32), 2)
    >>> place_rows[:2].tolist(), place_rows[16:20].tolist(), starts_C1.tolist()
    ([2, 0], [1, 3, 0, 0], [0, 1, 2])
    """
    rows = (1 + np.argsort(list_N[1:], kind="stable")).astype(np.int32)
    lengths_C = np.bincount(list_N[1:], minlength=num_lists)
    blocks_C = -(-lengths_C // LANES)
    starts_C1 = np.concatenate([[0], np.cumsum(blocks_C)])
    before_C = np.cumsum(lengths_C) - lengths_C
    shift_C = starts_C1[:-1] * LANES - before_C
    place_rows = np.zeros(int(starts_C1[-1]) * LANES, np.int32)
    place_rows[np.arange(len(rows)) + np.repeat(shift_C, lengths_C)] = rows
    return place_rows, starts_C1.astype(np.int64)


def _nearest(vectors_nD: NDArray[np.float32], centres_CD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the centre that is nearest to each vector."""
    halves_C = (centres_CD**2).sum(axis=1) / 2
    return np.asarray((vectors_nD @ centres_CD.T - halves_C).argmax(axis=1), np.int64)


def _kept_lists(
    tensors: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Return centres, spreads, rows at places, and starts, if they are of vectors of this shape."""
    num_rows, dim = shape
    if "version" not in tensors or tensors["version"].tolist() != [LISTS_VERSION]:
        raise ValueError("the lists are of another version of Ouzel: build them anew")
    for name, (dimensions, kind) in _FORMS.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim != dimensions or tensor.dtype != np.dtype(kind):
            raise ValueError(f"tensor {name!r} is missing or damaged: build lists anew")
    centres_CD = np.ascontiguousarray(tensors["centres"], np.float32)
    spread_C = np.ascontiguousarray(tensors["spreads"], np.float32)
    place_rows = np.ascontiguousarray(tensors["place_rows"], np.int32)
    starts_C1 = np.ascontiguousarray(tensors["starts"], np.int64)
    rows = np.sort(place_rows)
    fits = np.array_equal(rows[len(rows) - (num_rows - 1) :], np.arange(1, num_rows))
    ends = starts_C1[0] == 0 and starts_C1[-1] * LANES == len(place_rows)
    if not (fits and ends and (np.diff(starts_C1) >= 0).all()):
        raise ValueError(f"the lists are not of {num_rows} vectors: build them anew")
    lists = len(starts_C1) - 1
    if centres_CD.shape != (lists, dim) or spread_C.shape != (lists,):
        raise ValueError(f"the centres do not fit {dim} dimensions: build lists anew")
    return centres_CD, spread_C, place_rows, starts_C1
