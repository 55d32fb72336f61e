"""The plain transformer block, normalised before its parts or after them.

    before:  x <- x + dropout(attention(norm1(x)));  x <- x + dropout(forward(norm2(x)))
    after:   x <- norm1(x + dropout(attention(x)));  x <- norm2(x + dropout(forward(x)))

Cost per position: (4 + 2 expansion) D^2 multiply-adds and 2 n D for n keys.

References:
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017. Xiong et al., "On Layer
    Normalization in the Transformer Architecture", ICML 2020, for the two places.

Shape legend: B = batch, L = length, D = model size, H = heads, E = head size (D / H).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query, key, value), each (B, L, H, E) -> what each position reads (B, L, H, E)."""


class TransformerBlock(nn.Module):
    """One block over vectors (B, L, D); its attention comes from the caller."""

    def __init__(
        self, dim: int, num_heads: int, *, expansion: int, dropout: float,
        norm: Literal["before", "after"],
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_heads = num_heads
        self.norm_first = norm == "before"
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.contract = nn.Linear(expansion * dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Attention) -> Tensor:
        """Return the block's output (B, L, D)."""
        if self.norm_first:
            x = x + self._attention(self.attention_norm(x), attend)
            return x + self._forward(self.forward_norm(x))
        x = self.attention_norm(x + self._attention(x, attend))
        y: Tensor = self.forward_norm(x + self._forward(x))
        return y

    def _attention(self, x: Tensor, attend: Attention) -> Tensor:
        size = x.shape[-1] // self.num_heads
        parts = self.query_key_value(x).unflatten(-1, (3, self.num_heads, size)).unbind(-3)
        read: Tensor = self.dropout(self.out(attend(*parts).flatten(-2)))
        return read

    def _forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.contract(functional.gelu(self.expand(x))))
        return y
