"""SASRec: causal self-attention over the newest events, with learned positions.

    x_i = sqrt(D) item(r_i) + position(i);  L blocks of causal attention and a feed-forward layer

Positions are absolute and learned, so what was computed for an event is of no use when the window
has moved: a state is the newest `window` rows, and every event encodes them again.

Differs from the paper: normalisation before each part for queries, keys and values alike (the
authors' code normalises queries only); positions count from the first event of the window instead
of from the last; GELU instead of ReLU; the default loss is the sampled softmax; and a score is a
cosine over a temperature unless that is None.

Cost: 6 D^2 + 2 n D multiply-adds per event and layer, times n = min(history, window) for an append.
State: 8 W bytes, and 4 D of the vector.

References:
    Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Petrov and Macdonald,
    "gSASRec", RecSys 2023, for what its loss can do to it (`loss="gbce"`).

Shape legend: B = batch, L = length, D = dim, H = heads, W = window, S = state slots, N = catalogue
rows, M = rows asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouzel.features.states import StateShape
from ouzel.models.about import About
from ouzel.models.layers.attention import attend_window, check_heads
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.transformer import TransformerBlock
from ouzel.models.layers.windows import each_window, newest, window_after
from ouzel.models.protocols import SequenceEncoder


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, event and user vectors."""
    num_layers: int = 2
    """Blocks."""
    num_heads: int = 2
    """Attention heads; they share `dim` equally."""
    window: int = 200
    """Newest events that are read."""
    dropout: float = 0.2
    """Dropout on item embeddings and on what a block adds, in training."""
    temperature: float | None = 0.05
    """What the cosine of user and item is divided by; None: a score is the inner product."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_heads(self)

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        return self.window


PRESETS = {
    "S": SASRecConfig(),
    "M": SASRecConfig(dim=128, num_layers=4, num_heads=4),
    "L": SASRecConfig(dim=256, num_layers=4, num_heads=8),
}


class SASRec(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "sasrec"
    about = About(
        paper="Kang and McAuley, ICDM 2018",
        cost="epochs of batches; an event encodes the newest 200 anew",
        use="a yardstick: the model that others are compared with",
    )
    presets = PRESETS
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        self.positions = nn.Embedding(config.window, config.dim)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                config.dim, config.num_heads, expansion=1, dropout=config.dropout, norm="before"
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.dim)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: the newest rows."""
        return StateShape(0, 1, self.config.dim, self.config.window, columns=("rows",))

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event; times are not seen."""
        x = self.items(rows_BL)
        if rows_BL.shape[1] <= self.config.window:
            return self._read(x)
        windows, count = each_window(x, self.config.window)
        return newest(self._read(windows), count).view(x.shape)

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the user vectors (B, D) of at most `window` events."""
        return (newest(self._read(table_ND[rows_BL]), length_B),)

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
        return (newest(self._read(table_ND[rows_BW]), count_B),)

    def _read(self, x_BLD: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each of at most W events."""
        places_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        x = self.input_dropout(x_BLD * math.sqrt(self.config.dim) + self.positions(places_L))
        for block in self.blocks:
            x = block(x, lambda query, key, value: attend_window(query, key, value, window=None))
        return user_side(self.final_norm(x), self.config.temperature)
