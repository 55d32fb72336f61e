"""What a model is: the interface that training, export and the contract suite rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from torch import Tensor, nn

from ouzel.features.states import Precision, StateShape
from ouzel.models.about import About
from ouzel.models.layers.precision import gathered
from ouzel.models.layers.similarity import item_side


class HistoryConfig(Protocol):
    """What every config of a sequence model says, beside what is the model's own."""

    @property
    def dim(self) -> int:
        """Return the size D of item, event and user vectors."""
        ...

    @property
    def window(self) -> int:
        """Return the events of a training window, and all that one position may attend to."""
        ...

    @property
    def dropout(self) -> float:
        """Return the dropout in training."""
        ...

    @property
    def temperature(self) -> float | None:
        """Return what the cosine of user and item is divided by; None: no cosine."""
        ...

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        ...


class SequenceConfig(HistoryConfig, Protocol):
    """What the config of a model says whose keys and values a ranker reads."""

    @property
    def num_layers(self) -> int:
        """Return L, the number of layers that have a cache."""
        ...

    @property
    def num_heads(self) -> int:
        """Return H, the number of attention heads."""
        ...

    @property
    def timed(self) -> bool:
        """Return whether keys are turned by the time of their events, beside their place."""
        ...


class RankerConfig(Protocol):
    """What every config of a ranker says, beside what is the ranker's own."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the A actions, in the order of the logits."""
        ...


