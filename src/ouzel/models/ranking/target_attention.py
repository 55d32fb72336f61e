"""Target attention: candidates read the user's cached state and are scored for several actions.

Every candidate asks the keys and values that a sequence model keeps for the user a question of its
own, at the time of the request: which of these events speak for me? What it reads, the user
vector and the candidate meet in one gated layer, whose result corrects the retrieval score. The
last layer starts at zero, so an untrained ranker keeps the order of retrieval.

Candidates see the state and not each other, and are never written to it: the state stays
append-exact, and a score does not depend on which other candidates it rode with. There is no self
column either. All that depends on an item alone is one line of a table that is computed once, so
that a request does no matrix product with the candidates' own vectors.

Cost: 2 n D + 2 D X + X multiply-adds per candidate, for n events in the state and X = hidden.

References:
    Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018. Zhai et al.,
    "Actions Speak Louder than Words" (HSTU; M-FALCON scores many candidates against one cached
    state), ICML 2024. Dauphin et al., "Language Modeling with Gated Convolutional Networks", ICML
    2017, for the gated layer.

Shape legend: B = batch, K = candidates, A = actions, D = dim, H = heads, E = D / H, W = places of a
state, S = state slots, N = catalogue rows, X = hidden, F = D + 2 X + A, a line of the item table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouzel.models.layers.rotary import POSITION_PERIOD, Rotary, rotate
from ouzel.models.protocols import Ranker, SequenceConfig


@dataclass(frozen=True, kw_only=True)
class TargetAttentionConfig:
    """The shape of the ranker; `dim`, `num_heads` and `timed` are those of the states it reads."""

    actions: tuple[str, ...]
    """What is predicted, one logit each."""
    dim: int = 64
    """Size D of user and item vectors."""
    num_heads: int = 2
    """Attention heads of the state."""
    timed: bool = True
    """Whether the keys of the state were turned by the time of their events."""
    hidden: int = 64
    """Width X of the gated layer."""
    dropout: float = 0.1
    """Dropout on the gated layer, in training."""

    def __post_init__(self) -> None:
        if not self.actions or len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions are {self.actions}: give at least one, each once")
        if self.dim % (4 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} must be a multiple of 4 x num_heads ({self.num_heads})"
            )
        if self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}: give 1 or more")


class TargetAttention(Ranker):
    """The ranker over catalogue rows; the module's docstring says how it works."""

    name = "target_attention"
    config: TargetAttentionConfig

    def __init__(self, config: TargetAttentionConfig, num_rows: int) -> None:
        super().__init__()
        self.config = config
        dim, hidden, num_actions = config.dim, config.hidden, len(config.actions)
        self.rotary = Rotary(dim // config.num_heads, timed=config.timed)
        self.item_parts = nn.Linear(dim, dim + 2 * hidden + num_actions)
        self.own_parts = nn.Embedding(num_rows, dim + 2 * hidden + num_actions)
        nn.init.zeros_(self.own_parts.weight)
        self.user_part = nn.Linear(dim, 2 * hidden, bias=False)
        self.read_part = nn.Linear(dim, 2 * hidden, bias=False)
        self.score_part = nn.Linear(1, 2 * hidden, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(hidden, num_actions, bias=False)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.item_parts.weight[dim + 2 * hidden :] = 0
            self.item_parts.bias[dim + 2 * hidden :] = 0
        self.trust = nn.Parameter(torch.ones(num_actions))

    @classmethod
    def build(cls, states: SequenceConfig, actions: tuple[str, ...], num_rows: int) -> Self:
        """Return an untrained ranker for the states of a sequence model."""
        config = TargetAttentionConfig(
            actions=actions, dim=states.dim, num_heads=states.num_heads, timed=states.timed
        )
        return cls(config, num_rows)

    def item_lines(self, rows_M: Tensor, vectors_MD: Tensor) -> Tensor:
        """Return what depends on an item alone (M, F): its question, its parts of the layers."""
        lines: Tensor = self.item_parts(vectors_MD) + self.own_parts(rows_M)
        return lines

    def kernel_weights(self) -> dict[str, Tensor]:
        """Return what `ouzel.inference.target_attention` needs; see `Ranker.kernel_weights`."""
        return {
            "user_part": self.user_part.weight.detach(),
            "read_part": self.read_part.weight.detach(),
            "score_part": self.score_part.weight.detach(),
            "out": self.out.weight.detach(),
            "trust": self.trust.detach(),
            "frequencies": self.rotary.frequencies,
            "periods_ms": self.rotary.periods_ms,
            "position_period": torch.tensor([POSITION_PERIOD]),
        }

    def forward(
        self,
        query_BD: Tensor,
        now_B: Tensor,
        length_B: Tensor,
        vectors_BKD: Tensor,
        items_BKF: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Return the logits (B, K, A); see `Ranker.forward`."""
        dim, hidden = self.config.dim, self.config.hidden
        question, own, bias = torch.tensor_split(items_BKF, [dim, dim + 2 * hidden], dim=-1)
        score_BK1 = torch.matmul(vectors_BKD, query_BD.unsqueeze(-1))
        read = self._attend(question, now_B, length_B, keys, values)
        size = query_BD.norm(dim=-1, keepdim=True).unsqueeze(1)
        user = self.user_part(query_BD.unsqueeze(1) / size)
        joined = own + user + self.score_part(score_BK1 / size) + self.read_part(read)
        gate, value = joined.chunk(2, dim=-1)
        correction = self.out(self.dropout(functional.silu(gate) * value))
        logits: Tensor = score_BK1 * self.trust + correction + bias
        return logits

    def _attend(
        self, question_BKD: Tensor, now_B: Tensor, length_B: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return what each candidate reads from its user's state (B, K, D)."""
        batch, candidates, dim = question_BKD.shape
        heads = self.config.num_heads
        question = question_BKD.view(batch, candidates, heads, dim // heads)
        cos, sin = self.rotary(length_B - 1, now_B)
        # The scale of the dot product rides on the few angles, not on all candidates.
        scale = 1 / math.sqrt(dim // heads)
        angles = (cos[:, None, None] * scale, sin[:, None, None] * scale)
        logits = torch.matmul(rotate(question, *angles).transpose(1, 2), keys)
        hidden = torch.arange(keys.shape[3], device=keys.device) >= length_B.unsqueeze(1)
        unseen = torch.zeros_like(hidden, dtype=logits.dtype).masked_fill(hidden, -torch.inf)
        read = torch.matmul((logits + unseen[:, None, None]).softmax(-1), values)
        return read.transpose(1, 2).reshape(batch, candidates, dim)
