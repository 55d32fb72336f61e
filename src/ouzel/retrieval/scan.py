"""Int8 codes of all items, scanned by a compiled kernel, then the exact scores of the best few.

A code takes one byte per dimension, so a scan reads a quarter of the bytes of float32, and one
reading serves eight queries: at 100,000 items of 64 dimensions a query costs 0.3 to 0.5 ms alone
and about 0.1 ms in company. What is approximate is which items are found, never their scores or
order.

The kernel (`scan.cpp`) is built when Ouzel is installed, if there is a compiler, and works on
processors with AVX-512 VNNI. Elsewhere `ScanIndex.works` is false: take another index.

Shape legend: N = rows with the padding row 0, D = dimensions, G = D / 4 rounded up, B = queries,
K = results, F = rows excluded in all.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ouzel.features.addresses import address_of
from ouzel.retrieval.index import Excluded, Found, Hidden, check_search, check_vectors
from ouzel.retrieval.tuning import most_candidates

CANDIDATES = 32
"""Rows that are scored exactly for a short list; tuning doubles it until recall is enough."""

SPARE = 2
"""At least this many times as many rows are scored as are asked for."""

LANES = 16
LAYOUT = 5
"""Changes with what the functions of the kernel take."""

_BLOCKS_AT_ONCE = 4
PLACES_AT_ONCE = LANES * _BLOCKS_AT_ONCE
"""Places of the codes that are read together."""
_LARGEST = 127
_NONE: NDArray[np.int32] = np.empty(0, np.int32)


class ScanIndex:
    """Item vectors as int8 codes with exact refinement; keeps the `Engine` promise.

    `recall` is the measured share of the exact best that is found, NaN until it is measured.

    >>> if ScanIndex.works():
    ...     index = ScanIndex(np.array([[9, 9], [1, 0], [0, 1]], np.float32))
    ...     rows, scores = index.search(np.array([[2, 1]], np.float32), 2)
    ...     assert (rows.tolist(), scores.tolist()) == ([[1, 2]], [[2.0, 1.0]])
    """

    name: ClassVar[str] = "scan"
    effort_name: ClassVar[str] = "candidates"
    _fixed: Arguments | None = None

    def __init__(
        self,
        vectors_ND: NDArray[np.float32],
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        """Raises: ValueError if there is no kernel for this machine, a vector is not finite, or
        the tensors are of other vectors.
        """
        loaded()
        check_vectors(vectors_ND)
        self._vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if tensors is None:
            self._scale_D = scale_of(self._vectors_ND)
            self._codes = packed_codes(self._vectors_ND, self._scale_D)
        else:
            self._scale_D, self._codes = kept_codes(tensors, self._vectors_ND.shape)
        self.effort = CANDIDATES
        self.recall = float("nan")

    @staticmethod
    def works() -> bool:
        """Return whether the kernel was built and this processor has what it needs."""
        kernel = _kernel()
        return kernel is not None and bool(kernel.ouzel_scan_works())

    @classmethod
    def why_not(cls, num_rows: int, dim: int) -> str:
        """Return that there is no kernel here, "" if there is."""
        return "" if cls.works() else "the scan kernel does not work on this machine"

    def __len__(self) -> int:
        return len(self._vectors_ND) - 1

    @property
    def vectors_ND(self) -> NDArray[np.float32]:
        """Return the vectors (N, D)."""
        return self._vectors_ND

    @property
    def query_bytes(self) -> float:
        """Return how many bytes a query reads before it scores anything exactly."""
        return float(self._codes.nbytes)

    @property
    def most_effort(self) -> int:
        """Return the most rows worth scoring exactly."""
        return most_candidates(len(self))

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows (B, K) int32 and exact scores (B, K) float32, best first, ties by lower row.

        `exclude` has sorted rows, `hidden` masks (N,) rows that may not be found either. Where
        fewer than k are found, the rest is row 0 with score -inf.

        Raises:
            ValueError: `k` < 1, a query of another dimension, a query that is not finite, or
                `exclude` or `hidden` not one array per query.
        """
        begun = self.begin(queries_BD, k, exclude=exclude, hidden=hidden)
        run_here(begun)
        return begun.result()

    def begin(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        *,
        exclude: Excluded | None = None,
        hidden: Hidden | None = None,
    ) -> BegunScan:
        """Return the search as the kernel wants it, to be given to a `ScanWorker`.

        Raises:
            ValueError: as `search`.
        """
        num_rows, dim = self._vectors_ND.shape
        check_search(queries_BD, k, exclude, dim=dim, hidden=hidden)
        queries_BD = np.ascontiguousarray(queries_BD, np.float32)
        count = len(queries_BD)
        banned_F, ends = _banned(exclude, count)
        masks, addresses = _masked(hidden, count, num_rows)
        rows_BK = np.zeros((count, k), np.int32)
        scores_BK = np.full((count, k), -np.inf, np.float32)
        arguments = self._prepared()
        arguments.queries = address_of(queries_BD)
        arguments.num_queries = count
        arguments.banned = address_of(banned_F)
        arguments.banned_from = address_of(ends)
        arguments.hidden = address_of(addresses)
        arguments.width = min(num_rows, self._width(k))
        arguments.k = k
        arguments.rows = address_of(rows_BK)
        arguments.scores = address_of(scores_BK)
        # With the index itself: what it was made of is read until the end, whatever replaces it.
        read = (self, queries_BD, banned_F, ends, masks, addresses)
        return BegunScan(rows_BK, scores_BK, _address(), arguments, read)

    @property
    def least_width(self) -> int:
        """Return how many rows are scored exactly for a short list."""
        return self.effort

    def call(self) -> tuple[int, Arguments]:
        """Return how compiled code searches: the address of the kernel, and what stays the same."""
        return _address(), self._prepared()

    def _prepared(self) -> Arguments:
        """Return what is the same for every search, to be completed."""
        if self._fixed is None:
            self._fixed = self._arguments()
        return Arguments.from_buffer_copy(self._fixed)

    def _arguments(self) -> Arguments:
        num_rows, dim = self._vectors_ND.shape
        return Arguments(
            codes=address_of(self._codes),
            num_blocks=len(self._codes),
            vectors=address_of(self._vectors_ND),
            num_rows=num_rows,
            dim=dim,
            scale=address_of(self._scale_D),
        )

    def _width(self, k: int) -> int:
        """Return how many rows to score exactly for a list of k."""
        return max(self.least_width, SPARE * k)

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a row, None if there is no such row."""
        return self._vectors_ND[row] if 0 < row < len(self._vectors_ND) else None

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return `codes` (blocks, G, 16, 4) uint8 and `scale` (D,) float32."""
        return {"codes": self._codes, "scale": self._scale_D}


