"""Steps of the gated transformer in compiled code: `encode`, `append` and `query` of its graphs.

For one user a graph is 80 to 90 nodes of about a microsecond each, and copies the rings it reads;
the kernel (`gated_steps.cpp`) reads them where they lie. It is built when Ouzel is installed, if
there is a compiler, and works on processors with AVX-512. Elsewhere, for other models, and for a
Bundle that holds no `steps`, the graphs serve.

Cost of a query, of 200 events at dim 64: about 10 microseconds, 100 in the graph.

Shape legend: B = users, D = dimensions, H = heads, E = D / H, W = places of a ring, X = inner
layer, S = slots, N = catalogue rows.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ouzel.features.addresses import address_of
from ouzel.features.states import StateShape

Array = NDArray[Any]

LANES = 16
"""Floats in a register: what sizes are multiples of."""

FEW = 8
"""Up to so many users the interpreter is not let go: to get it back would take longer."""

CONSTANTS = frozenset({"frequencies", "periods_ms", "position_period", "harmonics", "temperature"})
"""What a Bundle tells beside the weights: see `SequenceEncoder.step_constants`."""

_PRECISIONS = {"fp32": 0, "fp16": 1, "int8": 2}
_TYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}

# Of each block: its name in PyTorch and whether it is a matrix, in the order of `Block`.
_PARTS = (
    ("attention_norm.weight", False),
    ("query.weight", True),
    ("query.bias", False),
    ("key_value.weight", True),
    ("key_value.bias", False),
    ("out.weight", True),
    ("out.bias", False),
    ("attention_gate.weight", True),
    ("attention_gate.bias", False),
    ("forward_norm.weight", False),
    ("forward_gate.weight", True),
    ("forward_gate.bias", False),
    ("expand.weight", True),
    ("contract.weight", True),
)


def _field(name: str) -> str:
    return name.replace(".", "_")


class GatedSteps:
    """The weights of a gated transformer as the kernel reads them, for states of one shape.

    `weights` are those of the model by their names in PyTorch, `constants` its `step_constants`.
    """

    def __init__(
        self, shape: StateShape, weights: Mapping[str, Array], constants: Mapping[str, Array]
    ) -> None:
        """Raises: ValueError if there is no kernel for this machine or these sizes."""
        kernels = _kernels()
        if kernels is None or not _fits(shape, weights):
            raise ValueError("the kernel of steps does not fit this machine or model: take graphs")
        self._holding, self._letting_go = kernels
        self._shape = shape
        self._kept: list[Array] = []
        blocks = (_Block * shape.num_layers)()
        for layer in range(shape.num_layers):
            for name, matrix in _PARTS:
                array = weights[f"blocks.{layer}.{name}"]
                setattr(blocks[layer], _field(name), self._floats(array.T if matrix else array))
        self._blocks = blocks
        self._model = _Model(
            blocks=ctypes.addressof(blocks),
            layers=shape.num_layers,
            dim=shape.dim,
            heads=shape.num_heads,
            window=shape.window,
            inner=weights["blocks.0.contract.weight"].shape[1],
            precision=_PRECISIONS[shape.precision],
            position_period=int(constants["position_period"][0]),
            num_frequencies=len(constants["frequencies"]),
            frequencies=self._floats(constants["frequencies"]),
            periods_ms=self._keep(np.ascontiguousarray(constants["periods_ms"], np.int64)),
            num_harmonics=len(constants["harmonics"]),
            harmonics=self._floats(constants["harmonics"]),
            elapsed=self._floats(weights["elapsed.weight"].T),
            elapsed_bias=self._floats(weights["elapsed.bias"]),
            final_norm=self._floats(weights["final_norm.weight"]),
            temperature=float(constants["temperature"][0]),
        )
        self._rings: tuple[Sequence[Array], Any] = ((), None)

    @staticmethod
    def work() -> bool:
        """Return whether the kernel was built and this processor has what it needs."""
        return _kernels() is not None

    @classmethod
    def of(
        cls, shape: StateShape, weights: Mapping[str, Array], constants: Mapping[str, Array]
    ) -> Self | None:
        """Return the steps of a Bundle's tensors, None if the graphs are to serve."""
        told = constants.keys() >= CONSTANTS and cls.work() and _fits(shape, weights)
        return cls(shape, weights, constants) if told else None

    @property
    def encodes(self) -> bool:
        """Return whether heads fill registers, as `encode` needs it."""
        return self._shape.head_size % LANES == 0

    def encode(
        self,
        *,
        rows_BL: Array,
        times_BL: Array,
        length_B: Array,
        start_B: Array,
        table_ND: NDArray[np.float32],
    ) -> list[Array]:
        """Return what `Graphs.encode` does, zeros behind the end of a history.

        Raises:
            ValueError: a history is empty, or a row is not there.
            MemoryError: there is not enough memory.
        """
        count, longest = rows_BL.shape
        fresh = self._fresh(count, longest)
        last_BD = np.empty((count, self._shape.dim), np.float32)
        into = _layers(fresh, self._shape)
        given = [_longs(array) for array in (rows_BL, times_BL, length_B, start_B)]
        self._check(
            self._letting_go.ouzel_encode(
                ctypes.addressof(self._model),
                count,
                longest,
                len(table_ND),
                *(address_of(array) for array in given),
                address_of(table_ND),
                ctypes.addressof(into),
                address_of(last_BD),
            )
        )
        return [*fresh, last_BD]

    def append(
        self,
        *,
        row_B: Array,
        time_B: Array,
        length_B: Array,
        slot_B: Array,
        table_ND: NDArray[np.float32],
        cache: Sequence[Array],
    ) -> list[Array]:
        """Return what `Graphs.append` does.

        Raises:
            ValueError: a row or a slot is not there.
            MemoryError: there is not enough memory.
        """
        count = len(slot_B)
        fresh = self._fresh(count)
        last_BD = np.empty((count, self._shape.dim), np.float32)
        into = _layers(fresh, self._shape)
        given = [_longs(array) for array in (row_B, time_B, length_B, slot_B)]
        rings = self._layers_of(cache)
        self._check(
            self._kernel(count).ouzel_append(
                ctypes.addressof(self._model),
                count,
                len(table_ND),
                len(cache[0]),
                *(address_of(array) for array in given),
                address_of(table_ND),
                ctypes.addressof(rings),
                ctypes.addressof(into),
                address_of(last_BD),
            )
        )
        return [*fresh, last_BD]

    def query(
        self,
        *,
        now_B: Array,
        length_B: Array,
        slot_B: Array,
        last_SD: NDArray[np.float32],
        last_time_S: NDArray[np.int64],
        cache: Sequence[Array],
    ) -> NDArray[np.float32]:
        """Return what `Graphs.query` does.

        Raises:
            ValueError: a slot is not there.
            MemoryError: there is not enough memory.
        """
        count = len(slot_B)
        vectors_BD = np.empty((count, self._shape.dim), np.float32)
        given = [_longs(array) for array in (now_B, length_B, slot_B)]
        rings = self._layers_of(cache)
        self._check(
            self._kernel(count).ouzel_query(
                ctypes.addressof(self._model),
                count,
                len(cache[0]),
                *(address_of(array) for array in given),
                address_of(last_SD),
                address_of(last_time_S),
                ctypes.addressof(rings[self._shape.num_layers - 1]),
                address_of(vectors_BD),
            )
        )
        return vectors_BD

    def call(self, cache: Sequence[Array]) -> tuple[int, int, Any]:
        """Return how compiled code calls `query`: its address, the model's, the last layer's rings.

        They hold as long as this and what is returned.
        """
        function = ctypes.cast(self._letting_go.ouzel_query, ctypes.c_void_p).value or 0
        rings = _layers(cache, self._shape)
        return function, ctypes.addressof(self._model), rings[self._shape.num_layers - 1]

    def _fresh(self, *counts: int) -> list[Array]:
        """Return room for the keys and values of so many events in all layers."""
        heads, size, precision = (
            self._shape.num_heads,
            self._shape.head_size,
            self._shape.precision,
        )
        fresh: list[Array] = []
        for _ in range(2 * self._shape.num_layers):
            fresh.append(np.zeros((*counts, heads, size), _TYPES[precision]))
            if precision == "int8":
                fresh.append(np.zeros((*counts, heads), np.float32))
        return fresh

    def _kernel(self, count: int) -> Any:
        return self._holding if count <= FEW else self._letting_go

    def _layers_of(self, cache: Sequence[Array]) -> Any:
        """Return the rings of a pool as the kernel wants them; those of the last pool are kept."""
        kept, layers = self._rings
        if kept is not cache:
            layers = _layers(cache, self._shape)
            self._rings = cache, layers
        return layers

    @staticmethod
    def _check(done: int) -> None:
        if done < 0:
            raise ValueError("an event is of no row of the table, or a state of no slot")
        if not done:
            raise MemoryError("not enough memory for a step: give fewer users at once")

    def _floats(self, array: Array) -> int:
        return self._keep(np.ascontiguousarray(array, np.float32))

    def _keep(self, array: Array) -> int:
        self._kept.append(array)
        return address_of(array)


