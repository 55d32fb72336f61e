"""The ranker `target_attention` in compiled code: the logits of its graph at half the cost.

The graph takes 40 steps, each of which writes and reads all candidates; the kernel
(`target_attention.cpp`) does them for 24 candidates at a time within the nearest cache. It is built
when Ouzel is installed, if there is a compiler, and works on processors with AVX-512. Elsewhere, or
for a Bundle that holds no weights for it, the graph ranks.

A pass of it reads copies of the users' states, so that it may go on beside whoever changes them.

Shape legend: B = users, K = candidates, A = actions, D = dimensions, H = heads, E = D / H, P = E /
2 channel pairs, W = window, X = hidden, F = D + 2 X + A, a line of the item table, N = rows.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.addresses import address_of
from ouzel.features.states import StateShape

Array = NDArray[Any]

LANES = 16
"""Floats in a register."""

WEIGHTS = frozenset({"user_part", "read_part", "score_part", "out", "trust"}) | {
    "frequencies",
    "periods_ms",
    "position_period",
}
"""What a Bundle holds for the kernel, beside the ranker's lines of all items."""

_PRECISIONS = {"fp32": 0, "fp16": 1, "int8": 2}


class TargetAttentionKernel:
    """The weights of a ranker as the kernel reads them, for states of one shape.

    `vectors_ND` are the output-side item vectors, `items_NF` the ranker's own lines, and `weights`
    what `ouzel.models.ranking.TargetAttention.kernel_weights` gives.
    """

    def __init__(
        self,
        shape: StateShape,
        *,
        vectors_ND: NDArray[np.float32],
        items_NF: NDArray[np.float32],
        weights: Mapping[str, Array],
    ) -> None:
        """Raises: ValueError if there is no kernel for this machine, or a weight does not fit."""
        self._address = kernel_address()
        self._shape = shape
        self._turns = weights["frequencies"], weights["periods_ms"]
        self._positions = int(weights["position_period"][0])
        actions, hidden = weights["out"].shape
        _check(shape, (vectors_ND, items_NF), weights)
        tables = (_floats(vectors_ND), _floats(items_NF))
        packed = (*_packed(shape, weights), _floats(weights["trust"]))
        self.num_actions = actions
        self._kept = (*tables, *packed)
        self._model = _Model(
            *(address_of(table) for table in tables),
            len(vectors_ND),
            shape.dim,
            shape.num_heads,
            shape.window,
            hidden,
            actions,
            _PRECISIONS[shape.precision],
            *(address_of(array) for array in packed),
        )

    @staticmethod
    def works() -> bool:
        """Return whether the kernel was built and this processor has what it needs."""
        return _kernel() is not None

    @classmethod
    def of(
        cls, shape: StateShape, vectors_ND: NDArray[np.float32], tensors: Mapping[str, Array]
    ) -> Self | None:
        """Return the kernel of a Bundle's `ranker` tensors, None if the graph is to rank.

        Raises:
            ValueError: a weight does not fit.
        """
        if not cls.works() or not tensors.keys() >= WEIGHTS:
            return None
        return cls(shape, vectors_ND=vectors_ND, items_NF=tensors["items"], weights=tensors)

    def begin(
        self,
        *,
        query_BD: Array,
        now_B: Array,
        length_B: Array,
        candidates_BK: Array,
        rings: Sequence[Array],
    ) -> BegunRanking:
        """Return the ranking as the kernel wants it, to be run here or beside the caller.

        `rings` are the last layer's of these users (B, ...), which nobody may write meanwhile.
        """
        count, width = candidates_BK.shape
        cosines_BP, sines_BP = self._angles(length_B - 1, now_B)
        events_B = np.minimum(length_B, self._shape.window).astype(np.int64)
        logits_BKA = np.zeros((count, width, self.num_actions), np.float32)
        given = (_floats(query_BD), cosines_BP, sines_BP, events_B)
        rows_BK = np.ascontiguousarray(candidates_BK, np.int32)
        keys, key_scales, values, value_scales = _four([np.ascontiguousarray(r) for r in rings])
        arguments = _Ranking(
            ctypes.addressof(self._model),
            count,
            width,
            *(address_of(array) for array in given),
            address_of(rows_BK),
            *(
                None if r is None else address_of(r)
                for r in (keys, key_scales, values, value_scales)
            ),
            address_of(logits_BKA),
        )
        kept = (self._model, self._kept, given, rows_BK, keys, key_scales, values, value_scales)
        return BegunRanking(logits_BKA, self._address, arguments, kept)

    def _angles(self, position_B: Array, now_B: Array) -> tuple[Array, Array]:
        """Return cosines and sines (B, P) of the rotary layer, times the attention's scale."""
        frequencies, periods_ms = self._turns
        wrapped_B = (position_B % self._positions).astype(np.float32)
        angles_BP = wrapped_B[:, None] * frequencies
        if len(periods_ms):
            phase = (now_B[:, None] % periods_ms).astype(np.float32)
            turns = phase / periods_ms.astype(np.float32) * np.float32(2 * math.pi)
            angles_BP = np.concatenate([angles_BP, turns], axis=1)
        scale = np.float32(1 / math.sqrt(self._shape.head_size))
        return np.cos(angles_BP) * scale, np.sin(angles_BP) * scale


