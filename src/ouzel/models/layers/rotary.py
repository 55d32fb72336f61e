"""Rotary angles for order and for time: attention that depends on i - j and on t_i - t_j only.

A pair of channels turned by an angle a_i on the query side and a_j on the key side contributes
through cos(a_i - a_j). Half of the pairs turn with the position in the history, half with the
clock, so a cached key never changes when events follow it: append-exactness by construction.

Positions turn by whole multiples of 2 pi / POSITION_PERIOD. The angle of a position is then
periodic, a state may count for ever, and the table of angles stays exact in float32.

References:
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.

Shape legend: B = batch, L = length, H = heads, P = channel pairs of one head (head size / 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

POSITION_PERIOD = 2048
SHORTEST_PERIOD_MS = 4 * 60 * 1000
LONGEST_PERIOD_MS = 4 * 365 * 24 * 3600 * 1000


def position_frequencies(num_pairs: int) -> Tensor:
    """Return (P,) radians per position: whole multiples of 2 pi / POSITION_PERIOD.

    >>> turns = position_frequencies(2) * POSITION_PERIOD / (2 * math.pi)
    >>> turns.round().tolist()
    [326.0, 1.0]
    """
    fastest = POSITION_PERIOD / (2 * math.pi)
    ratio = torch.linspace(0, 1, num_pairs, dtype=torch.float64)
    multiples = torch.round(fastest ** (1 - ratio))
    return (multiples * (2 * math.pi / POSITION_PERIOD)).float()


def time_periods_ms(num_pairs: int) -> Tensor:
    """Return (P,) int64 periods in ms, from four minutes to four years in equal ratios.

    >>> time_periods_ms(2).tolist() == [SHORTEST_PERIOD_MS, LONGEST_PERIOD_MS]
    True
    """
    ratio = torch.linspace(0, 1, num_pairs, dtype=torch.float64)
    periods = SHORTEST_PERIOD_MS * (LONGEST_PERIOD_MS / SHORTEST_PERIOD_MS) ** ratio
    return periods.round().to(torch.int64)


class Rotary(nn.Module):
    """Gives cosine and sine of the angles of a position and, if `timed`, of a clock time."""

    frequencies: Tensor
    periods_ms: Tensor

    def __init__(self, head_size: int, *, timed: bool) -> None:
        super().__init__()
        num_pairs = head_size // 2
        num_time = num_pairs // 2 if timed else 0
        frequencies = position_frequencies(num_pairs - num_time)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("periods_ms", time_periods_ms(num_time), persistent=False)
        self.timed = timed

    def forward(self, positions: Tensor, times_ms: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin, each (..., P), for int64 positions and times of one shape."""
        wrapped = (positions % POSITION_PERIOD).to(torch.float32)
        angles = wrapped.unsqueeze(-1) * self.frequencies
        if self.timed:
            phase = (times_ms.unsqueeze(-1) % self.periods_ms).to(torch.float32)
            turns = phase / self.periods_ms.to(torch.float32)
            angles = torch.cat([angles, turns * (2 * math.pi)], dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x` (..., 2P) with channel pair p, that is (p, P + p), turned by its angle.

    >>> cos, sin = torch.tensor(0.0), torch.tensor(1.0)  # a quarter of a turn
    >>> rotate(torch.tensor([1.0, 0.0]), cos, sin).tolist()
    [0.0, 1.0]
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
