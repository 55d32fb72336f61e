"""HSTU, append-exact: pointwise attention with a bias of relative place and time.

    U, V, Q, K = SiLU(linear(norm(x)))
    A_ij = SiLU(Q_i . K_j + place[i - j] + lapse[bucket(t_i - t_j)]) / W     for i - W < j <= i
    x_i <- x_i + linear(norm(sum_j A_ij V_j) * U_i)

Changed where the original cannot be continued event by event:

* its biases use the time of the *next* event, so the newest cached row is wrong with every append.
  Here all layers but the last use t_i - t_j, and the last one is the request: its row asks at the
  request time and is never cached. In training that is the time of event i + 1;
* weights are divided by the window, a constant, whatever the length of the history;
* attention is a sliding window, so a state is a ring of `window` rows per layer.

The weights are no distribution: they grow with how much of the history fits, which softmax hides.

Cost: 5 D^2 + 2 n D multiply-adds per event and layer, for n = min(history, window) keys, and in
training a bias for each pair. State: 2 L n D numbers for L layers, and 8 bytes an event for its
time. Receptive field: L (window - 1) + 1 events.

References:
    Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for
    Generative Recommendations", ICML 2024.

Shape legend: B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots,
N = catalogue rows with the padding row 0, M = rows asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ouzel.features.states import StateShape
from ouzel.models.about import About
from ouzel.models.layers.attention import check_heads
from ouzel.models.layers.precision import Rings, gathered, kept, seen
from ouzel.models.layers.relative_bias import RelativeBias, time_buckets
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.windows import newest
from ouzel.models.protocols import SequenceEncoder


@dataclass(frozen=True, kw_only=True)
class HSTUConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, event and user vectors."""
    num_layers: int = 2
    """Blocks, the request block included."""
    num_heads: int = 2
    """Attention heads; they share `dim` equally."""
    window: int = 200
    """Events that one position attends to, itself included."""
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
        return self.num_layers * (self.window - 1) + 1


PRESETS = {
    "S": HSTUConfig(),
    "M": HSTUConfig(dim=128, num_layers=4, num_heads=4),
    "L": HSTUConfig(dim=256, num_layers=8, num_heads=8),
}


class HSTUBlock(nn.Module):
    """One block over vectors (..., D), with its attention weights left to the caller."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.dim // config.num_heads)
        self.input_norm = nn.LayerNorm(config.dim)
        self.parts = nn.Linear(config.dim, 4 * config.dim)
        self.bias = RelativeBias(config.window)
        self.read_norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gates (..., D), and values, queries and keys (..., H, E), of `x` (..., D)."""
        gate, *rest = functional.silu(self.parts(self.input_norm(x))).chunk(4, dim=-1)
        value, query, key = (part.reshape(*x.shape[:-1], *self.heads) for part in rest)
        return gate, value, query, key

    def finish(self, x: Tensor, gate: Tensor, read: Tensor) -> Tensor:
        """Return the block's output (..., D) for its input and what was read (..., H, E)."""
        y: Tensor = x + self.dropout(self.out(self.read_norm(read.flatten(-2)) * gate))
        return y


