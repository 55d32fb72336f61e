"""eSASRec, append-exact: the sequence backbone.

The shifted-sequence objective, gated (LiGR) blocks and sampled softmax of eSASRec, changed where
the original cannot be continued event by event:

* order and time enter as rotary angles, so a key depends on its own event alone;
* attention is a sliding window of `window` events, so a state is a ring of `window` rows per layer;
* the last block is the *request*: its query is made from the newest event and the time of the
  request, and reads the cached keys with the angle of that time. Nothing it computes is cached.
  In training the request time of position i is the time of event i + 1, as it is in serving;
* scores are cosines over a temperature, as HSTU trains them, so all item vectors have length 1.

Without time (`timed=False`) the last block asks at the event's own time and place, and the request
is the identity on the cached vector.

Cost: 18 D^2 + 4 n D multiply-adds per event and layer, for n = min(history, window) keys.
State: 2 L n D numbers for L layers. Receptive field: L (window - 1) + 1 events.

References:
    Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular
    Fashion", RecSys 2025. Zhai et al., "Actions Speak Louder than Words" (HSTU), ICML 2024, for
    the request time. Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.

Shape legend: B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots,
N = catalogue rows with the padding row 0, K = candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouzel.features.states import StateShape
from ouzel.models.about import About
from ouzel.models.layers.attention import attend_cached, attend_window
from ouzel.models.layers.gated_block import GatedBlock
from ouzel.models.layers.norm import RMSNorm
from ouzel.models.layers.precision import gathered, kept, seen
from ouzel.models.layers.rotary import POSITION_PERIOD, Rotary, rotate
from ouzel.models.layers.similarity import check_temperature
from ouzel.models.protocols import SequenceEncoder

TIME_HARMONICS = 16
LOG_SECONDS_SCALE = 20.0


@dataclass(frozen=True, kw_only=True)
class ESASRecConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, event and user vectors."""
    num_layers: int = 2
    """Blocks, the request block included."""
    num_heads: int = 2
    """Attention heads; they share `dim` equally."""
    window: int = 200
    """Events that one position attends to, itself included."""
    expansion: int = 4
    """Width of the inner layer of a block, in multiples of `dim`."""
    dropout: float = 0.2
    """Dropout on item embeddings and on what a block adds, in training."""
    temperature: float = 0.05
    """What the cosine of a user and an item vector is divided by to give a score."""
    timed: bool = True
    """Whether event times and the request time are seen."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.dim % (4 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} must be a multiple of 4 x num_heads ({self.num_heads})"
            )
        if min(self.num_layers, self.window) < 1:
            raise ValueError(f"num_layers and window must be at least 1: {self}")

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        return self.num_layers * (self.window - 1) + 1


PRESETS = {
    "S": ESASRecConfig(),
    "M": ESASRecConfig(dim=128, num_layers=4, num_heads=4),
    "L": ESASRecConfig(dim=256, num_layers=4, num_heads=8),
    "XL": ESASRecConfig(dim=512, num_layers=8, num_heads=8, window=512),
}


Angles = tuple[Tensor, Tensor]


class ESASRec(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "esasrec"
    about = About(
        paper="Tikhonovich et al., RecSys 2025",
        cost="epochs of batches; a request reads one cached state",
        use="order and time matter, as in most logs; the default",
    )
    presets = PRESETS
    ranked = True
    config: ESASRecConfig
    harmonics: Tensor

    def __init__(self, config: ESASRecConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        nn.init.normal_(self.items.weight, std=0.02)
        self.input_dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary(config.dim // config.num_heads, timed=config.timed)
        self.blocks = nn.ModuleList(
            GatedBlock(
                config.dim, config.num_heads, expansion=config.expansion, dropout=config.dropout
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = RMSNorm(config.dim)
        if config.timed:
            self.elapsed = nn.Linear(2 * TIME_HARMONICS, config.dim)
        harmonics = torch.arange(1, TIME_HARMONICS + 1) * (math.pi / LOG_SECONDS_SCALE)
        self.register_buffer("harmonics", harmonics, persistent=False)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: rings of keys and values."""
        config = self.config
        size = config.dim // config.num_heads
        return StateShape(config.num_layers, config.num_heads, size, config.window)

    def step_constants(self) -> dict[str, Tensor]:
        """Return what `ouzel.inference.gated_steps` needs beside the weights."""
        if not self.config.timed:
            return {}
        return {
            "frequencies": self.rotary.frequencies,
            "periods_ms": self.rotary.periods_ms,
            "position_period": torch.tensor([POSITION_PERIOD]),
            "harmonics": self.harmonics,
            "temperature": torch.tensor([self.config.temperature], dtype=torch.float64),
        }

    # Training: every position of many histories at once.

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time."""
        window = self.config.window if rows_BL.shape[1] > self.config.window else None
        positions = _positions(rows_BL)
        x, key, value, angles = self._read(self.items(rows_BL), times_BL, positions, window=window)[
            :4
        ]
        if self.config.timed:
            angles = _per_head(self.rotary(positions, request_times_BL))
        return self._ask(
            x,
            request_times_BL - times_BL,
            angles,
            lambda query: attend_window(query, key, value, window=window),
        )

    def item_vectors(self) -> Tensor:
        """Return the output-side vectors (N, D), each of length 1."""
        return functional.normalize(self.items.weight, dim=-1)

    # Serving: what is exported. `table_ND` is the frozen input side of the item table.

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return per layer the keys and values (B, L, H, E) of each event, then `last` (B, D).

        `last` is what a request starts from: the vector of the newest event. `start_B` events came
        before those given.
        """
        window = self.config.window
        positions = start_B.unsqueeze(1) + _positions(rows_BL)
        x, key, value, angles, cached = self._read(
            table_ND[rows_BL], times_BL, positions, window=window
        )
        if not self.config.timed:
            x = self._ask(
                x, times_BL, angles, lambda query: attend_window(query, key, value, window=window)
            )
        newest = (length_B - 1).view(-1, 1, 1).expand(-1, 1, x.shape[-1])
        return (*cached, x.gather(1, newest).squeeze(1))

    def append(
        self,
        row_B: Tensor,
        time_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        table_ND: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the new cache rows: per layer a key and a value (B, H, E), then `last` (B, D).

        `length_B` counts the events before this one. `cache` holds, layer by layer, the keys
        (S, H, E, W) and values (S, H, W, E) of all slots as rings: event p lies at p modulo W. In
        int8 each of both is followed by its scales, (S, H, W) in the cache and (B, H) in what is
        returned.
        """
        x = self._scale(table_ND[row_B])
        angles = _per_head(self.rotary(length_B, time_B))
        fresh: list[Tensor] = []
        arrays = len(cache) // len(self.blocks)
        for layer, block in enumerate(self._layers):
            key, value, parts = self._keep(block, x, angles)
            fresh += parts
            own = key, value
            of_layer = cache[arrays * layer : arrays * (layer + 1)]

            def attend(
                query: Tensor, of_layer: tuple[Tensor, ...] = of_layer, own: Angles = own
            ) -> Tensor:
                return attend_cached(query, gathered(of_layer, slot_B), length_B, own=own)

            if layer < len(self.blocks) - 1:
                x = block.finish(x, attend(rotate(block.project_query(x), *angles)))
            elif not self.config.timed:
                x = self._ask(x, time_B, angles, attend)
        return (*fresh, x)

    def query(
        self,
        now_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        last_SD: Tensor,
        last_time_S: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        """Return the user vectors (B, D) at request times `now_B` (ms) from cached states.

        `cache` holds the keys (S, H, E, W) and values (S, H, W, E) of the last layer, in int8 with
        scales as in `append`. Without time this is the identity on `last`.
        """
        last = last_SD[slot_B]
        if not self.config.timed:
            return last
        rings = gathered(cache, slot_B)
        return self._ask(
            last,
            now_B - last_time_S[slot_B],
            _per_head(self.rotary(length_B - 1, now_B)),
            lambda query: attend_cached(query, rings, length_B, own=None),
        )

    # Parts.

    @property
    def _layers(self) -> list[GatedBlock]:
        return [block for block in self.blocks if isinstance(block, GatedBlock)]

    def _scale(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.input_dropout(x * math.sqrt(self.config.dim))
        return scaled

    def _read(
        self, x_BLD: Tensor, times_BL: Tensor, positions_BL: Tensor, *, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor, Angles, list[Tensor]]:
        """Return the vectors before the last block, its keys and values, the angles, the cache."""
        x = self._scale(x_BLD)
        angles = _per_head(self.rotary(positions_BL, times_BL))
        cached: list[Tensor] = []
        for block in self._layers[:-1]:
            key, value, parts = self._keep(block, x, angles)
            cached += parts
            query = rotate(block.project_query(x), *angles)
            x = block.finish(x, attend_window(query, key, value, window=window))
        key, value, parts = self._keep(self._layers[-1], x, angles)
        return x, key, value, angles, [*cached, *parts]

    def _keep(
        self, block: GatedBlock, x: Tensor, angles: Angles
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the key and value (..., H, E) of events as they are read, and what is cached."""
        key, value = block.project_key_value(x)
        key = rotate(key, *angles)
        keys, values = kept(key, self.precision), kept(value, self.precision)
        return seen(keys, key), seen(values, value), [*keys, *values]

    def _ask(
        self, x: Tensor, elapsed_ms: Tensor, angles: Angles, attend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the last block's answer (..., D) for events `x` and the time since each."""
        if self.config.timed:
            seconds = elapsed_ms.clamp(min=0).to(torch.float32) / 1000
            phase = torch.log1p(seconds).unsqueeze(-1) * self.harmonics
            x = x + self.elapsed(torch.cat([phase.sin(), phase.cos()], dim=-1))
        block = self._layers[-1]
        attended = attend(rotate(block.project_query(x), *angles))
        vector = self.final_norm(block.finish(x, attended))
        return functional.normalize(vector, dim=-1) / self.config.temperature


def _positions(like_BL: Tensor) -> Tensor:
    return torch.arange(like_BL.shape[1], device=like_BL.device).expand(like_BL.shape)


def _per_head(angles: Angles) -> Angles:
    """Return angles (..., P) as (..., 1, P), to be shared by the heads."""
    return angles[0].unsqueeze(-2), angles[1].unsqueeze(-2)
