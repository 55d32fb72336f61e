"""A gated linear recurrence (HGRN): a state of a few hundred numbers, with no attention.

    f_t = b + (1 - b) sigmoid(F x_t)        h_t = f_t * h_(t-1) + (1 - f_t) * SiLU(I x_t)
    x_t <- x_t + out(norm(h_t) * sigmoid(G x_t));   x_t <- x_t + SwiGLU(norm(x_t))

The gates depend on the event and not on the state, so training computes all steps of a window at
once, in log2(L) rounds of products (Blelloch), and serving one step an event. The lower bound b of
a layer is its share of the depth: upper layers forget slowly. The last layer's vector and the time
since the newest event make the answer, so the request time enters there and is never kept.

Differs from the paper: real numbers instead of complex ones, bounds that are fixed instead of
learned, and the time of the request.

Cost: 4 D^2 + 12 D^2 multiply-adds per event and layer, whatever the history. State: 4 D bytes a
layer and 4 D of the vector. Receptive field: all of the history.

References:
    Qin, Yang and Zhong, "Hierarchically Gated Recurrent Neural Network for Sequence Modeling",
    NeurIPS 2023. Yue et al., "Linear Recurrent Units for Sequential Recommendation" (LRURec), WSDM
    2024. Blelloch, "Prefix Sums and Their Applications", 1990.

Shape legend: B = batch, L = length, D = dim, R = numbers carried, S = state slots, N = catalogue
rows, M = rows asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from ouzel.features.states import MOST_WAITING, WHOLE_HISTORY, StateShape
from ouzel.models.about import About
from ouzel.models.layers.norm import RMSNorm
from ouzel.models.layers.similarity import check_temperature, user_side
from ouzel.models.layers.windows import newest
from ouzel.models.protocols import SequenceEncoder

TIME_HARMONICS = 16
LOG_SECONDS_SCALE = 20.0


@dataclass(frozen=True, kw_only=True)
class LinearRecurrentConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 64
    """Size D of item, carried and user vectors."""
    num_layers: int = 2
    """Blocks."""
    window: int = 200
    """Events of a training window; serving reads the whole history."""
    expansion: int = 4
    """Width of the inner layer of a block, in multiples of `dim`."""
    dropout: float = 0.2
    """Dropout on item embeddings and on what a block adds, in training."""
    temperature: float | None = 0.05
    """What the cosine of user and item is divided by; None: a score is the inner product."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if min(self.dim, self.num_layers, self.window, self.expansion) < 1:
            raise ValueError(f"dim, num_layers, window and expansion must be at least 1: {self}")

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on: all."""
        return WHOLE_HISTORY


PRESETS = {
    "S": LinearRecurrentConfig(),
    "M": LinearRecurrentConfig(dim=128, num_layers=4),
    "L": LinearRecurrentConfig(dim=256, num_layers=4),
}


class RecurrentBlock(nn.Module):
    """One block over vectors (..., D), with its recurrence left to the caller."""

    def __init__(self, config: LinearRecurrentConfig, bound: float) -> None:
        super().__init__()
        dim, inner = config.dim, config.expansion * config.dim
        self.bound = bound
        self.input_norm = RMSNorm(dim)
        self.gates = nn.Linear(dim, 3 * dim)
        self.read_norm = RMSNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.forward_norm = RMSNorm(dim)
        self.expand = nn.Linear(dim, 2 * inner, bias=False)
        self.contract = nn.Linear(inner, dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is kept of a state (..., D), what is added to it, and the output gate."""
        forget, added, gate = self.gates(self.input_norm(x)).chunk(3, dim=-1)
        keep = self.bound + (1 - self.bound) * torch.sigmoid(forget)
        return keep, (1 - keep) * functional.silu(added), torch.sigmoid(gate)

    def finish(self, x: Tensor, carried: Tensor, gate: Tensor) -> Tensor:
        """Return the block's output (..., D) for its input and the carried vectors (..., D)."""
        x = x + self.dropout(self.out(self.read_norm(carried) * gate))
        opened, value = self.expand(self.forward_norm(x)).chunk(2, dim=-1)
        y: Tensor = x + self.dropout(self.contract(functional.silu(opened) * value))
        return y


