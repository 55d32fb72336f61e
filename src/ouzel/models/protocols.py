"""What a model is: the interface that training, export and the contract suite rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from ouzel.models.about import About
from ouzel.models.layers.precision import Precision, gathered


class SequenceConfig(Protocol):
    """What every config of a sequence model says, beside what is the model's own."""

    @property
    def dim(self) -> int:
        """Return the size D of item, event and user vectors."""
        ...

    @property
    def num_layers(self) -> int:
        """Return L, the number of layers that have a cache."""
        ...

    @property
    def num_heads(self) -> int:
        """Return H, the number of attention heads."""
        ...

    @property
    def window(self) -> int:
        """Return W, the events that one position attends to, itself included."""
        ...

    @property
    def dropout(self) -> float:
        """Return the dropout in training."""
        ...

    @property
    def timed(self) -> bool:
        """Return whether keys are turned by the time of their events, beside their place."""
        ...

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events an answer depends on."""
        ...


class RankerConfig(Protocol):
    """What every config of a ranker says, beside what is the ranker's own."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the A actions, in the order of the logits."""
        ...


class SequenceEncoder(nn.Module, ABC):
    """A model of histories that serves from a cache per user.

    B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots, N = catalogue
    rows, M = rows asked for, K = candidates.
    """

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    config: SequenceConfig
    precision: Precision = "fp32"
    """How keys and values are rounded before anything attends to them; training does not round."""
    items: nn.Embedding
    """The item table (N, D) as it is trained; a Bundle holds its two sides apart."""

    @classmethod
    @abstractmethod
    def build(cls, preset: str, num_rows: int, **settings: Any) -> Self:
        """Return an untrained model for a catalogue: a preset with `settings` of its config."""

    @abstractmethod
    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time.

        `rows_BL` int64 catalogue rows, 0 where padded (at the end only); times int64 ms. A score
        is the inner product of a user vector with an item vector.
        """

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the output-side vectors (N, D) of all catalogue rows."""

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
        """Return per layer the keys and values (B, L, H, E) of each event, then `last` (B, D).

        `start_B` events came before those given, so positions do not depend on where one begins.
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
        """Return the new cache rows: per layer a key and a value (B, H, E), then `last` (B, D)."""

    @abstractmethod
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

    @abstractmethod
    def score(
        self,
        query_BD: Tensor,
        length_B: Tensor,
        slot_B: Tensor,
        candidates_BK: Tensor,
        vectors_ND: Tensor,
        *cache: Tensor,
    ) -> Tensor:
        """Return one logit per candidate and action (B, K, A)."""

    @abstractmethod
    def item(self, rows_M: Tensor, table_ND: Tensor) -> Tensor:
        """Return the output-side vectors (M, D) of catalogue rows."""


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