class SequenceEncoder(nn.Module, ABC):
    """A model of histories that serves from a state per user.

    What a state is, and so what an event costs, is `state` (see `ouzel.features.states`). The
    methods for the parts of training and serving that most models share are here.

    B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots, N = catalogue
    rows, M = rows asked for, K = candidates, T = positions with a target.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    learning_rate: ClassVar[float] = 1e-3
    """What it is trained with unless told otherwise."""
    ranked: ClassVar[bool] = False
    """Whether rankers can read its states; its config is a `SequenceConfig` then."""
    config: HistoryConfig
    precision: Precision = "fp32"
    """How keys and values are rounded before anything attends to them; training does not round."""
    items: nn.Embedding
    """The item table (N, D) as it is trained; a Bundle holds its two sides apart."""

    def __init__(self, config: Any, num_rows: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_rows, config.dim)

    @classmethod
    def build(cls, preset: str, num_rows: int, **settings: Any) -> Self:
        """Return an untrained model for a catalogue: a preset with `settings` of its config."""
        return cls(replace(cls.presets[preset], **settings), num_rows)

    @property
    @abstractmethod
    def state(self) -> StateShape:
        """Return the sizes of a state in float32."""

    @abstractmethod
    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time.

        `rows_BL` int64 catalogue rows, 0 where padded (at the end only); times int64 ms. A score
        is the inner product of a user vector with an item vector.
        """

    def item_vectors(self) -> Tensor:
        """Return the output-side vectors (N, D) of all catalogue rows."""
        rows_N = torch.arange(self.items.num_embeddings, device=self.items.weight.device)
        return self.item(rows_N, self.items.weight)

    def user_vectors(
        self, rows_BL: Tensor, times_BL: Tensor, length_B: Tensor, now_B: Tensor
    ) -> Tensor:
        """Return the user vectors (B, D) after all `length_B` events of padded histories."""
        newest_B = (length_B - 1).clamp(min=0)
        each_B = torch.arange(len(rows_BL))
        requests_BL = times_BL.clone()
        requests_BL[each_B, newest_B] = now_B
        vectors: Tensor = self(rows_BL, times_BL, requests_BL)[each_B, newest_B]
        return vectors

    def predictions(
        self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor, targets_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return vectors (T, D) for training, and the row (T,) that each should have scored best.

        Those after each event, and the events that came next: `targets_BL`, 0 where padded.
        """
        real_BL = targets_BL > 0
        vectors_BLD = self(rows_BL, times_BL, request_times_BL)
        return vectors_BLD[real_BL], targets_BL[real_BL]

    def step_constants(self) -> dict[str, Tensor]:
        """Return what compiled code needs beside the weights to take the place of the graphs
        `append` and `query`; nothing: there is none."""
        return {}

    def read_by_rankers(self) -> SequenceConfig:
        """Return the config, for a ranker of the states.

        Raises:
            ValueError: no ranker can read them.
        """
        if not self.ranked:
            raise ValueError(
                f"the states of {self.name} hold nothing that a ranker could read: train without a "
                "ranker, or another model"
            )
        return cast(SequenceConfig, self.config)

    # The graphs that serve; docs/architecture.md has their inputs in a table.

    @abstractmethod
    def encode(
        self,
        rows_BL: Tensor,
        times_BL: Tensor,
        length_B: Tensor,
        start_B: Tensor,
        table_ND: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the arrays of a state, then `last` (B, D), which `query` starts from.

        Per layer the keys and values (B, L, H, E) of each event; of a recurrent model the carried
        vectors (B, R); of a re-encoded one nothing. `start_B` events came before those given, so
        positions do not depend on where one begins.
        """

    @abstractmethod
    def append(
        self,
        row_B: Tensor,
        time_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        table_ND: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what is added: per layer a key and a value (B, H, E), then `last` (B, D).

        Of a recurrent model the carried vectors (B, R) come first, of a re-encoded one nothing.
        """

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

        Without time this is the identity on `last`.
        """
        return last_SD[slot_B]

    def score(
        self,
        query_BD: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        candidates_BK: Tensor,
        vectors_ND: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        """Return one logit per candidate and action (B, K, 1): the inner product.

        Candidates meet the history through the query alone; the states are not read.
        """
        logits_BK = torch.einsum("bd,bkd->bk", query_BD, vectors_ND[candidates_BK])
        return logits_BK.unsqueeze(-1)

    def item(self, rows_M: Tensor, table_ND: Tensor) -> Tensor:
        """Return the output-side vectors (M, D) of catalogue rows."""
        return item_side(table_ND[rows_M], self.config.temperature)


class Ranker(nn.Module, ABC):
    """A model that scores given candidates against a user's cached state, for several actions.

    B = batch, K = candidates, A = actions, D = dim, H = heads, E = D / H, W = places of a state,
    S = state slots, N = catalogue rows, F = size of a line of the ranker's own item table.
    """

    name: ClassVar[str]
    """What the ranker is called in a Bundle."""
    config: RankerConfig

    @classmethod
    @abstractmethod
    def build(cls, states: SequenceConfig, actions: tuple[str, ...], num_rows: int) -> Self:
        """Return an untrained ranker for the states of a sequence model."""

    @abstractmethod
    def item_lines(self, rows_M: Tensor, vectors_MD: Tensor) -> Tensor:
        """Return what depends on an item alone (M, F), for rows and their output-side vectors."""

    @abstractmethod
    def kernel_weights(self) -> dict[str, Tensor]:
        """Return what compiled code needs to rank without the graph; nothing: there is none."""

    @abstractmethod
    def forward(
        self,
        query_BD: Tensor,
        now_B: Tensor,
        length_B: Tensor,
        vectors_BKD: Tensor,
        items_BKF: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Return one logit per candidate and action (B, K, A).

        `query_BD` are the user vectors at the request times `now_B` (ms); `vectors_BKD` and
        `items_BKF` the candidates' lines of the item vectors and of `item_lines`; `keys` (B, H, E,
        W) and `values` (B, H, W, E) the users' states in the last layer, as rings in which event p
        lies at p modulo W, after `length_B` events.
        """

    def rank(
        self,
        query_BD: Tensor,
        now_B: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        candidates_BK: Tensor,
        vectors_ND: Tensor,
        items_NF: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        """Return the logits (B, K, A) of candidate rows: what is exported.

        `cache` holds keys (S, H, E, W) and values (S, H, W, E) of the last layer for all slots, in
        int8 with scales as in `SequenceEncoder.append`.
        """
        keys, values = gathered(cache, slot_B).scaled()
        logits: Tensor = self(
            query_BD,
            now_B,
            length_B,
            vectors_ND[candidates_BK],
            items_NF[candidates_BK],
            keys,
            values,
        )
        return logits
