"""DIEN: how the interest in what a candidate is like has evolved.

A recurrent layer turns the history into interests; a second one, for each candidate, passes over
them with an update gate that is as wide open as the interest has to do with the candidate:

    h_t = (1 - a_t u_t) * h_{t - 1} + a_t u_t * n_t,    a = softmax of the interests' relevance

so that a drift in another direction is passed over. Its last state is one more field beside the
others, then hidden layers as in the MLP.

Cost: L (6 D^2) per request and L (6 D^2) + F D X + (layers - 1) X^2 multiply-adds per candidate for
L events read: the dearest model of fields, whose second pass is of L steps in a row.

References:
    Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", AAAI 2019. Its
    auxiliary loss, the next event from each interest, is left out.

Shape legend: B = requests, K = candidates, A = actions, L = events read, F = fields, S = places,
D = vector size, X = hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.ctr.base import CTRModel, Deep, DeepConfig, Layout, Wide, check_sizes


class Gates(nn.Module):
    """The gates and the candidate state of a recurrent layer, for inputs all at once."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(dim, 3 * dim)
        self.states = nn.Linear(dim, 3 * dim)

    def step(self, inputs: Tensor, state: Tensor, openness: Tensor | float) -> Tensor:
        """Return the next state (..., D); `inputs` (..., 3 D) went through the layer before."""
        update, reset, fresh = inputs.chunk(3, dim=-1)
        update_s, reset_s, fresh_s = self.states(state).chunk(3, dim=-1)
        gate = openness * torch.sigmoid(update + update_s)
        proposed = torch.tanh(fresh + torch.sigmoid(reset + reset_s) * fresh_s)
        return state + gate * (proposed - state)


PRESETS = {"S": DeepConfig()}


class DIEN(CTRModel):
    """The model over fields and history; the module's docstring says how it works."""

    name = "dien"
    about = About(
        paper="Zhou et al., AAAI 2019",
        cost="tens of minutes on a million events; a request steps through its history",
        use="where tastes move, and there is time to follow them",
    )
    presets = PRESETS
    config: DeepConfig

    def __init__(self, config: DeepConfig, layout: Layout, actions: tuple[str, ...]) -> None:
        super().__init__(config, layout, actions, dim=config.dim)
        check_sizes(history=layout.history)
        self.extraction, self.evolution = Gates(config.dim), Gates(config.dim)
        self.relevance = nn.Linear(config.dim, config.dim, bias=False)
        self.wide = Wide(layout, len(actions))
        self.deep = Deep(layout, config, len(actions))

    def interest(self, past_BLD: Tensor, there_BL: Tensor, items_BKD: Tensor) -> Tensor:
        """Return where the interest in each candidate has come to (B, K, D)."""
        interests_BLD = self._interests(past_BLD, there_BL)
        logits = torch.matmul(self.relevance(items_BKD), interests_BLD.transpose(1, 2))
        # A history without events has one place to look at, whose gate stays shut.
        unseen = torch.zeros_like(past_BLD[:, :, 0]).masked_fill(~there_BL, -1e9).unsqueeze(1)
        open_BKL = (logits / math.sqrt(self.config.dim) + unseen).softmax(-1)
        open_BKL = open_BKL * there_BL.unsqueeze(1).to(open_BKL.dtype)
        inputs_BLX = self.evolution.inputs(interests_BLD)
        state_BKD = torch.zeros_like(items_BKD)
        for place in range(self.layout.history):
            inputs = inputs_BLX[:, place].unsqueeze(1)
            state_BKD = self.evolution.step(inputs, state_BKD, open_BKL[:, :, place].unsqueeze(-1))
        return state_BKD

    def _interests(self, past_BLD: Tensor, there_BL: Tensor) -> Tensor:
        inputs_BLX = self.extraction.inputs(past_BLD)
        state_BD = torch.zeros_like(past_BLD[:, 0])
        states = []
        for place in range(self.layout.history):
            there_B1 = there_BL[:, place].unsqueeze(-1).to(past_BLD.dtype)
            state_BD = self.extraction.step(inputs_BLX[:, place], state_BD, there_B1)
            states.append(state_BD)
        return torch.stack(states, dim=1)

    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A); see `CTRModel.logits`."""
        logits: Tensor = self.wide(requests_BS, items_BKS) + self.deep(fields_BKFD)
        return logits
