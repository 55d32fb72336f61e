"""How a state keeps keys and values: in float32, in float16, or in int8 with a scale per head.

A row is rounded once, when it is made, and everything that attends reads the rounded one, its own
event too. So encoding a whole history rounds what appending its events one by one has rounded, and
a state stays append-exact in every precision; what a precision costs is paid against float32.

An int8 row of a head is its 127th parts of the largest entry. The scale is not multiplied into the
cached rows but into what is read with them: one number a row instead of E.

Shape legend: B = batch, H = heads, E = head size, W = window (ring size), S = state slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from ouzel.features.states import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Every precision of states, the largest first."""

INT8_LEVELS = 127
SMALLEST_SCALE = 1e-20
"""Keeps a row of zeros from being divided by zero."""


class Rings(NamedTuple):
    """The cached rows of one layer as they are read: floats, still to be multiplied by scales."""

    keys: Tensor
    values: Tensor
    key_scales_BHW: Tensor | None = None
    value_scales_BHW: Tensor | None = None

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Return the keys (B, H, E, W) and values (B, H, W, E) themselves."""
        if self.key_scales_BHW is None or self.value_scales_BHW is None:
            return self.keys, self.values
        keys = self.keys * self.key_scales_BHW.unsqueeze(2)
        return keys, self.values * self.value_scales_BHW.unsqueeze(3)


def kept(row: Tensor, precision: Precision) -> tuple[Tensor, ...]:
    """Return what a ring keeps of keys or values (..., H, E): them, or int8 and scales (..., H).

    >>> rows, scales = kept(torch.tensor([[1.0, -254.0]]), "int8")
    >>> rows.tolist(), scales.tolist()
    ([[0, -127]], [2.0])
    """
    if precision == "fp32":
        return (row,)
    if precision == "fp16":
        return (row.to(torch.float16),)
    scale = (row.abs().amax(-1) / INT8_LEVELS).clamp(min=SMALLEST_SCALE)
    return torch.round(row / scale.unsqueeze(-1)).to(torch.int8), scale


def seen(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the keys or values that were kept as `parts`, in the type of `like`.

    >>> row = torch.tensor([[1.0, -254.0]])
    >>> seen(kept(row, "int8"), row).tolist()
    [[0.0, -254.0]]
    """
    row = parts[0].to(like.dtype)
    return row * parts[1].unsqueeze(-1) if len(parts) == 2 else row


def gathered(cache: Sequence[Tensor], slot_B: Tensor) -> Rings:
    """Return the rings of users in `slot_B` from the arrays of a layer, over all slots.

    Keys (S, H, E, W) and values (S, H, W, E); in int8, scales (S, H, W) come after each of them.

    >>> rings = gathered((torch.ones(3, 1, 2, 4), torch.ones(3, 1, 4, 2)), torch.tensor([2]))
    >>> rings.keys.shape, rings.key_scales_BHW is None
    (torch.Size([1, 1, 2, 4]), True)
    """
    if len(cache) == 4:
        keys, key_scales, values, value_scales = (array[slot_B] for array in cache)
        return Rings(_wide(keys), _wide(values), key_scales, value_scales)
    keys, values = (_wide(array[slot_B]) for array in cache)
    return Rings(keys, values)


def _wide(rows: Tensor) -> Tensor:
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.to(torch.float32)
