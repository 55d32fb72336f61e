"""The two sides of a score: the inner product of vectors, free or of unit length.

With a temperature t the score is cos(user, item) / t, as HSTU trains it: item vectors have length
1 and user vectors 1 / t. With None both are as they come, as in SASRec and GRU4Rec.

References:
    Zhai et al., "Actions Speak Louder than Words", ICML 2024 (temperature 0.05).

Shape legend: D = vector size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def check_temperature(temperature: float | None) -> None:
    """Return nothing if scores may be divided by this.

    Raises:
        ValueError: they may not.

    >>> check_temperature(0.0)
    Traceback (most recent call last):
    ...
    ValueError: temperature is 0.0: give more than 0, such as 0.05
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}: give more than 0, such as 0.05")


def user_side(vector: Tensor, temperature: float | None) -> Tensor:
    """Return user vectors (..., D) whose inner products with the item side are scores.

    >>> import torch
    >>> user_side(torch.tensor([0.0, 4.0]), 0.5).tolist()
    [0.0, 2.0]
    """
    if temperature is None:
        return vector
    return functional.normalize(vector, dim=-1) / temperature


def item_side(vectors: Tensor, temperature: float | None) -> Tensor:
    """Return item vectors (..., D) whose inner products with the user side are scores.

    >>> import torch
    >>> item_side(torch.tensor([0.0, 4.0]), 0.5).tolist()
    [0.0, 1.0]
    """
    return vectors if temperature is None else functional.normalize(vectors, dim=-1)
