"""LightGCN: item vectors averaged over neighbours in the graph of users and items, and no more.

With the edges R_ui = 1 / sqrt(n_u n_i) of who had to do with what, n_u the items of user u and n_i
the users of item i, a layer spreads item vectors V to the users and back, which is two steps of the
paper's:

    V_0 = the weights,  V_{l+1} = R^T R V_l,  V = (V_0 + ... + V_L) / (L + 1),  users = R V.

There is no feature transform and no nonlinearity. Other than in the paper users have no weights of
their own: their first vector is that of their items, so the vector of somebody who was never there
is u = sum_i w_i v_i / sqrt(n_i) / sqrt(sum_i w_i) over his history, which for the users of the data
and equal weights w is the very vector that was trained. The score is cos(u, v) / temperature, or
the inner product without a temperature, and the loss the softmax of each edge among shared
negatives, which does better here than the paper's BPR.

Cost: a step is 2 (2 L + 1) E D multiply-adds for E edges, whatever the batch, beside its scores; an
epoch has E / batch_size steps. A request adds up D numbers per event of the history.

References:
    He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation",
    SIGIR 2020. Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation",
    TOIS 2023, for the loss. Wu et al., "INMO: A Model-Agnostic and Scalable Module for Inductive
    Collaborative Filtering", SIGIR 2022, for users without weights.

Shape legend: D = dim, N = catalogue rows with the padding row 0, U = users, L = layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ouzel.features.matrix import Matrix
from ouzel.features.recency import fade_of
from ouzel.models.about import About
from ouzel.models.graph_encoder import GraphEncoder, Links
from ouzel.models.layers.similarity import check_temperature, item_side, user_side


@dataclass(frozen=True, kw_only=True)
class LightGCNConfig:
    """The shape of the model and how it is trained; every field changes what is computed."""

    dim: int = 64
    """Size D of user and item vectors."""
    num_layers: int = 1
    """How often vectors go to the users and back; 0: not at all."""
    temperature: float | None = 0.15
    """What the cosine of user and item is divided by; None: their inner product."""
    epochs: int = 40
    """At most this many passes over the edges; the best one on validation is kept."""
    learning_rate: float = 0.01
    """Step of Adam."""
    batch_size: int = 8192
    """Edges of a step."""
    num_negatives: int = 1024
    """Items, drawn evenly, that the edges of a step are told apart from."""
    half_life: float | None = 2.0
    """After how many events one counts half as much in a request; None: all count alike."""

    def __post_init__(self) -> None:
        least = {"dim": 1, "epochs": 1, "batch_size": 1, "num_negatives": 1, "num_layers": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}: give {bound} or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: give more than 0")
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(
                f"half_life is {self.half_life}: give more than 0, or null for all alike"
            )
        check_temperature(self.temperature)


PRESETS = {"S": LightGCNConfig()}


class LightGCN(GraphEncoder):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "lightgcn"
    about = About(
        paper="He et al., SIGIR 2020",
        cost="passes over the graph, as many as batches; a request adds up a few vectors",
        use="taste more than order, where items are known through few users",
    )
    presets = PRESETS
    config: LightGCNConfig
    vectors: Tensor
    inputs: Tensor

    def __init__(self, config: LightGCNConfig, num_rows: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_rows, config.dim, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.1)
        with torch.no_grad():
            self.items.weight[0] = 0
        for name in ("vectors", "inputs"):
            self.register_buffer(name, torch.zeros(num_rows, config.dim))

    @classmethod
    def build(cls, config: LightGCNConfig, *, num_rows: int) -> Self:
        """Return an untrained model."""
        return cls(config, num_rows)

    def forward(self, links: Links) -> tuple[Tensor, Tensor]:
        """Return the vectors of users (U, D) and items (N, D); their product is the score."""
        spread_ND = self._spread(links)
        temperature = self.config.temperature
        return user_side(links.users(spread_ND), temperature), item_side(spread_ND, temperature)

    @torch.no_grad()
    def settle(self, matrix: Matrix) -> None:
        """Keep for serving what the weights are now, spread over the graph of `matrix`."""
        spread_ND = self._spread(Links.of(matrix))
        counts_N = torch.from_numpy(matrix.counts_N())
        # What nobody had to do with says nothing of who comes with it.
        share_N = torch.where(counts_N > 0, counts_N.clamp(min=1).rsqrt(), 0.0)
        self.inputs.copy_(spread_ND * share_N[:, None])
        self.vectors.copy_(item_side(spread_ND, self.config.temperature))

    def tensors(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what a Bundle holds of the model as it was settled last, by file and name."""
        fade = np.array([fade_of(self.config.half_life)])
        return {
            "items": {"vectors": self.vectors.numpy().copy()},
            "fold_in": {"inputs": self.inputs.numpy().copy(), "fade": fade},
        }

    def _spread(self, links: Links) -> Tensor:
        """Return the mean V (N, D) of the vectors of all layers."""
        layer_ND = self.items.weight
        total_ND = layer_ND
        for _ in range(self.config.num_layers):
            layer_ND = links.items(links.users(layer_ND))
            total_ND = total_ND + layer_ND
        return total_ND / (self.config.num_layers + 1)