class HSTU(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "hstu"
    about = About(
        paper="Zhai et al., ICML 2024",
        cost="epochs of batches, slower than esasrec; a request reads one cached state",
        use="the lapse between events tells most, and training may take longer",
    )
    presets = PRESETS
    config: HSTUConfig

    def __init__(self, config: HSTUConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        nn.init.normal_(self.items.weight, std=0.02)
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(HSTUBlock(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: rings of keys and values, and of the times of events."""
        config = self.config
        size = config.dim // config.num_heads
        return StateShape(
            config.num_layers, config.num_heads, size, config.window, columns=("times",)
        )

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time."""
        return self._ask_all(
            *self._read(self.items(rows_BL), times_BL)[:3], request_times_BL, times_BL
        )

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return per layer the keys and values (B, L, H, E) of each event, then `last` (B, D)."""
        x, _, _, cached = self._read(table_ND[rows_BL], times_BL)
        return (*cached, newest(x, length_B))

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

        `cache` holds, layer by layer, the rings of all slots as for ESASRec, then those of the
        times of their events (S, W).
        """
        x = self._scale(table_ND[row_B])
        place_W = torch.arange(self.config.window, device=x.device)
        distance = (length_B.unsqueeze(1) - place_W) % self.config.window
        buckets = time_buckets(time_B.unsqueeze(1) - cache[-1][slot_B])
        # The event at distance 0 is the one that this one pushes out.
        hidden = (place_W >= length_B.unsqueeze(1)) | (distance == 0)
        fresh: list[Tensor] = []
        arrays = (len(cache) - 1) // len(self.blocks)
        zero = torch.zeros_like(length_B)
        for index, block in enumerate(self._layers):
            gate, value, query, key = block.project(x)
            keys, values = kept(key, self.precision), kept(value, self.precision)
            fresh += [*keys, *values]
            if index == len(self.blocks) - 1:
                break
            rings = gathered(cache[arrays * index : arrays * (index + 1)], slot_B)
            read = self._attend_cached(query, rings, block.bias(distance, buckets), hidden)
            own = (query * seen(keys, key)).sum(-1) + block.bias(zero, zero).unsqueeze(1)
            weight = functional.silu(own).unsqueeze(-1) / self.config.window
            x = block.finish(x, gate, read + weight * seen(values, value))
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

        `cache` holds the rings of the last layer, then those of the times (S, W).
        """
        x, block = last_SD[slot_B], self._layers[-1]
        gate, _, query, _ = block.project(x)
        place_W = torch.arange(self.config.window, device=x.device)
        distance = (length_B.unsqueeze(1) - 1 - place_W) % self.config.window
        buckets = time_buckets(now_B.unsqueeze(1) - cache[-1][slot_B])
        hidden = place_W >= length_B.unsqueeze(1)
        rings = gathered(cache[:-1], slot_B)
        read = self._attend_cached(query, rings, block.bias(distance, buckets), hidden)
        return self._answer(block.finish(x, gate, read))

    # Parts.

    @property
    def _layers(self) -> list[HSTUBlock]:
        return [block for block in self.blocks if isinstance(block, HSTUBlock)]

    def _scale(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.input_dropout(x * math.sqrt(self.config.dim))
        return scaled

    def _answer(self, x: Tensor) -> Tensor:
        return user_side(self.final_norm(x), self.config.temperature)

    def _read(self, x_BLD: Tensor, times_BL: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return the vectors before the last block, its keys and values, and the cache."""
        x = self._scale(x_BLD)
        pairs = self._pairs(times_BL, times_BL)
        cached: list[Tensor] = []
        for block in self._layers:
            gate, value, query, key = block.project(x)
            keys, values = kept(key, self.precision), kept(value, self.precision)
            cached += [*keys, *values]
            key, value = seen(keys, key), seen(values, value)
            if block is not self.blocks[-1]:
                x = block.finish(x, gate, self._attend(query, key, value, block.bias, pairs))
        return x, key, value, cached

    def _ask_all(
        self, x: Tensor, key: Tensor, value: Tensor, now_BL: Tensor, times_BL: Tensor
    ) -> Tensor:
        """Return the last block's answer (B, L, D) after each event, at the times `now_BL`."""
        block = self._layers[-1]
        gate, _, query, _ = block.project(x)
        pairs = self._pairs(now_BL, times_BL)
        return self._answer(
            block.finish(x, gate, self._attend(query, key, value, block.bias, pairs))
        )

    def _pairs(self, now_BL: Tensor, times_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance (L, L) and the bucket of elapsed time (B, L, L) of each pair."""
        place_L = torch.arange(times_BL.shape[1], device=times_BL.device)
        distance = place_L.unsqueeze(1) - place_L.unsqueeze(0)
        return distance, time_buckets(now_BL.unsqueeze(2) - times_BL.unsqueeze(1))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: nn.Module,
        pairs: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return what each position reads (B, L, H, E) from the window before it."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        distance, buckets = pairs
        seen_LL = (distance >= 0) & (distance < self.config.window)
        logits = torch.matmul(query, key.transpose(2, 3)) + bias(distance, buckets).unsqueeze(1)
        weights = functional.silu(logits) * (seen_LL / self.config.window)
        return torch.matmul(weights, value).transpose(1, 2)

    def _attend_cached(
        self, query_BHE: Tensor, rings: Rings, bias_BW: Tensor, hidden_BW: Tensor
    ) -> Tensor:
        """Return what one query per user reads (B, H, E) from its rings."""
        keys, values = rings.scaled()
        logits = torch.matmul(query_BHE.unsqueeze(2), keys).squeeze(2) + bias_BW.unsqueeze(1)
        weights = functional.silu(logits) / self.config.window
        weights = weights.masked_fill(hidden_BW.unsqueeze(1), 0.0)
        return torch.matmul(weights.unsqueeze(2), values).squeeze(2)
