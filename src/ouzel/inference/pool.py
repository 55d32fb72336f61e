"""The pool of user states: arrays allocated once, slots handed out and taken back, oldest first.

A slot holds one user's rings of keys and values, in the precision that the graphs give and read
(or a state of another kind, see `ouzel.features.states`), the vector of the newest event, and what
is needed to check it: the number of events in it and a hash of them. The hash is a polynomial in
the mixed events modulo 2^64, so that an appended event extends it in one step and a whole history
is hashed in one vectorised pass.

Shape legend: S = slots, H = heads, E = head size, W = window, D = H E, L = length, n = events.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ouzel.events.interactions import History
from ouzel.events.mapped_array import mapped_zeros
from ouzel.features.states import StateShape

Array = NDArray[Any]

_MASK = (1 << 64) - 1
_BASE = 0x9E3779B97F4A7C15
_MIX_ROW = 0xBF58476D1CE4E5B9
_MIX_TIME = 0x94D049BB133111EB


def mix_event(row: int, time_ms: int) -> int:
    """Return 64 bits that depend on the row and the time of an event.

    >>> mix_event(7, 99) == mix_event(99, 7)
    False
    """
    mixed = (row * _MIX_ROW + time_ms * _MIX_TIME) & _MASK
    return ((mixed ^ (mixed >> 29)) * _BASE) & _MASK


def extend_hash(digest: int, row: int, time_ms: int) -> int:
    """Return the hash of a history after one more event.

    >>> first, other = extend_hash(0, 7, 99), extend_hash(0, 8, 99)
    >>> extend_hash(first, 8, 100) == extend_hash(other, 7, 100)  # the order of rows counts
    False
    """
    return (digest * _BASE + mix_event(row, time_ms)) & _MASK


def history_hash(history: History) -> int:
    """Return the hash of a whole history: what extending from 0 event by event gives.

    >>> one = History(np.array([7], np.int32), np.array([99], np.int64))
    >>> history_hash(one) == extend_hash(0, 7, 99)
    True
    """
    if not len(history):
        return 0
    with np.errstate(over="ignore"):
        rows, times = history.rows.astype(np.uint64), history.times_ms.astype(np.uint64)
        mixed = rows * np.uint64(_MIX_ROW) + times * np.uint64(_MIX_TIME)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(_BASE)
        powers = np.full(len(history), np.uint64(_BASE))
        powers[0] = 1
        powers = np.multiply.accumulate(powers)
        return int((mixed * powers[::-1]).sum(dtype=np.uint64))


class Ring(NamedTuple):
    """One array of a cache: its shape in one slot, and which axis is the window, if one is."""

    shape: tuple[int, ...]
    dtype: DTypeLike
    axis: int | None


def rings(shape: StateShape) -> list[Ring]:
    """Return the arrays of one layer: keys and values, each followed by its scales in int8.

    >>> [ring.shape for ring in rings(StateShape(1, 2, 32, 200, "int8"))]
    [(2, 32, 200), (2, 200), (2, 200, 32), (2, 200)]
    """
    heads, size, window = shape.num_heads, shape.head_size, shape.window
    dtype = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[shape.precision]
    keys, values = Ring((heads, size, window), dtype, 2), Ring((heads, window, size), dtype, 1)
    scales = Ring((heads, window), np.float32, 1)
    return [keys, scales, values, scales] if shape.precision == "int8" else [keys, values]


def arrays(shape: StateShape) -> list[Ring]:
    """Return all arrays of a cache: those of each layer, the columns, the carried vector.

    >>> [ring.shape for ring in arrays(StateShape(0, 1, 64, 50, columns=("rows",)))]
    [(50,)]
    """
    layers = shape.num_layers * rings(shape)
    columns = [Ring((shape.window,), np.int64, 0) for _ in shape.columns]
    return [*layers, *columns, *([Ring((shape.size,), np.float32, None)] if shape.size else [])]


def slot_bytes(shape: StateShape) -> int:
    """Return the bytes of one slot: 2 layers x D x W numbers, their scales, and its bookkeeping.

    >>> slot_bytes(StateShape(num_layers=2, num_heads=2, head_size=32, window=200))
    205089
    >>> slot_bytes(StateShape(2, 2, 32, 200, "fp16")), slot_bytes(StateShape(2, 2, 32, 200, "int8"))
    (102689, 57889)
    """
    cache = sum(math.prod(ring.shape) * np.dtype(ring.dtype).itemsize for ring in arrays(shape))
    return cache + shape.dim * 4 + 4 * 8 + 1


class StatePool:
    """Slots for as many users as fit in `max_bytes`; the least recently used one gives way.

    What the slots hold is `shared` with processes forked later, if so asked; who has which slot is
    not (see `ouzel.inference.shared`). `epoch_S` is odd while a slot is written and grows with
    every writing. Whoever reads a slot elsewhere sets `used_S`, so that it is not the next to go.
    """

    def __init__(self, shape: StateShape, *, max_bytes: int, shared: bool = False) -> None:
        self.num_slots = max_bytes // slot_bytes(shape)
        if self.num_slots < 1:
            raise ValueError(
                f"a state takes {slot_bytes(shape)} bytes, but the pool may use {max_bytes}; "
                f"give it at least {slot_bytes(shape)}"
            )
        self.shape = shape
        slots = self.num_slots
        zeros = partial(mapped_zeros, shared=shared)
        self._rings = arrays(shape)
        self.cache = [zeros((slots, *ring.shape), ring.dtype) for ring in self._rings]
        self.last_SD = zeros((slots, shape.dim), np.float32)
        self.last_time_S = zeros((slots,), np.int64)
        self.length_S = zeros((slots,), np.int64)
        self.hash_S = zeros((slots,), np.uint64)
        self.epoch_S = zeros((slots,), np.uint64)
        self.used_S = zeros((slots,), np.uint8)
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._free = list(range(slots - 1, -1, -1))
        self.evictions = 0

    def __contains__(self, user: int) -> bool:
        return user in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """Return the bytes of the states that are here."""
        return len(self._slots) * slot_bytes(self.shape)

    def users(self) -> list[int]:
        """Return the users whose state is here, the least recently used first."""
        return list(self._slots)

    def touch(self, user: int) -> int:
        """Return the slot of a user who is here, and mark it as just used."""
        self._slots.move_to_end(user)
        return self._slots[user]

    def slot(self, user: int) -> int:
        """Return the slot of a user who is here."""
        return self._slots[user]

    def hash(self, user: int) -> int:
        """Return the hash of the history that the user's state was made from."""
        return int(self.hash_S[self._slots[user]])

    def copied(self, user: int) -> StatePool:
        """Return a pool of one slot, number 0, with a copy of the user's state."""
        copy = StatePool(self.shape, max_bytes=slot_bytes(self.shape))
        copy.put(0, self, self._slots[user])
        return copy

    def put(self, slot: int, other: StatePool, its_slot: int) -> None:
        """Put a copy of a state of another pool of this shape into `slot`."""
        self.epoch_S[slot] += 1
        for ours, theirs in zip(self._columns(), other._columns(), strict=True):
            ours[slot] = theirs[its_slot]
        self.epoch_S[slot] += 1

    def _columns(self) -> list[Array]:
        """Return everything of the slots: slot s of all of them is one state."""
        return [*self.cache, self.last_SD, self.last_time_S, self.length_S, self.hash_S]

    def take(self, user: int, keep: frozenset[int] = frozenset()) -> tuple[int, int | None]:
        """Return a slot for a user who is not here, and who had to give way for it, if anyone.

        Nobody of `keep`, who are fewer than the slots, gives way.
        """
        evicted = None
        if not self._free:
            evicted, slot = self._oldest(keep)
            self._free.append(slot)
            self.evictions += 1
        slot = self._free.pop()
        self._slots[user] = slot
        return slot, evicted

    def _oldest(self, keep: frozenset[int]) -> tuple[int, int]:
        """Return who gives way, and the slot: the least recently used, here or elsewhere."""
        while True:
            user, slot = self._slots.popitem(last=False)
            if not self.used_S[slot] and user not in keep:
                return user, slot
            # To be kept, or used by another process since it was last here: a second chance.
            self.used_S[slot] = 0
            self._slots[user] = slot

    def release(self, user: int) -> None:
        """Forget the user's state, if there is one."""
        slot = self._slots.pop(user, None)
        if slot is not None:
            self._free.append(slot)

    def values(self, slot: int, layer: int, places: Array) -> tuple[Array, Array]:
        """Return a layer's values (H, n, E) at `places` of a ring, and by how much one may round.

        That step is an array that can be compared with the values.
        """
        count = len(rings(self.shape))
        of_layer = self.cache[layer * count : (layer + 1) * count]
        if self.shape.precision == "int8":
            scales_HN1 = of_layer[3][slot][:, places, None]
            return of_layer[2][slot][:, places] * scales_HN1, scales_HN1
        values = of_layer[1][slot][:, places]
        step = np.spacing(np.abs(values)) if self.shape.precision == "fp16" else 0.0
        return values.astype(np.float32), np.asarray(step, np.float32)

    def beyond_layers(self, slot: int, places: Array) -> list[Array]:
        """Return the columns at `places` of their rings, and the carried vector, as they are."""
        layers = self.shape.num_layers * len(rings(self.shape))
        rest = zip(self.cache[layers:], self._rings[layers:], strict=True)
        return [array[slot] if ring.axis is None else array[slot][places] for array, ring in rest]

    def write(
        self, slot: int, encoded: Sequence[Array], index: int, history: History, *, start: int
    ) -> None:
        """Put what `encode` gave for row `index` into `slot`.

        `history` is the user's whole history; its newest events, within the receptive field, are
        the ones that were encoded, and the first of them is number `start`. Their numbers decide
        the places in the ring.
        """
        length, window = min(len(history), self.shape.receptive_field), self.shape.window
        first = max(0, length - window)
        # Where the oldest of them lies in the ring; from there they go on up to its end, and then
        # from its beginning.
        place = (start + first) % window
        turn = min(length, first + window - place)
        self.epoch_S[slot] += 1
        read = history.last(length)
        made = self._all([array[index] for array in encoded[:-1]], read.rows, read.times_ms)
        for array, ring, rows in zip(self.cache, self._rings, made, strict=True):
            if ring.axis is None:
                array[slot] = rows
                continue
            places = _window_first(array[slot], ring.axis)
            places[place : place + turn - first] = rows[first:turn]
            places[: length - turn] = rows[turn:length]
        self.last_SD[slot] = encoded[-1][index]
        self.last_time_S[slot] = history.times_ms[-1]
        self.length_S[slot] = start + length
        self.hash_S[slot] = history_hash(history)
        self.epoch_S[slot] += 1

    def extend(
        self, slots_B: NDArray[np.int64], fresh: Sequence[Array], rows: Array, times_ms: Array
    ) -> None:
        """Put what `append` gave for new events into place; one event for each slot."""
        places_B = self.length_S[slots_B] % self.shape.window
        self.epoch_S[slots_B] += 1
        made = self._all(fresh[:-1], rows, times_ms)
        for array, ring, row in zip(self.cache, self._rings, made, strict=True):
            if ring.axis is None:
                array[slots_B] = row
            else:
                index: tuple[Any, ...] = (slots_B, *ring.axis * [slice(None)], places_B)
                array[index] = row
        self.last_SD[slots_B] = fresh[-1]
        self.last_time_S[slots_B] = times_ms
        self.length_S[slots_B] += 1
        for slot, row, time_ms in zip(
            slots_B.tolist(), rows.tolist(), times_ms.tolist(), strict=True
        ):
            self.hash_S[slot] = extend_hash(int(self.hash_S[slot]), row, time_ms)
        self.epoch_S[slots_B] += 1

    def _all(self, made: Sequence[Array], rows: Array, times_ms: Array) -> list[Array]:
        """Return what goes into the cache, in its order: what a graph made, and columns."""
        layers = self.shape.num_layers * len(rings(self.shape))
        columns = {"rows": rows, "times": times_ms}
        kept = [columns[name] for name in self.shape.columns]
        return [*made[:layers], *kept, *made[layers:]]


def _window_first(array: Array, axis: int) -> Array:
    """Return the same values with an axis before all others: what `np.moveaxis` does, sooner."""
    others = [number for number in range(array.ndim) if number != axis]
    return array.transpose(axis, *others)
