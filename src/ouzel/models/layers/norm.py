"""Normalisation by the root mean square, in the steps that ONNX Runtime fuses into one.

PyTorch's own module is exported with a reciprocal, which no fusion knows: seven small operations
then take the place of one, three times in every graph.

References:
    Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.

Shape legend: D = size of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Vectors (..., D) over their root mean square, times a learned weight (D,).

    >>> RMSNorm(2)(torch.tensor([3.0, -3.0])).round(decimals=4).tolist()
    [1.0, -1.0]
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised vectors (..., D)."""
        size = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)
        return x / size * self.weight
