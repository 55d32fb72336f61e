"""The gated transformer block (LiGR) with its attention left to the caller.

    x <- x + dropout(out(attention)) * sigmoid(gate1(x))
    x <- x + dropout(SwiGLU(norm2(x))) * sigmoid(gate2(x))

How keys reach the block differs between training (all positions at once), appending (one new
position against a cache) and asking (one request against a cache), so the block offers its parts:
`project` before the attention and `finish` after it.

Cost per position: 18 D^2 multiply-adds at `expansion` 4, plus 2 n D for n keys.

References:
    Borisyuk et al., "From Features to Transformers: Redefining Ranking for Scalable Impact"
    (LiGR), 2025. Shazeer, "GLU Variants Improve Transformer", 2020.

Shape legend: B = batch, L = length, D = model size, H = heads, E = head size (D / H).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouzel.models.layers.norm import RMSNorm


class GatedBlock(nn.Module):
    """One gated pre-norm block over vectors (..., D)."""

    def __init__(self, dim: int, num_heads: int, *, expansion: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_size = dim // num_heads
        self.attention_norm = RMSNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.attention_gate = nn.Linear(dim, dim)
        self.forward_norm = RMSNorm(dim)
        self.forward_gate = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, 2 * expansion * dim, bias=False)
        self.contract = nn.Linear(expansion * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def project_query(self, x: Tensor) -> Tensor:
        """Return the attention queries (..., H, E) of `x` (..., D)."""
        query: Tensor = self.query(self.attention_norm(x))
        return query.view(*x.shape[:-1], self.num_heads, self.head_size)

    def project_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention keys and values, each (..., H, E), of `x` (..., D)."""
        both: Tensor = self.key_value(self.attention_norm(x))
        key, value = both.chunk(2, dim=-1)
        shape = (*x.shape[:-1], self.num_heads, self.head_size)
        return key.reshape(shape), value.reshape(shape)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output (..., D) for its input and what attention read (..., H, E)."""
        attention = self.dropout(self.out(attended.flatten(-2)))
        x = x + attention * torch.sigmoid(self.attention_gate(x))
        gate, value = self.expand(self.forward_norm(x)).chunk(2, dim=-1)
        forward = self.dropout(self.contract(functional.silu(gate) * value))
        x = x + forward * torch.sigmoid(self.forward_gate(x))
        return x
