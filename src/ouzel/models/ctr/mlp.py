"""A multilayer perceptron over field vectors: embedding, ReLU, ReLU, sigmoid.

The vectors of all fields, side by side, go through two hidden layers; the logit of each action is
one weighted sum of the last. What two fields mean together the layers have to find by themselves.

Cost: F D X + (layers - 1) X^2 + X A multiply-adds per candidate.

References:
    Zhang, Du and Wang, "Deep Learning over Multi-field Categorical Data", ECIR 2016. Covington,
    Adams and Sargin, "Deep Neural Networks for YouTube Recommendations", RecSys 2016.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places, D = vector size,
X = hidden.
"""

from __future__ import annotations

from torch import Tensor

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, Deep, DeepConfig, Layout

PRESETS = {"S": DeepConfig()}


class MLP(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "mlp"
    about = About(
        paper="Zhang, Du and Wang, ECIR 2016",
        cost="minutes on a million events; a request scores its candidates in one pass",
        use="the plain yardstick of the models of fields",
    )
    presets = PRESETS
    config: DeepConfig

    def __init__(self, config: DeepConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        self.deep = Deep(layout, config, len(actions))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        logits: Tensor = self.deep(fields_BKFD)
        return logits
