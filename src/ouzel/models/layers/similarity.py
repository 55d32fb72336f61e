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
