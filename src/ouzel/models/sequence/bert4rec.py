"""BERT4Rec: attention in both directions, trained to fill in what was masked.

Training hides each event of a window with probability `masked` and asks for it at its place; the
newest is hidden more often, since that is what serving asks. A request puts a mask after the
newest event and reads the vector there.

What an event means depends on those after it, so nothing that was computed survives the next
event: a state is the newest `window` rows, and every event encodes them again. The yardstick of
models that go on, not one to serve at high rates.

Differs from the paper: positions count from the first event of the window; there is no bias for
each item; and a score is a cosine over a temperature unless that is None.

Cost: 12 D^2 + 2 n D multiply-adds per event and layer, times n + 1 for an append, n = min(history,
window). `forward` makes a vector after each event from an encode of its own. State: 8 W bytes, and
4 D of the vector.

References:
    Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", CIKM 2019.

Shape legend: B = batch, L = length, D = dim, H = heads, W = window, S = state slots, N = catalogue
rows, M = rows asked for, T = masked places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouzel.features.states import StateShape
from ouzel.models.about import About
from ouzel.models.layers.attention import attend_real, check_heads
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.transformer import TransformerBlock
from ouzel.models.layers.windows import each_window, newest, window_after
from ouzel.models.protocols import SequenceEncoder

NEWEST_MASKED = 0.5
"""How often the newest event of a training window is hidden, at least."""


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, event and user vectors."""
    num_layers: int = 2
    """Blocks."""
    num_heads: int = 2
    """Attention heads; they share `dim` equally."""
    window: int = 200
    """Newest events that are read."""
    masked: float = 0.2
    """Share of the events that training hides."""
    dropout: float = 0.2
    """Dropout on item embeddings and on what a block adds, in training."""
    temperature: float | None = 0.05
    """What the cosine of user and item is divided by; None: a score is the inner product."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_heads(self)
        if not 0 < self.masked < 1:
            raise ValueError(f"masked is {self.masked}: give a share between 0 and 1")

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        return self.window


PRESETS = {
    "S": BERT4RecConfig(),
    "M": BERT4RecConfig(dim=128, num_layers=4, num_heads=4),
    "L": BERT4RecConfig(dim=256, num_layers=4, num_heads=8),
}


class BERT4Rec(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "bert4rec"
    about = About(
        paper="Sun et al., CIKM 2019",
        cost="many epochs of batches; an event encodes the newest 200 anew",
        use="a yardstick for the others",
    )
    presets = PRESETS
    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        self.positions = nn.Embedding(config.window + 1, config.dim)
        self.mask = nn.Parameter(torch.zeros(config.dim))
        for table in (self.items.weight, self.positions.weight, self.mask):
            nn.init.normal_(table, std=config.dim**-0.5)
        self.input_norm = nn.LayerNorm(config.dim)
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                config.dim, config.num_heads, expansion=4, dropout=config.dropout, norm="after"
            )
            for _ in range(config.num_layers)
        )
        self.out = nn.Linear(config.dim, config.dim)
        self.final_norm = nn.LayerNorm(config.dim)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: the newest rows."""
        return StateShape(0, 1, self.config.dim, self.config.window, columns=("rows",))

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event; times are not seen."""
        x = self.items(rows_BL)
        return self._ask(*each_window(x, self.config.window)).view(x.shape)

    def user_vectors(
        self, rows_BL: Tensor, times_BL: Tensor, length_B: Tensor, now_B: Tensor
    ) -> Tensor:
        """Return the user vectors (B, D) after all `length_B` events, in one encode."""
        if rows_BL.shape[1] > self.config.window:
            return super().user_vectors(rows_BL, times_BL, length_B, now_B)
        return self._ask(self.items(rows_BL), length_B)

    def predictions(
        self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor, targets_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return vectors (T, D) at masked places, and the rows (T,) that were there."""
        length_B = (targets_BL > 0).sum(1) + 1
        nothing_B1 = torch.zeros_like(rows_BL[:, :1])
        seen = torch.cat([rows_BL, nothing_B1], dim=1)
        last_B1 = targets_BL.gather(1, (length_B - 2).clamp(min=0).unsqueeze(1))
        seen = seen.scatter(1, (length_B - 1).unsqueeze(1), last_B1)
        place_L = torch.arange(seen.shape[1], device=seen.device)
        hidden = torch.rand(seen.shape, device=seen.device) < self.config.masked
        is_last = place_L == (length_B - 1).unsqueeze(1)
        hidden |= is_last & (
            torch.rand_like(length_B, dtype=torch.float).unsqueeze(1) < NEWEST_MASKED
        )
        hidden &= place_L < length_B.unsqueeze(1)
        if not hidden.any():
            hidden = is_last
        x = torch.where(hidden.unsqueeze(-1), self.mask, self.items(seen))
        return self._read(x, length_B)[hidden], seen[hidden]

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the user vectors (B, D) of at most `window` events."""
        return (self._ask(table_ND[rows_BL], length_B),)

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
        return (self._ask(table_ND[rows_BW], count_B),)

    def _ask(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Return the vectors (B, D) at a mask after `length_B` events."""
        x = torch.cat([x_BLD, torch.zeros_like(x_BLD[:, :1])], dim=1)
        place_L = torch.arange(x.shape[1], device=x.device)
        x = torch.where((place_L == length_B.unsqueeze(1)).unsqueeze(-1), self.mask, x)
        return newest(self._read(x, length_B + 1), length_B + 1)

    def _read(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Return the vector (B, L, D) at each place; the first `length_B` places are read."""
        places_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        x = self.input_dropout(self.input_norm(x_BLD + self.positions(places_L)))
        for block in self.blocks:
            x = block(x, lambda query, key, value: attend_real(query, key, value, length_B))
        vector = self.final_norm(functional.gelu(self.out(x)))
        return user_side(vector, self.config.temperature)
