"""What all models of fields share: vectors of fields, the history of who asks, a logit per action.

A model is given ids of the fields of who asks and when (`ouzel.features.fields`), the rows of what
they did, and candidate rows, whose fields are lines of a table. Of that the base makes one vector
for each field: of a field with several values their mean, of the history the mean of its items, or
what the model makes of it for each candidate. An id that was not there in training has no vector,
and a history without events neither, so that whoever is new is scored by what is known.

Candidates see the request and not each other: a score does not depend on which others it rode with.

References:
    Covington, Adams and Sargin, "Deep Neural Networks for YouTube Recommendations", RecSys 2016,
    for the mean of the history. Caruana, "Multitask Learning", Machine Learning 1997, for one head
    per action over shared layers.

Shape legend: B = requests, K = candidates, A = actions, N = catalogue rows, L = events read,
F = fields, S = places (fields with several values have several), D = vector size, X = hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ouzel.features.fields import Schema
from ouzel.models.about import About

OptimizerName = Literal["adamw", "ftrl"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes that fields give a model: ids, and the places of each field by side."""

    num_ids: int
    request: tuple[int, ...]
    item: tuple[int, ...]
    history: int = 0
    """How many of the newest events are read; 0: the model is not told of them."""

    def __post_init__(self) -> None:
        if not self.request or not self.item:
            raise ValueError(
                f"the request has {len(self.request)} fields, the item {len(self.item)}: give each "
                "at least one"
            )

    @classmethod
    def of(cls, schema: Schema, *, history: int) -> Layout:
        """Return the layout of a schema; users and events are one side, that of the request."""
        request = schema.widths("user", "event")
        return cls(
            num_ids=schema.num_ids, request=request, item=schema.widths("item"), history=history
        )

    @property
    def num_fields(self) -> int:
        """Return F: the fields of the request, the history if it is read, those of the item."""
        return len(self.request) + bool(self.history) + len(self.item)


@dataclass(frozen=True, kw_only=True)
class DeepConfig:
    """The shape of a model with hidden layers."""

    dim: int = 16
    """Size D of a field's vector."""
    hidden: int = 256
    """Width X of a hidden layer."""
    num_layers: int = 2
    """How many hidden layers there are."""
    dropout: float = 0.2
    """Dropout after each of them, in training."""
    history: int = 20
    """How many of the newest events are read; 0: none."""

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, hidden=self.hidden, num_layers=self.num_layers)
        if self.history < 0:
            raise ValueError(f"history is {self.history}: give 0 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: give 0 or more, below 1")


def check_sizes(**sizes: int) -> None:
    """Return nothing if all sizes are 1 or more.

    Raises:
        ValueError: one is not.

    >>> check_sizes(dim=0)
    Traceback (most recent call last):
    ...
    ValueError: dim is 0: give 1 or more
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: give 1 or more")


class FieldVectors(nn.Module):
    """A vector (D,) for each field of a line of ids: the mean of those of its known values.

    >>> layout = Layout(num_ids=3, request=(1,), item=(2,))
    >>> vectors = FieldVectors(layout, dim=4)
    >>> ids = torch.tensor([[2, 3], [2, 0]])
    >>> two, one = vectors.items(ids)[:, 0]
    >>> weights = vectors.table.weight
    >>> torch.allclose(two, weights[2:].mean(0)), torch.equal(one, weights[2])
    (True, True)
    """

    def __init__(self, layout: Layout, dim: int, *, std: float = 0.01) -> None:
        super().__init__()
        self.table = nn.Embedding(1 + layout.num_ids, dim, padding_idx=0)
        nn.init.normal_(self.table.weight, std=std)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.layout = layout

    def requests(self, ids_BS: Tensor) -> Tensor:
        """Return the vectors (..., F, D) of the fields of requests."""
        return self._means(ids_BS, self.layout.request)

    def items(self, ids_NS: Tensor) -> Tensor:
        """Return the vectors (..., F, D) of the fields of items."""
        return self._means(ids_NS, self.layout.item)

    def both(self, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the vectors (B, K, F, D) of the fields of requests with each of their items."""
        return joined(self.requests(requests_BS), self.items(items_BKS))

    def _means(self, ids_S: Tensor, widths: tuple[int, ...]) -> Tensor:
        ids = torch.split(ids_S, list(widths), dim=-1)
        vectors = torch.split(self.table(ids_S), list(widths), dim=-2)
        return torch.cat([_mean(*part) for part in zip(ids, vectors, strict=True)], dim=-2)


def _mean(ids_S: Tensor, vectors_SD: Tensor) -> Tensor:
    """Return the mean (..., 1, D) of the vectors of known ids: those of others are zeros."""
    if ids_S.shape[-1] == 1:
        return vectors_SD
    count = (ids_S > 0).sum(-1, keepdim=True).clamp(min=1).unsqueeze(-1)
    return vectors_SD.sum(-2, keepdim=True) / count.to(vectors_SD.dtype)


def joined(requests_BFD: Tensor, items_BKFD: Tensor) -> Tensor:
    """Return the fields of requests before those of each of their items (B, K, F, D).

    >>> joined(torch.zeros(2, 1, 4), torch.zeros(2, 5, 3, 4)).shape
    torch.Size([2, 5, 4, 4])
    """
    asked_BKFD = requests_BFD.unsqueeze(1).expand(-1, items_BKFD.shape[1], -1, -1)
    return torch.cat([asked_BKFD, items_BKFD], dim=2)


