"""FinalMLP: two perceptrons that look at the same fields through gates of their own.

    x_s = x * 2 sigmoid(gate_s),    o_s = deep_s(x_s),
    logit = w_1 . o_1 + w_2 . o_2 + sum over heads of o_1^T W o_2

One stream's gate reads the fields of the request, the other's those of the item, so that the
streams come to see different things; the bilinear product puts their outputs together head by head.

Cost: 2 (F D X + (layers - 1) X^2) + X^2 / heads + 2 F D X multiply-adds per candidate.

References:
    Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden, H = heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, DeepConfig, Layout, check_sizes, tower


@dataclass(frozen=True, kw_only=True)
class FinalMLPConfig(DeepConfig):
    """The shape of the model; every field changes what is computed."""

    num_heads: int = 8
    """Heads H of the bilinear product."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(num_heads=self.num_heads)
        if self.hidden % self.num_heads:
            raise ValueError(
                f"hidden {self.hidden} must be a multiple of num_heads ({self.num_heads})"
            )


PRESETS = {"S": FinalMLPConfig()}


class FinalMLP(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "final_mlp"
    about = About(
        paper="Mao et al., AAAI 2023",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="many fields on both sides, and time for two streams",
    )
    presets = PRESETS
    config: FinalMLPConfig

    def __init__(self, config: FinalMLPConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        size, dim = layout.num_fields * config.dim, config.dim
        self.asked = layout.num_fields - len(layout.item)
        self.gates = nn.ModuleList(
            _gate(inputs * dim, config.hidden, size) for inputs in (self.asked, len(layout.item))
        )
        self.towers = nn.ModuleList(tower(size, config) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(config.hidden, len(actions)) for _ in range(2))
        part = config.hidden // config.num_heads
        self.bilinear = nn.Parameter(torch.zeros(len(actions), config.num_heads, part, part))
        nn.init.xavier_uniform_(self.bilinear)

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        flat = fields_BKFD.flatten(2)
        sides = fields_BKFD.tensor_split([self.asked], dim=2)
        streams = [
            deep(2 * torch.sigmoid(gate(side.flatten(2))) * flat)
            for gate, side, deep in zip(self.gates, sides, self.towers, strict=True)
        ]
        one, other = (
            stream.unflatten(-1, (self.config.num_heads, -1)).unsqueeze(2) for stream in streams
        )
        # (B, K, 1, H, P) through (A, H, P, P): the product head by head, for each action.
        through = torch.matmul(one.unsqueeze(-2), self.bilinear).squeeze(-2)
        fused: Tensor = (through * other).sum((-1, -2))
        first, second = (out(stream) for out, stream in zip(self.heads, streams, strict=True))
        logits: Tensor = fused + first + second
        return logits


def _gate(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
