"""The peer's model: a causal transformer of the same size, re-run over the history per request.

Shape legend: B = batch, L = history length, D = dim, N = catalogue rows (row 0 is padding).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_inner = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.inner = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, x_BLD: Tensor, *, last_only: bool) -> Tensor:
        """Return (B, L, D), or (B, 1, D) where only the newest position is wanted."""
        normed = self.norm_attention(x_BLD)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        asked = normed[:, -1:] if last_only else normed
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(asked)),
            self._heads(key),
            self._heads(value),
            is_causal=not last_only,
        )
        kept = x_BLD[:, -1:] if last_only else x_BLD
        x = kept + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.inner(self.norm_inner(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """History rows (B, L) to user vectors (B, D); the last block computes one position only."""

    def __init__(
        self, vectors_ND: Tensor, *, num_layers: int = 2, num_heads: int = 2, length: int = 200
    ) -> None:
        super().__init__()
        dim = vectors_ND.shape[1]
        self.length = length
        self.items = nn.Embedding.from_pretrained(vectors_ND)
        self.positions = nn.Parameter(0.02 * torch.randn(length, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, rows_BL: Tensor) -> Tensor:
        """Return one vector per history; all histories of a batch have the same length."""
        x = self.items(rows_BL) + self.positions[: rows_BL.shape[1]]
        for index, block in enumerate(self.blocks):
            x = block(x, last_only=index == len(self.blocks) - 1)
        return self.norm(x[:, -1])


class Recommender:
    """Encode, score the whole catalogue, drop what was seen, take the top k."""

    def __init__(self, vectors_ND: Tensor, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.encoder = Encoder(vectors_ND).eval()
        self.vectors_DN = vectors_ND.T.contiguous()

    @torch.inference_mode()
    def top(self, histories: list[Tensor], k: int) -> tuple[list[list[int]], list[list[float]]]:
        """Return rows and scores of the best `k` items for histories of one length."""
        window = self.encoder.length
        vectors_BD = self.encoder(torch.stack([rows[-window:] for rows in histories]))
        scores_BN = vectors_BD @ self.vectors_DN
        scores_BN[:, 0] = -torch.inf
        for scores_N, rows in zip(scores_BN, histories, strict=True):
            scores_N[rows] = -torch.inf
        best = scores_BN.topk(k, dim=1)
        return best.indices.tolist(), best.values.tolist()