class Arguments(ctypes.Structure):
    """`Search` of `scan.cpp`."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("num_blocks", ctypes.c_int64),
        ("vectors", ctypes.c_void_p),
        ("num_rows", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
        ("queries", ctypes.c_void_p),
        ("num_queries", ctypes.c_int64),
        ("banned", ctypes.c_void_p),
        ("banned_from", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("place_rows", ctypes.c_void_p),
        ("ranges", ctypes.c_void_p),
        ("ranges_from", ctypes.c_void_p),
        ("centres", ctypes.c_void_p),
        ("reaches", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("num_lists", ctypes.c_int64),
        ("probes", ctypes.c_int64),
    )


@dataclass(slots=True)
class BegunScan:
    """A search under way: `kept` is what the kernel reads meanwhile, `failed` is set at its end.

    `function` is the address of the kernel, which takes that of `arguments`.
    `widen` looks for more where too few were found, `complete` turns what the kernel found into the
    result, if there is more to it.
    """

    rows_BK: NDArray[np.int32]
    scores_BK: NDArray[np.float32]
    function: int
    arguments: ctypes.Structure
    kept: tuple[object, ...]
    failed: bool = False
    widen: Callable[[NDArray[np.int32], NDArray[np.float32]], Found] | None = None
    complete: Callable[[NDArray[np.int32], NDArray[np.float32]], Found] | None = None

    def result(self) -> Found:
        """Return rows and scores, as `ScanIndex.search`, of a search that is done.

        Raises:
            MemoryError: there was not enough memory.

        >>> empty = np.empty((0, 1))
        >>> len(BegunScan(empty, empty, 0, Arguments(), ()).result()[0])
        0
        """
        if self.failed:
            raise MemoryError("not enough memory for a search: ask for fewer results")
        found: Found = self.rows_BK, self.scores_BK
        for step in (self.widen, self.complete):
            found = found if step is None else step(*found)
        return found


def run_here(begun: BegunScan) -> None:
    """Do in this thread what was begun.

    >>> if ScanIndex.works():
    ...     run_here(ScanIndex(np.eye(2, dtype=np.float32)).begin(np.ones((1, 2), np.float32), 1))
    """
    begun.failed = not loaded().ouzel_scan(ctypes.byref(begun.arguments))


def packed_codes(
    vectors_ND: NDArray[np.float32],
    scale_D: NDArray[np.float32],
    place_rows: NDArray[np.int32] | None = None,
) -> NDArray[np.uint8]:
    """Return the codes (blocks, G, 16, 4) of vectors, as `scan.cpp` reads them.

    They are `128 + round(v / scale)`: the 128 adds the same to every inner product of a query.
    Padding up to whole blocks is 0. `place_rows` says which row lies at each place; None: row n at
    place n.

    >>> packed_codes(np.array([[1.0, -1.0]], np.float32), np.full(2, 0.5, np.float32))[0, 0, 0]
    array([130, 126,   0,   0], dtype=uint8)
    """
    dim = vectors_ND.shape[1]
    places = len(vectors_ND) if place_rows is None else len(place_rows)
    groups, blocks = -(-dim // 4), -(-places // PLACES_AT_ONCE) * _BLOCKS_AT_ONCE
    codes = np.zeros((blocks * LANES, groups * 4), np.uint8)
    divisor_D = np.where(scale_D > 0, scale_D, 1)
    for start in range(0, places, 1 << 16):
        here = slice(start, start + (1 << 16))
        part = vectors_ND[here] if place_rows is None else vectors_ND[place_rows[here]]
        codes[start : start + len(part), :dim] = np.rint(part / divisor_D) + (_LARGEST + 1)
    return np.ascontiguousarray(codes.reshape(blocks, LANES, groups, 4).transpose(0, 2, 1, 3))


def scale_of(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what one step of a code is worth in each dimension (D,).

    >>> scale_of(np.array([[127.0, 0.0]], np.float32)).tolist()
    [1.0, 0.0]
    """
    scale_D: NDArray[np.float32] = np.abs(vectors_ND).max(axis=0, initial=0) / np.float32(_LARGEST)
    return scale_D


