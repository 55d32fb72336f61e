"""DCN-v2: layers that cross all entries with all, beside a deep part.

    x_{l + 1} = x_0 * (W_l x_l + b_l) + x_l,    logit = h . [x_last, deep(x_0)]

with x_0 the vectors of all fields side by side: after l layers there are products of up to l + 1
entries, each with a weight of its own. With `rank` W is a product of two narrow matrices, which
costs a fraction and loses little.

Cost: crosses x 2 F D rank + F D X + (layers - 1) X^2 multiply-adds per candidate.

References:
    Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
    Learning to Rank Systems", WWW 2021; this is its parallel form.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, DeepConfig, Layout, check_sizes, tower


@dataclass(frozen=True, kw_only=True)
class DeepCrossConfig(DeepConfig):
    """The shape of the model; every field changes what is computed."""

    num_crosses: int = 3
    """How many layers cross."""
    rank: int = 32
    """Width of the narrow side of their weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(num_crosses=self.num_crosses, rank=self.rank)


PRESETS = {"S": DeepCrossConfig()}


class DeepCross(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "deep_cross"
    about = About(
        paper="Wang et al., WWW 2021",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="where three and more fields together decide",
    )
    presets = PRESETS
    config: DeepCrossConfig

    def __init__(self, config: DeepCrossConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        size = layout.num_fields * config.dim
        self.crosses = nn.ModuleList(
            nn.Sequential(nn.Linear(size, config.rank, bias=False), nn.Linear(config.rank, size))
            for _ in range(config.num_crosses)
        )
        self.tower = tower(size, config)
        self.head = nn.Linear(size + config.hidden, len(actions))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        first = crossed = fields_BKFD.flatten(2)
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        logits: Tensor = self.head(torch.cat([crossed, self.tower(first)], dim=-1))
        return logits