class CTRModel(nn.Module, ABC):
    """A model that scores candidates by the fields of who asks, of when, and of the item."""

    name: ClassVar[str]
    """What the model is called on the command line and in a Bundle."""
    about: ClassVar[About]
    presets: ClassVar[Mapping[str, Any]]
    """Its configs by size."""
    optimizer: ClassVar[OptimizerName] = "adamw"
    """What it is trained by."""
    learning_rate: ClassVar[float] = 1e-3
    """What it is trained with unless told otherwise."""
    reads_history: ClassVar[bool] = True
    """Whether the events of who asks are a field."""
    config: Any

    def __init__(self, config: Any, layout: Layout, actions: tuple[str, ...], *, dim: int) -> None:
        super().__init__()
        if not actions or len(set(actions)) != len(actions):
            raise ValueError(f"actions are {actions}: give at least one, each once")
        self.config, self.layout, self.actions = config, layout, actions
        self.vectors = FieldVectors(layout, dim)

    @classmethod
    def build(cls, config: Any, schema: Schema, actions: tuple[str, ...]) -> Self:
        """Return an untrained model over the fields of a schema."""
        history = config.history if cls.reads_history else 0
        return cls(config, Layout.of(schema, history=history), actions)  # type: ignore[call-arg]

    @abstractmethod
    def logits(self, fields_BKFD: Tensor, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the logits (B, K, A) of field vectors; the ids are for parts with own tables."""

    def interest(self, past_BLD: Tensor, there_BL: Tensor, items_BKD: Tensor) -> Tensor:
        """Return what the history says, (B, 1, D), or of each candidate (B, K, D): its mean.

        `past_BLD` and `items_BKD` are sums of field vectors of items.
        """
        there_BL1 = there_BL.unsqueeze(-1).to(past_BLD.dtype)
        return (past_BLD * there_BL1).sum(1, keepdim=True) / there_BL1.sum(1, keepdim=True).clamp(
            min=1
        )

    def forward(
        self,
        requests_BS: Tensor,
        history_BL: Tensor,
        length_B: Tensor,
        candidates_BK: Tensor,
        items_NS: Tensor,
    ) -> Tensor:
        """Return one logit per candidate and action (B, K, A): what is exported.

        `requests_BS` are the ids of user and event, `history_BL` rows of the newest events, oldest
        first, `length_B` of them, `items_NS` the ids of all catalogue rows.
        """
        items_BKS = items_NS[candidates_BK]
        found_BKFD = self.vectors.items(items_BKS)
        asked_BFD = self.vectors.requests(requests_BS)
        if not self.layout.history:
            return self.logits(joined(asked_BFD, found_BKFD), requests_BS, items_BKS)
        past_BLD = self._past(history_BL, items_NS)
        places_L = torch.arange(history_BL.shape[1], device=history_BL.device)
        there_BL = places_L < length_B.unsqueeze(1)
        read_BKD = self.interest(past_BLD, there_BL, found_BKFD.sum(-2))
        read_BKD = read_BKD.expand(-1, candidates_BK.shape[1], -1)
        fields = joined(asked_BFD, torch.cat([read_BKD.unsqueeze(2), found_BKFD], dim=2))
        return self.logits(fields, requests_BS, items_BKS)

    def _past(self, history_BL: Tensor, items_NS: Tensor) -> Tensor:
        """Return the sums of the field vectors of the items of histories (B, L, D)."""
        if self.training and len(items_NS) < history_BL.numel():
            # A batch reads each item many times: its sum is made once.
            return self.vectors.items(items_NS).sum(-2)[history_BL]
        return self.vectors.items(items_NS[history_BL]).sum(-2)


class Wide(nn.Module):
    """A weight for each id and action, added up, with a bias: logits (B, K, A)."""

    def __init__(self, layout: Layout, num_actions: int) -> None:
        super().__init__()
        self.weights = FieldVectors(layout, num_actions, std=0.0)
        self.bias = nn.Parameter(torch.zeros(num_actions))

    def forward(self, requests_BS: Tensor, items_BKS: Tensor) -> Tensor:
        """Return the sum of the weights of all fields."""
        logits: Tensor = self.weights.both(requests_BS, items_BKS).sum(2) + self.bias
        return logits


class Deep(nn.Module):
    """Hidden layers over the vectors of all fields side by side: logits (B, K, A)."""

    def __init__(self, layout: Layout, config: DeepConfig, num_actions: int) -> None:
        super().__init__()
        self.tower = tower(layout.num_fields * config.dim, config)
        self.head = nn.Linear(config.hidden, num_actions)

    def forward(self, fields_BKFD: Tensor) -> Tensor:
        """Return a weighted sum of the last layer for each action."""
        logits: Tensor = self.head(self.tower(fields_BKFD.flatten(2)))
        return logits


def tower(inputs: int, config: DeepConfig) -> nn.Sequential:
    """Return hidden layers (..., inputs) -> (..., X), each with ReLU and dropout.

    >>> tower(3, DeepConfig(hidden=5))(torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """
    sizes = [inputs, *[config.hidden] * config.num_layers]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers)
