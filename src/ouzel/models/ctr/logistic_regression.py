"""Logistic regression over the ids of all fields, learnt coordinate by coordinate (FTRL).

    logit = sum_i w_i x_i + b

A weight for each id and action; the weights of ids that hardly occurred are exactly 0. It says how
well an item is liked and how much a user likes in general, and nothing about which user likes which
item: the history, and all pairs of fields, are for the other models.

Cost: F additions per candidate; the cheapest model of fields, and the one whose learning is online.

References:
    McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013. The optimiser is
    `ouzel.training.ftrl`.

Shape legend: B = requests, K = candidates, A = actions, F = fields, S = places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, Layout


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionConfig:
    """The model has no sizes to choose."""


PRESETS = {"S": LogisticRegressionConfig()}


class LogisticRegression(CTRModel):
    """The model over fields; the module's docstring says how it works."""

    name = "logistic_regression"
    about = About(
        paper="McMahan et al., KDD 2013 (FTRL)",
        cost="seconds on a million events; a request adds up a weight for each field",
        use="the yardstick that says what single fields are worth",
    )
    presets = PRESETS
    optimizer = "ftrl"
    learning_rate = 0.1
    reads_history = False
    config: LogisticRegressionConfig

    def __init__(
        self, config: LogisticRegressionConfig, layout: Layout, actions: tuple[str, ...]
    ) -> None:
        super().__init__(config, layout, actions, dim=len(actions))
        nn.init.zeros_(self.vectors.table.weight)
        self.bias = nn.Parameter(torch.zeros(len(actions)))

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        return fields_BKFD.sum(2) + self.bias
