"""Caser: convolutions over the newest few events as over an image.

    E = the embeddings of the newest `order` events, (order, D), zero where there are fewer
    for each height h = 1 .. order: the largest, over time, of ReLU(filters of h events * E)
    and vertical filters: weighted sums of the events;  user vector = z = out(all of these)

An answer depends on `order` events, so a state is their rows and an append reads them again.

Differs from the paper: there is no table of users, since a user need not have been there in
training; z has no rectifier, because one item table serves both sides and vectors without negative
entries could not reach it; and a score is a cosine over a temperature unless that is None.

Cost: about order^2 D F / 2 multiply-adds per event for F filters of each height. State: 8 `order`
bytes, and 4 D of the vector.

References:
    Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence
    Embedding", WSDM 2018.

Shape legend: B = batch, L = length, D = dim, W = order, F = filters, S = state slots, N =
catalogue rows, M = rows asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.features.states import StateShape
from ouzel.models.about import About
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.windows import each_window, window_after
from ouzel.models.protocols import SequenceEncoder


@dataclass(frozen=True, kw_only=True)
class CaserConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item and user vectors."""
    order: int = 5
    """Newest events that are read."""
    num_filters: int = 16
    """Horizontal filters of each height."""
    num_vertical: int = 4
    """Vertical filters."""
    window: int = 200
    """Events of a training window, each of them read with the `order` before it."""
    dropout: float = 0.2
    """Dropout on what the filters give, in training."""
    temperature: float | None = 0.05
    """What the cosine of user and item is divided by; None: a score is the inner product."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if min(self.dim, self.order, self.num_filters, self.num_vertical, self.window) < 1:
            raise ValueError(
                f"dim, order, num_filters, num_vertical and window must be at least 1: {self}"
            )

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        return self.order


PRESETS = {
    "S": CaserConfig(),
    "M": CaserConfig(dim=128, order=8),
    "L": CaserConfig(dim=256, order=10, num_filters=32),
}


class Caser(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "caser"
    about = About(
        paper="Tang and Wang, WSDM 2018",
        cost="epochs of batches; an event reads the last five anew",
        use="what comes next hangs on the last few events alone",
    )
    presets = PRESETS
    learning_rate = 3e-3
    config: CaserConfig

    def __init__(self, config: CaserConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        nn.init.normal_(self.items.weight, std=config.dim**-0.5)
        self.horizontal = nn.ModuleList(
            nn.Linear(height * config.dim, config.num_filters)
            for height in range(1, config.order + 1)
        )
        self.vertical = nn.Linear(config.order, config.num_vertical)
        self.dropout = nn.Dropout(config.dropout)
        width = config.order * config.num_filters + config.num_vertical * config.dim
        self.out = nn.Linear(width, config.dim)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: the newest rows."""
        return StateShape(0, 1, self.config.dim, self.config.order, columns=("rows",))

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event; times are not seen."""
        x = self.items(rows_BL)
        return self._read(*each_window(x, self.config.order)).view(x.shape)

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the user vectors (B, D) of at most `order` events."""
        return (self._read(table_ND[rows_BL], length_B),)

    def append(
        self,
        row_B: Tensor,
        time_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        table_ND: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the user vectors (B, D) after one more event; `cache` holds the rows (S, W)."""
        rows_BW, count_B = window_after(cache[0][slot_B], row_B, length_B)
        return (self._read(table_ND[rows_BW], count_B),)

    def _read(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Return the user vectors (B, D) of at most W events, of which `length_B` are real."""
        order = self.config.order
        place_BW = length_B.unsqueeze(1) - order + torch.arange(order, device=x_BLD.device)
        index = place_BW.clamp(min=0).unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1])
        # The newest event is the last line, whatever came before it.
        x_BWD = x_BLD.gather(1, index) * (place_BW >= 0).unsqueeze(-1)
        parts = [self.vertical(x_BWD.transpose(1, 2)).flatten(1)]
        for height, filters in enumerate(self.horizontal, start=1):
            spans = torch.cat([x_BWD[:, at : order - height + 1 + at] for at in range(height)], -1)
            parts.append(filters(spans).relu().amax(1))
        z = self.out(self.dropout(torch.cat(parts, dim=1)))
        return user_side(z, self.config.temperature)
