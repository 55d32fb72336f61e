"""Causal attention in the two forms a streaming model needs: over a window, over a cache.

Both use softmax of q.k / sqrt(E) per row, a constant normaliser in the sense that a row's result
depends on its own keys only, so computing rows together or one by one gives the same answer.

Shape legend: B = batch, L = length, H = heads, E = head size, W = window (ring size).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ouzel.models.layers.precision import Rings


class Headed(Protocol):
    """The config of a model of blocks with attention heads."""

    @property
    def dim(self) -> int:
        """Return D."""
        ...

    @property
    def num_heads(self) -> int:
        """Return H."""
        ...

    @property
    def num_layers(self) -> int:
        """Return the number of blocks."""
        ...

    @property
    def window(self) -> int:
        """Return W."""
        ...


def check_heads(config: Headed) -> None:
    """Return nothing if such blocks can be built.

    Raises:
        ValueError: they cannot.

    >>> from types import SimpleNamespace
    >>> odd = SimpleNamespace(dim=5, num_heads=2, num_layers=1, window=9)
    >>> check_heads(odd)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: dim 5, num_heads 2, num_layers 1, window 9 must be at least 1 and dim a multiple ...
    """
    sizes = {name: getattr(config, name) for name in ("dim", "num_heads", "num_layers", "window")}
    if min(sizes.values()) < 1 or config.dim % config.num_heads:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{told} must be at least 1 and dim a multiple of num_heads")


def attend_window(query: Tensor, key: Tensor, value: Tensor, *, window: int | None) -> Tensor:
    """Return (B, L, H, E): each position reads itself and the `window - 1` positions before it.

    With `window` None every earlier position is read (no mask is built: faster).

    >>> same = torch.zeros(1, 3, 1, 1)
    >>> value = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    >>> attend_window(same, same, value, window=2).flatten().tolist()
    [1.0, 2.0, 4.0]
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if window is None:
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    else:
        position = torch.arange(query.shape[2], device=query.device)
        distance = position.unsqueeze(1) - position.unsqueeze(0)
        hidden = (distance < 0) | (distance >= window)
        # Written out, since the exporter guards its own form against rows that see nothing, which
        # costs a fifth of an encode; here every position sees itself.
        logits = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.shape[-1])
        logits = logits + torch.zeros_like(distance, dtype=query.dtype).masked_fill(
            hidden, -torch.inf
        )
        attended = torch.matmul(logits.softmax(-1), value)
    return attended.transpose(1, 2)


def attend_cached(
    query: Tensor, rings: Rings, length_B: Tensor, *, own: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Return (B, H, E): one query (B, H, E) per row reads its ring of cached keys and values.

    Keys (B, H, E, W) and values (B, H, W, E) are rings in which event p lies at p modulo W;
    `length_B` events are in. With `own`, the key and value (B, H, E) of a new event that is not
    in the ring yet, the event it will push out is already out of sight.

    >>> query, keys = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 4)
    >>> values = torch.tensor([1.0, 3.0, 9.0, 9.0]).view(1, 1, 4, 1)
    >>> attend_cached(query, Rings(keys, values), torch.tensor([2]), own=None).item()  # two are in
    2.0
    """
    ring = rings.keys.shape[3]
    place = torch.arange(ring, device=query.device)
    hidden = place >= length_B.unsqueeze(1)
    logits = torch.matmul(query.unsqueeze(2), rings.keys).squeeze(2) / math.sqrt(query.shape[-1])
    if rings.key_scales_BHW is not None:
        logits = logits * rings.key_scales_BHW
    if own is None:
        logits = logits.masked_fill(hidden.unsqueeze(1), -torch.inf)
        return _read(logits.softmax(-1), rings)
    hidden = hidden | (place == (length_B % ring).unsqueeze(1))
    logits = logits.masked_fill(hidden.unsqueeze(1), -torch.inf)
    own_logit = (query * own[0]).sum(-1, keepdim=True) / math.sqrt(query.shape[-1])
    weights = torch.cat([logits, own_logit], dim=-1).softmax(-1)
    return _read(weights[..., :-1], rings) + weights[..., -1:] * own[1]


def _read(weights_BHW: Tensor, rings: Rings) -> Tensor:
    if rings.value_scales_BHW is not None:
        weights_BHW = weights_BHW * rings.value_scales_BHW
    return torch.matmul(weights_BHW.unsqueeze(2), rings.values).squeeze(2)


def attend_real(query: Tensor, key: Tensor, value: Tensor, length_B: Tensor) -> Tensor:
    """Return (B, L, H, E): each position reads the first `length_B` positions, later ones too.

    >>> same = torch.zeros(1, 3, 1, 1)
    >>> value = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    >>> attend_real(same, same, value, torch.tensor([2])).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    hidden = torch.arange(key.shape[2], device=key.device) >= length_B.unsqueeze(1)
    unseen = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, -torch.inf)
    logits = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.shape[-1])
    weights = (logits + unseen[:, None, None]).softmax(-1)
    return torch.matmul(weights, value).transpose(1, 2)
