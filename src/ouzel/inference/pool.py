"""The pool of user states: arrays allocated once, slots handed out and taken back, oldest first.

A slot holds one user's rings of keys and values, the vector of the newest event, and what is
needed to check it: the number of events in it and a hash of them. The hash is a polynomial in the
mixed events modulo 2^64, so that an appended event extends it in one step and a whole history is
hashed in one vectorised pass.

Shape legend: S = slots, H = heads, E = head size, W = window, D = H E, L = length, n = events.
"""

from __future__ import annotations

import math
import mmap
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ouzel.events.interactions import History
from ouzel.inference.onnxruntime import StateShape

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


def slot_bytes(shape: StateShape) -> int:
    """Return the bytes of one slot: 2 layers x D x W numbers and its bookkeeping.

    >>> slot_bytes(StateShape(num_layers=2, num_heads=2, head_size=32, window=200))
    205080
    """
    ring = 2 * shape.num_layers * shape.dim * shape.window * 4
    return ring + shape.dim * 4 + 3 * 8


class StatePool:
    """Slots for as many users as fit in `max_bytes`; the least recently used one gives way.

    What the slots hold is `shared` with processes forked later, if so asked; who has which slot is
    not.
    """

    def __init__(self, shape: StateShape, *, max_bytes: int, shared: bool = False) -> None:
        self.num_slots = max_bytes // slot_bytes(shape)
        if self.num_slots < 1:
            raise ValueError(
                f"a state takes {slot_bytes(shape)} bytes, but the pool may use {max_bytes}; "
                f"give it at least {slot_bytes(shape)}"
            )
        self.shape = shape
        heads, size, window, slots = (
            shape.num_heads,
            shape.head_size,
            shape.window,
            self.num_slots,
        )
        ring_shapes = ((slots, heads, size, window), (slots, heads, window, size))
        zeros = _shared_zeros if shared else np.zeros
        self.cache = [
            zeros(ring_shape, np.float32)
            for _ in range(shape.num_layers)
            for ring_shape in ring_shapes
        ]
        self.last_SD = zeros((slots, shape.dim), np.float32)
        self.last_time_S = zeros((slots,), np.int64)
        self.length_S = zeros((slots,), np.int64)
        self.hash_S = zeros((slots,), np.uint64)
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
        for ours, theirs in zip(self._columns(), other._columns(), strict=True):
            ours[slot] = theirs[its_slot]

    def _columns(self) -> list[Array]:
        """Return everything of the slots: slot s of all of them is one state."""
        return [*self.cache, self.last_SD, self.last_time_S, self.length_S, self.hash_S]

    def take(self, user: int) -> tuple[int, int | None]:
        """Return a slot for a user who is not here, and who had to give way for it, if anyone."""
        evicted = None
        if not self._free:
            evicted, slot = self._slots.popitem(last=False)
            self._free.append(slot)
            self.evictions += 1
        slot = self._free.pop()
        self._slots[user] = slot
        return slot, evicted

    def release(self, user: int) -> None:
        """Forget the user's state, if there is one."""
        slot = self._slots.pop(user, None)
        if slot is not None:
            self._free.append(slot)

    def write(self, slot: int, encoded: Sequence[Array], index: int, history: History) -> None:
        """Put what `encode` gave for row `index` into `slot`.

        `history` is the user's whole history; its newest events, within the receptive field, are
        the ones that were encoded. Their count decides the places in the ring.
        """
        length = min(len(history), self.shape.receptive_field)
        kept = np.arange(max(0, length - self.shape.window), length)
        places = kept % self.shape.window
        for layer in range(self.shape.num_layers):
            key_LHE, value_LHE = encoded[2 * layer][index], encoded[2 * layer + 1][index]
            self.cache[2 * layer][slot][:, :, places] = key_LHE[kept].transpose(1, 2, 0)
            self.cache[2 * layer + 1][slot][:, places] = value_LHE[kept].transpose(1, 0, 2)
        self.last_SD[slot] = encoded[-1][index]
        self.last_time_S[slot] = history.times_ms[-1]
        self.length_S[slot] = length
        self.hash_S[slot] = history_hash(history)

    def extend(
        self, slots_B: NDArray[np.int64], fresh: Sequence[Array], rows: Array, times_ms: Array
    ) -> None:
        """Put the rows that `append` gave into their rings; one event for each slot."""
        places_B = self.length_S[slots_B] % self.shape.window
        for layer in range(self.shape.num_layers):
            self.cache[2 * layer][slots_B, :, :, places_B] = fresh[2 * layer]
            self.cache[2 * layer + 1][slots_B, :, places_B] = fresh[2 * layer + 1]
        self.last_SD[slots_B] = fresh[-1]
        self.last_time_S[slots_B] = times_ms
        self.length_S[slots_B] += 1
        for slot, row, time_ms in zip(
            slots_B.tolist(), rows.tolist(), times_ms.tolist(), strict=True
        ):
            self.hash_S[slot] = extend_hash(int(self.hash_S[slot]), row, time_ms)


def _shared_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array that this process and those forked from it both read and write."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)