def kept_codes(
    tensors: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return scale and codes of tensors that were made for so many places and dimensions.

    Raises:
        ValueError: they were not.

    >>> tensors = {"scale": np.ones(1, np.float32), "codes": np.zeros((4, 1, 16, 4), np.uint8)}
    >>> kept_codes(tensors, (9, 1))[1].shape
    (4, 1, 16, 4)
    """
    num_rows, dim = shape
    blocks = -(-num_rows // PLACES_AT_ONCE) * _BLOCKS_AT_ONCE
    wanted = {"codes": ((blocks, -(-dim // 4), LANES, 4), "u1"), "scale": ((dim,), "<f4")}
    for name, (size, kind) in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != size or tensor.dtype != np.dtype(kind):
            raise ValueError(f"tensor {name!r} does not fit {num_rows} vectors: build codes anew")
    codes = np.ascontiguousarray(tensors["codes"], np.uint8)
    return np.ascontiguousarray(tensors["scale"], np.float32), codes


def _banned(exclude: Excluded | None, count: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the rows that queries may not find one after the other, and where those of each end.

    The first number is where those of the first begin.
    """
    if exclude is None:
        return _NONE, np.zeros(count + 1, np.int64)
    if count == 1:
        rows = np.ascontiguousarray(exclude[0], np.int32)
        return rows, np.array((0, len(rows)), np.int64)
    rows = np.concatenate(exclude, dtype=np.int32) if count else _NONE
    return rows, np.array((0, *accumulate(map(len, exclude))), np.int64)


def _masked(
    hidden: Hidden | None, count: int, num_rows: int
) -> tuple[list[NDArray[np.bool_]], NDArray[np.uintp]]:
    """Return the masks of queries, and where each one's lies, 0 for none."""
    addresses = np.zeros(count, np.uintp)
    masks: list[NDArray[np.bool_]] = []
    for at, mask in enumerate(() if hidden is None else hidden):
        if mask is None:
            continue
        if len(mask) < num_rows:
            raise ValueError(f"a mask has {len(mask)} rows: give one for each of {num_rows}")
        masks.append(np.ascontiguousarray(mask, np.bool_))
        addresses[at] = address_of(masks[-1])
    return masks, addresses


def loaded() -> ctypes.CDLL:
    """Return the compiled kernel.

    Raises:
        ValueError: it does not work here.

    >>> ScanIndex.works() and bool(loaded().ouzel_scan_works()) or not ScanIndex.works()
    True
    """
    kernel = _kernel()
    if kernel is None or not kernel.ouzel_scan_works():
        raise ValueError("the scan kernel does not work on this machine: take another engine")
    return kernel


@cache
def _address() -> int:
    """Return where the search is, for a worker."""
    return ctypes.cast(loaded().ouzel_scan, ctypes.c_void_p).value or 0


@cache
def _kernel() -> ctypes.CDLL | None:
    """Return the compiled kernel, None where it was not built."""
    found = importlib.util.find_spec("ouzel.retrieval._scan")
    if found is None or found.origin is None:
        return None
    try:
        kernel = ctypes.CDLL(found.origin)
    except OSError:
        # Built for another machine, say: an install that was copied.
        return None
    if kernel.ouzel_scan_works():
        kernel.ouzel_scan_bytes.restype = ctypes.c_int64
        if kernel.ouzel_scan_bytes() != LAYOUT * ctypes.sizeof(Arguments):
            return None  # Of an older Ouzel: a build that failed leaves it behind.
        kernel.ouzel_scan.argtypes = [ctypes.c_void_p]
        kernel.ouzel_worker_start.restype = ctypes.c_void_p
        kernel.ouzel_worker_start.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64]
        kernel.ouzel_worker_submit.argtypes = [ctypes.c_void_p] * 3
        kernel.ouzel_worker_stop.restype = None
        kernel.ouzel_worker_stop.argtypes = [ctypes.c_void_p]
    return kernel