class _Model(ctypes.Structure):
    """`Model` of `target_attention.cpp`."""

    _fields_ = (
        ("vectors", ctypes.c_void_p),
        ("lines", ctypes.c_void_p),
        ("num_rows", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("actions", ctypes.c_int64),
        ("precision", ctypes.c_int64),
        ("user", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("trust", ctypes.c_void_p),
    )


class _Ranking(ctypes.Structure):
    """`Ranking` of `target_attention.cpp`."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("num_users", ctypes.c_int64),
        ("num_candidates", ctypes.c_int64),
        ("queries", ctypes.c_void_p),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("events", ctypes.c_void_p),
        ("candidates", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("key_scales", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("value_scales", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


@dataclass(slots=True)
class BegunRanking:
    """A ranking under way: `kept` is what the kernel reads meanwhile, `failed` is set at its end.

    `function` is the address of the kernel, which takes that of `arguments`.
    """

    logits_BKA: NDArray[np.float32]
    function: int
    arguments: ctypes.Structure
    kept: tuple[object, ...]
    failed: bool = False

    def run(self) -> None:
        """Rank in this thread."""
        run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self.function)
        self.failed = not run(ctypes.addressof(self.arguments))

    def result(self) -> NDArray[np.float32]:
        """Return the logits (B, K, A) of a ranking that is done.

        Raises:
            MemoryError: there was not enough memory.

        >>> nothing = np.empty((0, 0, 1), np.float32)
        >>> BegunRanking(nothing, 0, _Ranking(), ()).result().shape
        (0, 0, 1)
        """
        if self.failed:
            raise MemoryError("not enough memory to rank: ask for fewer candidates")
        return self.logits_BKA


def kernel_address() -> int:
    """Return where the kernel is.

    Raises:
        ValueError: there is none for this machine.

    >>> TargetAttentionKernel.works() == (_kernel() is not None)
    True
    """
    kernel = _kernel()
    if kernel is None:
        raise ValueError("the ranking kernel does not work on this machine: take the graph")
    return ctypes.cast(kernel.ouzel_rank, ctypes.c_void_p).value or 0


def _packed(shape: StateShape, weights: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
    """Return `user` (D, 2 XP), `read` (H EP, 2 XP), `score` (2 XP) and `out` (A, XP)."""
    heads, size = shape.num_heads, shape.head_size
    user, read = (_halves(weights[name].T) for name in ("user_part", "read_part"))
    by_head = np.zeros((heads, _padded(size), read.shape[1]), np.float32)
    by_head[:, :size] = read.reshape(heads, size, -1)
    score = _halves(weights["score_part"].T)[0]
    actions, hidden = weights["out"].shape
    out = np.zeros((actions, _padded(hidden)), np.float32)
    out[:, :hidden] = weights["out"]
    return user, by_head.reshape(-1, read.shape[1]), score, out


def _halves(weights: Array) -> Array:
    """Return gates and values (..., 2 X) with each half filled up to whole registers."""
    halves = weights.reshape(*weights.shape[:-1], 2, -1)
    wide = np.zeros((*halves.shape[:-1], _padded(halves.shape[-1])), np.float32)
    wide[..., : halves.shape[-1]] = halves
    return wide.reshape(*weights.shape[:-1], -1)


def _check(shape: StateShape, tables: tuple[Array, Array], weights: Mapping[str, Array]) -> None:
    """Return nothing if everything fits: the kernel reads without looking."""
    dim, (actions, hidden) = shape.dim, weights["out"].shape
    wanted = {
        "user_part": (2 * hidden, dim),
        "read_part": (2 * hidden, dim),
        "score_part": (2 * hidden, 1),
        "trust": (actions,),
    }
    given = {name: weights[name].shape for name in wanted}
    pairs = len(weights["frequencies"]) + len(weights["periods_ms"])
    lines = tables[0].shape[1], tables[1].shape[1], len(tables[0]), pairs
    fits = (dim, dim + 2 * hidden + actions, len(tables[1]), shape.head_size // 2)
    if given != wanted or lines != fits or shape.head_size % 2:
        raise ValueError("the weights of the ranker do not fit its states: train it again")


def _four(rings: Sequence[Array]) -> Sequence[Array | None]:
    """Return keys, their scales, values, their scales, None for scales that are not there."""
    return rings if len(rings) == 4 else (rings[0], None, rings[1], None)


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def _floats(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


@cache
def _kernel() -> ctypes.CDLL | None:
    """Return the compiled kernel, None where it was not built or does not work."""
    found = importlib.util.find_spec("ouzel.inference._target_attention")
    if found is None or found.origin is None:
        return None
    try:
        kernel = ctypes.CDLL(found.origin)
    except OSError:
        # Built for another machine, say: an install that was copied.
        return None
    if not kernel.ouzel_rank_works():
        return None
    kernel.ouzel_rank_bytes.restype = ctypes.c_int64
    if kernel.ouzel_rank_bytes() != 1000 * ctypes.sizeof(_Model) + ctypes.sizeof(_Ranking):
        return None  # Of an older Ouzel: a build that failed leaves it behind.
    return kernel
