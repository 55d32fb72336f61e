"""Wide & Deep: what is known by heart and what generalises, added up.

    logit = w . x + deep(v_1, ..., v_F)

The wide part has a weight for each id, of which the frequent ones are learnt by heart; the deep
part works on vectors, and so says something about combinations that never occurred. Both are
trained together.

Cost: F D X + (layers - 1) X^2 multiply-adds per candidate.

References:
    Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016. The crossed columns of
    the paper's wide part were chosen by hand; here it has the ids alone.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden.
"""

from __future__ import annotations

from torch import Tensor

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, Deep, DeepConfig, Layout, Wide

PRESETS = {"S": DeepConfig()}


class WideDeep(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "wide_deep"
    about = About(
        paper="Cheng et al., DLRS 2016",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="where single ids say much and pairs of them little",
    )
    presets = PRESETS
    config: DeepConfig

    def __init__(self, config: DeepConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        self.wide = Wide(layout, len(actions))
        self.deep = Deep(layout, config, len(actions))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        logits: Tensor = self.wide(requests_BS, items_BKS) + self.deep(fields_BKFD)
        return logits