class LinearRecurrent(SequenceEncoder):
    """The model over catalogue rows; the module's docstring says how it works."""

    name = "linear_recurrent"
    about = About(
        paper="Qin, Yang and Zhong (HGRN), NeurIPS 2023",
        cost="epochs of batches; a state of under 1 kB, an event is one step",
        use="there are millions of users, or histories of thousands of events",
    )
    presets = PRESETS
    config: LinearRecurrentConfig
    harmonics: Tensor

    def __init__(self, config: LinearRecurrentConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        nn.init.normal_(self.items.weight, std=0.02)
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            RecurrentBlock(config, layer / config.num_layers) for layer in range(config.num_layers)
        )
        self.elapsed = nn.Linear(2 * TIME_HARMONICS, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.final_norm = RMSNorm(config.dim)
        harmonics = torch.arange(1, TIME_HARMONICS + 1) * (math.pi / LOG_SECONDS_SCALE)
        self.register_buffer("harmonics", harmonics, persistent=False)

    @property
    def state(self) -> StateShape:
        """Return the sizes of a state: a carried vector for each layer."""
        size = self.config.num_layers * self.config.dim
        return StateShape(0, 1, self.config.dim, MOST_WAITING, size=size)

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time."""
        x = self._scale(self.items(rows_BL))
        for block in self._layers:
            keep, added, gate = block.project(x)
            x = block.finish(x, all_steps(keep, added), gate)
        return self._ask(x, request_times_BL - times_BL)

    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the carried vectors (B, R) after the newest event, then `last` (B, D)."""
        x = self._scale(table_ND[rows_BL])
        carried = []
        for block in self._layers:
            keep, added, gate = block.project(x)
            # One step after another, since a graph cannot have more rounds for longer histories.
            by_step = (keep.transpose(0, 1), added.transpose(0, 1))
            steps = scan(_step, torch.zeros_like(keep[:, 0]), by_step)[1].transpose(0, 1)
            carried.append(newest(steps, length_B))
            x = block.finish(x, steps, gate)
        return torch.cat(carried, dim=1), newest(x, length_B)

    def append(
        self,
        row_B: Tensor,
        time_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        table_ND: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what `encode` does, from the carried vectors `cache` (S, R) before the event."""
        x = self._scale(table_ND[row_B])
        carried = []
        before = cache[0][slot_B].chunk(self.config.num_layers, dim=1)
        for block, held in zip(self._layers, before, strict=True):
            keep, added, gate = block.project(x)
            carried.append(keep * held + added)
            x = block.finish(x, carried[-1], gate)
        return torch.cat(carried, dim=1), x

    def query(
        self,
        now_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        last_SD: Tensor,
        last_time_S: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        """Return the user vectors (B, D) at request times `now_B` (ms) from cached states."""
        return self._ask(last_SD[slot_B], now_B - last_time_S[slot_B])

    @property
    def _layers(self) -> list[RecurrentBlock]:
        return [block for block in self.blocks if isinstance(block, RecurrentBlock)]

    def _scale(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.input_dropout(x * math.sqrt(self.config.dim))
        return scaled

    def _ask(self, x: Tensor, elapsed_ms: Tensor) -> Tensor:
        """Return the user vectors (..., D) for events `x` and the time since each."""
        seconds = elapsed_ms.clamp(min=0).to(torch.float32) / 1000
        phase = torch.log1p(seconds).unsqueeze(-1) * self.harmonics
        x = x * (1 + self.elapsed(torch.cat([phase.sin(), phase.cos()], dim=-1)))
        return user_side(self.final_norm(self.out(x)), self.config.temperature)


def all_steps(keep_BLD: Tensor, added_BLD: Tensor) -> Tensor:
    """Return h_t = keep_t h_(t-1) + added_t from h_0 = 0, for every t (B, L, D).

    >>> keep = torch.full((1, 3, 1), 0.5)
    >>> all_steps(keep, torch.tensor([[[4.0], [0.0], [1.0]]])).flatten().tolist()
    [4.0, 2.0, 2.0]
    """
    span, length = 1, keep_BLD.shape[1]
    while span < length:
        # After a round each place holds the effect of the 2 x span steps up to it.
        before = functional.pad(added_BLD[:, :-span], (0, 0, span, 0))
        added_BLD = added_BLD + keep_BLD * before
        keep_BLD = keep_BLD * functional.pad(keep_BLD[:, :-span], (0, 0, span, 0), value=1.0)
        span *= 2
    return added_BLD


def _step(held: Tensor, gates: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    held = gates[0] * held + gates[1]
    return held, held.clone()
