"""The newest events of a history, for models that encode them again with every event.

Shape legend: B = batch, L = length, D = vector size, W = window.
"""

from __future__ import annotations

import torch
from torch import Tensor


def each_window(x_BLD: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return for each event the `window` newest up to it (B L, W, D), and how many (B L,).

    Where there are fewer the rest is zero.

    >>> windows, count = each_window(torch.tensor([[[1.0], [2.0], [3.0]]]), 2)
    >>> windows.squeeze(-1).tolist(), count.tolist()
    ([[1.0, 0.0], [1.0, 2.0], [2.0, 3.0]], [1, 2, 2])
    """
    batch, length, dim = x_BLD.shape
    end_L = torch.arange(length, device=x_BLD.device)
    count_L = (end_L + 1).clamp(max=window)
    place_W = torch.arange(window, device=x_BLD.device)
    index_LW = (end_L - count_L + 1).unsqueeze(1) + place_W
    real_LW = place_W < count_L.unsqueeze(1)
    read = x_BLD[:, index_LW.clamp(max=length - 1)]
    read = read * real_LW.unsqueeze(-1)
    return read.reshape(batch * length, window, dim), count_L.repeat(batch)


def window_after(rows_BW: Tensor, row_B: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the newest W rows with `row_B` after them (B, W), 0 at the end, and how many (B,).

    `rows_BW` are rings in which event p lies at p modulo W; `length_B` events are in.

    >>> rows, count = window_after(torch.tensor([[4, 5, 3]]), torch.tensor([6]), torch.tensor([5]))
    >>> rows.tolist(), count.tolist()  # the ring holds 3, 4, 5
    ([[4, 5, 6]], [3])
    """
    window = rows_BW.shape[1]
    count_B = (length_B + 1).clamp(max=window)
    place_W = torch.arange(window, device=rows_BW.device)
    event_BW = (length_B + 1 - count_B).unsqueeze(1) + place_W
    rows = rows_BW.gather(1, event_BW % window)
    rows = torch.where(event_BW == length_B.unsqueeze(1), row_B.unsqueeze(1), rows)
    return rows * (place_W < count_B.unsqueeze(1)), count_B


def newest(x_BLD: Tensor, length_B: Tensor) -> Tensor:
    """Return what is at the last of `length_B` places (B, D).

    >>> newest(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([2])).tolist()
    [[2.0]]
    """
    index = (length_B - 1).view(-1, 1, 1).expand(-1, 1, x_BLD.shape[-1])
    return x_BLD.gather(1, index).squeeze(1)
