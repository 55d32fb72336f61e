"""GRU4Rec: a recurrent network over the whole history.

    h_t = GRU(item(r_t), h_(t-1)) in each layer;  user vector = out(h_t of the last layer)

The state is the hidden vector of each layer, so an event costs one step whatever the history, and
an answer depends on all of it. There is no time in it: a request is the identity on the vector.

Differs from the paper: the input is an embedding and not one-hot; items have one table for both
sides, as in the authors' later code; training reads windows of a history, not session-parallel
mini-batches; and a score is a cosine over a temperature unless that is None.

Cost: 6 D^2 multiply-adds per event and layer. State: 4 D bytes a layer, and 4 D of the vector.

References:
    Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016.
    Hidasi and Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based
    Recommendations", CIKM 2018.

Shape legend: B = batch, L = length, D = dim, R = numbers carried, S = state slots, N = catalogue
rows, M = rows asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.features.states import MOST_WAITING, WHOLE_HISTORY, StateShape
from ouzel.models.about import About
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.windows import newest
from ouzel.models.protocols import SequenceEncoder


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, hidden and user vectors."""
    num_layers: int = 1
    """Recurrent layers."""
    window: int = 200
    """Events of a training window; serving reads the whole history."""
    dropout: float = 0.2
    """Dropout on what goes into a layer, in training."""
    temperature: float | None = 0.05
    """What the cosine of user and item is divided by; None: a score is the inner product."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if min(self.dim, self.num_layers, self.window) < 1:
            raise ValueError(f"dim, num_layers and window must be at least 1: {self}")

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on: all."""
        return WHOLE_HISTORY


PRESETS = {
    "S": GRU4RecConfig(),
    "M": GRU4RecConfig(dim=128),
    "L": GRU4RecConfig(dim=256, num_layers=2),
}


class GRU4Rec(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "gru4rec"
    about = About(
        paper="Hidasi et al., ICLR 2016",
        cost="epochs of batches; a state of under 1 kB, an event is one step",
        use="sessions are short, or users too many for larger states",
    )
    presets = PRESETS
    learning_rate = 3e-3
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        nn.init.normal_(self.items.weight, std=config.dim**-0.5)
        self.input_dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.GRU(config.dim, config.dim, batch_first=True) for _ in range(config.num_layers)
        )
        self.out = nn.Linear(config.dim, config.dim)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: a hidden vector for each layer."""
        size = self.config.num_layers * self.config.dim
        return StateShape(0, 1, self.config.dim, MOST_WAITING, size=size)

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event; times are not seen."""
        return self._ask(self._run(self.items(rows_BL), None)[-1])

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the hidden vectors (B, R) after the newest event, and the user vectors (B, D)."""
        hidden = [newest(h, length_B) for h in self._run(table_ND[rows_BL], None)]
        return torch.cat(hidden, dim=1), self._ask(hidden[-1])

    def append(
        self,
        row_B: Tensor,
        time_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        table_ND: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what `encode` does, from the hidden vectors `cache` (S, R) before the event."""
        before = cache[0][slot_B].chunk(self.config.num_layers, dim=1)
        hidden = [h.squeeze(1) for h in self._run(table_ND[row_B].unsqueeze(1), before)]
        return torch.cat(hidden, dim=1), self._ask(hidden[-1])

    def _run(self, x_BLD: Tensor, before: tuple[Tensor, ...] | None) -> list[Tensor]:
        """Return the hidden vectors (B, L, D) of each layer."""
        # Inputs as large as this open and close the gates from the first steps of training on.
        x_BLD = x_BLD * math.sqrt(self.config.dim)
        hidden = []
        for index, layer in enumerate(self.layers):
            start = None if before is None else before[index].unsqueeze(0).contiguous()
            x_BLD = layer(self.input_dropout(x_BLD), start)[0]
            hidden.append(x_BLD)
        return hidden

    def _ask(self, hidden: Tensor) -> Tensor:
        return user_side(self.out(hidden), self.config.temperature)
