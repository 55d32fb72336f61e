"""DIN: each candidate asks the history which of its items speak for it.

    read(c) = sum_i a(e_i, c) e_i,    a(e, c) = w . relu(W [e, c, e - c, e * c])

The weights a are not normalised, so that a strong interest stays strong; what is read is one more
field beside the others, then hidden layers as in the MLP.

Cost: L (3 D Y) + F D X + (layers - 1) X^2 multiply-adds per candidate for L events read and Y the
width of the attention.

References:
    Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018. Its Dice
    activation, which needs statistics of a batch, is a ReLU here.

Shape legend: B = requests, K = candidates, A = actions, L = events read, F = fields, S = places,
D = vector size, X = hidden, Y = width of the attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import (
    CTRModel,
    Deep,
    DeepConfig,
    Layout,
    Wide,
    check_sizes,
)


@dataclass(frozen=True, kw_only=True)
class DINConfig(DeepConfig):
    """The shape of the model; every field changes what is computed."""

    attention: int = 32
    """Width Y of the attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(attention=self.attention)


class Attention(nn.Module):
    """How much each event of the history speaks for each candidate: weights (B, K, L).

    The layer over [e, c, e - c, e * c] is taken apart: what depends on an event or a candidate
    alone is computed once for each.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.event_part = nn.Linear(dim, width)
        self.item_part = nn.Linear(dim, width, bias=False)
        self.product_part = nn.Linear(dim, width, bias=False)
        self.out = nn.Linear(width, 1)

    def forward(self, past_BLD: Tensor, there_BL: Tensor, items_BKD: Tensor) -> Tensor:
        """Return the weights, 0 where there is no event."""
        product = self.product_part(past_BLD.unsqueeze(1) * items_BKD.unsqueeze(2))
        own = self.event_part(past_BLD).unsqueeze(1) + self.item_part(items_BKD).unsqueeze(2)
        weights_BKL: Tensor = self.out((own + product).relu()).squeeze(-1)
        return weights_BKL * there_BL.unsqueeze(1).to(weights_BKL.dtype)


PRESETS = {"S": DINConfig()}


class DIN(CTRModel):
    """The model over fields and history; the module's docstring says how it works."""

    name = "din"
    about = About(
        paper="Zhou et al., KDD 2018",
        cost="minutes on a million events; a request reads its history anew for each candidate",
        use="where people have several tastes, and only one of them speaks for an item",
    )
    presets = PRESETS
    config: DINConfig

    def __init__(self, config: DINConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        check_sizes(history=layout.history)
        self.attention = Attention(config.dim, config.attention)
        self.wide = Wide(layout, len(actions))
        self.deep = Deep(layout, config, len(actions))

    def interest(self, past_BLD: Tensor, there_BL: Tensor, items_BKD: Tensor) -> Tensor:
        """Return what each candidate reads of the history (B, K, D); see `CTRModel.interest`."""
        read_BKD: Tensor = self.attention(past_BLD, there_BL, items_BKD) @ past_BLD
        return read_BKD

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        logits: Tensor = self.wide(requests_BS, items_BKS) + self.deep(fields_BKFD)
        return logits
