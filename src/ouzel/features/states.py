"""What a user's state consists of: the sizes that a model, its graphs and the pool agree on.

Beside the vector of the newest event there are three kinds of states:

* *append-exact*: rings of keys and values in each layer, maybe with the times of their events. An
  append computes one row a layer;
* *recurrent*: a vector that each event changes. It depends on the whole history;
* *re-encoded*: the newest events themselves. An append encodes them all again.

Shape legend: D = vector size, W = window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]
"""How the keys and values of user states are kept."""

Kind = Literal["append-exact", "recurrent", "re-encoded"]
"""What an append costs: a row a layer, a step, or an encode."""

Column = Literal["rows", "times"]
"""What a state may keep of its newest W events: their catalogue rows, their times in ms."""

WHOLE_HISTORY = 1 << 40
"""The receptive field of a recurrent state: more events than anybody has."""

MOST_WAITING = 256
"""How many events may wait to be appended to a state without rings."""


@dataclass(frozen=True)
class StateShape:
    """The sizes of one user's state: a ring of `window` keys and values in each layer.

    `precision` is that of keys and values; int8 has a scale for each head of each row. `columns`
    are rings of one number an event, and `size` that of the vector that is carried from event to
    event. Without rings `window` is how many events may wait to be appended.
    """

    num_layers: int
    num_heads: int
    head_size: int
    window: int
    precision: Precision = "fp32"
    columns: tuple[Column, ...] = ()
    size: int = 0

    @property
    def dim(self) -> int:
        """Return D."""
        return self.num_heads * self.head_size

    @property
    def kind(self) -> Kind:
        """Return what an append costs."""
        if self.num_layers:
            return "append-exact"
        return "recurrent" if self.size else "re-encoded"

    @property
    def receptive_field(self) -> int:
        """Return how many of the newest events a state depends on."""
        if self.kind == "append-exact":
            return self.num_layers * (self.window - 1) + 1
        return WHOLE_HISTORY if self.kind == "recurrent" else self.window
