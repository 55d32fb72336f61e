"""DeepFM: weights of ids, all pairs of fields, and a deep part, added up.

    logit = w . x + h . sum_{i < j} v_i * v_j + deep(v_1, ..., v_F)

The sum over pairs is ((sum v)^2 - sum v^2) / 2 entry by entry; each action weighs its entries with
an h of its own, and with h = 1 it is the factorisation machine of the paper. All parts share the
vectors v, and no feature is crossed by hand.

Cost: F D X + (layers - 1) X^2 + 2 F D multiply-adds per candidate.

References:
    Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI
    2017. Rendle, "Factorization Machines", ICDM 2010. He and Chua, "Neural Factorization Machines",
    SIGIR 2017, for the weights h.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, Deep, DeepConfig, Layout, Wide

PRESETS = {"S": DeepConfig()}


class DeepFM(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "deepfm"
    about = About(
        paper="Guo et al., IJCAI 2017",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="the model of fields to begin with: ids, pairs of fields and a deep part at once",
    )
    presets = PRESETS
    config: DeepConfig

    def __init__(self, config: DeepConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        self.wide = Wide(layout, len(actions))
        self.pairs = nn.Parameter(torch.ones(config.dim, len(actions)))
        self.deep = Deep(layout, config, len(actions))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        pairs_BKD = (fields_BKFD.sum(2).square() - fields_BKFD.square().sum(2)) / 2
        pairs = torch.matmul(pairs_BKD, self.pairs)
        logits: Tensor = self.wide(requests_BS, items_BKS) + pairs + self.deep(fields_BKFD)
        return logits