class _Block(ctypes.Structure):
    """`Block` of `gated_steps.cpp`."""

    _fields_ = tuple((_field(name), ctypes.c_void_p) for name, _ in _PARTS)


class _Model(ctypes.Structure):
    """`Model` of `gated_steps.cpp`."""

    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("layers", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("precision", ctypes.c_int64),
        ("position_period", ctypes.c_int64),
        ("num_frequencies", ctypes.c_int64),
        ("frequencies", ctypes.c_void_p),
        ("periods_ms", ctypes.c_void_p),
        ("num_harmonics", ctypes.c_int64),
        ("harmonics", ctypes.c_void_p),
        ("elapsed", ctypes.c_void_p),
        ("elapsed_bias", ctypes.c_void_p),
        ("final_norm", ctypes.c_void_p),
        ("temperature", ctypes.c_double),
    )


class _Layer(ctypes.Structure):
    """`Rings` and `Fresh` of `gated_steps.cpp`."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("key_scales", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("value_scales", ctypes.c_void_p),
    )


def _layers(arrays: Sequence[Array], shape: StateShape) -> Any:
    """Return keys and values of all layers, with scales between them or without."""
    layers = (_Layer * shape.num_layers)()
    names = [name for name, _ in _Layer._fields_]
    names = names if shape.precision == "int8" else names[::2]
    for place, array in enumerate(arrays[: len(names) * shape.num_layers]):
        setattr(layers[place // len(names)], names[place % len(names)], address_of(array))
    return layers


def _fits(shape: StateShape, weights: Mapping[str, Array]) -> bool:
    """Return whether the weights are those of such states, in sizes that the kernel takes."""
    needed = {f"blocks.{at}.{name}" for at in range(shape.num_layers) for name, _ in _PARTS}
    needed |= {"elapsed.weight", "elapsed.bias", "final_norm.weight"}
    if not shape.num_layers or not weights.keys() >= needed:
        return False
    dim, inner = weights["blocks.0.contract.weight"].shape
    return dim == shape.dim and not (dim % LANES or inner % LANES or shape.head_size % 2)


def _longs(array: Array) -> NDArray[np.int64]:
    return np.ascontiguousarray(array, np.int64)


@cache
def _kernels() -> tuple[Any, Any] | None:
    """Return the kernel twice, one that holds the interpreter and one that lets it go meanwhile.

    None where it was not built or does not work.
    """
    found = importlib.util.find_spec("ouzel.inference._gated_steps")
    if found is None or found.origin is None:
        return None
    try:
        holding, letting_go = ctypes.PyDLL(found.origin), ctypes.CDLL(found.origin)
    except OSError:
        # Built for another machine, say: an install that was copied.
        return None
    if not holding.ouzel_steps_work():
        return None
    holding.ouzel_steps_bytes.restype = ctypes.c_int64
    if holding.ouzel_steps_bytes() != 1001 * ctypes.sizeof(_Model) + ctypes.sizeof(_Block):
        return None  # Of an older Ouzel: a build that failed leaves it behind.
    pointer = ctypes.c_void_p
    for kernel in (holding, letting_go):
        kernel.ouzel_append.argtypes = [pointer, *3 * [ctypes.c_int64], *8 * [pointer]]
        kernel.ouzel_encode.argtypes = [pointer, *3 * [ctypes.c_int64], *7 * [pointer]]
        kernel.ouzel_query.argtypes = [pointer, *2 * [ctypes.c_int64], *7 * [pointer]]
    return holding, letting_go
