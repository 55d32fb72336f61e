"""NeuMF: the product of a user's and an item's vector, beside hidden layers over both.

    logit = h . [u * v, deep(u', v')]

u and v are the first halves of what the request and the item come to, the sums of their fields'
vectors (the history is one of the request's), u' and v' the second halves: the two parts are
trained together and share no vector. The first alone is generalised matrix factorisation, with h
all ones plain matrix factorisation; the second alone is the neural part of NCF.

Cost: D X + (layers - 1) X^2 + D / 2 multiply-adds per candidate.

References:
    He et al., "Neural Collaborative Filtering", WWW 2017. Rendle et al., "Neural Collaborative
    Filtering vs. Matrix Factorization Revisited", RecSys 2020: the product does most of the work.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, DeepConfig, Layout, Wide, tower


@dataclass(frozen=True, kw_only=True)
class NeuMFConfig(DeepConfig):
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of a field's vector, half of it for each part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}: give an even number, half for each part")


PRESETS = {"S": NeuMFConfig()}


class NeuMF(CTRModel):
    """The model over users and items; the module's docstring says how it works."""

    name = "neumf"
    about = About(
        paper="He et al., WWW 2017",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="where little is known but who and what",
    )
    presets = PRESETS
    config: NeuMFConfig

    def __init__(self, config: NeuMFConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        self.asked = layout.num_fields - len(layout.item)
        self.wide = Wide(layout, len(actions))
        self.tower = tower(config.dim, config)
        self.head = nn.Linear(config.dim // 2 + config.hidden, len(actions))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        user_BKD, item_BKD = (part.sum(2) for part in fields_BKFD.tensor_split([self.asked], dim=2))
        user, user_deep = user_BKD.chunk(2, dim=-1)
        item, item_deep = item_BKD.chunk(2, dim=-1)
        deep = self.tower(torch.cat([user_deep, item_deep], dim=-1))
        known: Tensor = self.wide(requests_BS, items_BKS)
        logits: Tensor = known + self.head(torch.cat([user * item, deep], dim=-1))
        return logits
