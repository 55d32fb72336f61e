"""Candidates scored by their fields: a model of fields over the history of who asks.

Nothing of a user is stored: what they did is in the query with every acknowledged event, so a
click counts in the very next order. What an item's fields are was read from the catalogue's columns
when the model was made.

Shape legend: B = requests, K = candidates, A = actions, N = catalogue rows, S = places of a side's
fields, L = events read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.events.interactions import History
from ouzel.features.fields import Field, Schema, event_ids
from ouzel.inference.onnxruntime import CTR, FieldsGraph
from ouzel.inference.ranking import Asking, Stored


class FieldRanker:
    """The model of fields of a Bundle.

    `items_NS` are the ids of all catalogue rows by `schema`; `actions` name the logits; `length` is
    how many of the newest events are read.

    Raises:
        ValueError: the table is of other fields than the schema.
    """

    kernel = None
    reads_vector = False

    def __init__(
        self,
        graph: FieldsGraph,
        schema: Schema,
        items_NS: NDArray[np.integer],
        *,
        actions: Sequence[str],
        length: int,
    ) -> None:
        if items_NS.ndim != 2 or items_NS.shape[1] != sum(schema.widths("item")):
            raise ValueError(
                f"the table of items has the shape {items_NS.shape}, which is not that of the "
                "fields: the file is damaged"
            )
        self.actions = tuple(actions)
        self._graph, self._schema, self._length = graph, schema, length
        self._items_NS = np.ascontiguousarray(items_NS, np.int64)
        self._no_user_S = np.zeros((1, sum(schema.widths("user"))), np.int64)

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1) -> Self | None:
        """Return the ranker of a Bundle, None if it has none."""
        told = bundle.manifest.features.get(CTR)
        if told is None:
            return None
        graph = FieldsGraph(bundle.graph(CTR), threads=threads)
        return cls.from_told(told, graph, bundle.tensors(CTR))

    @classmethod
    def from_told(
        cls, told: Mapping[str, Any], graph: FieldsGraph, tensors: Mapping[str, NDArray[Any]]
    ) -> Self:
        """Return the ranker that a manifest describes.

        Raises:
            ValueError: what it says fits no ranker.
        """
        try:
            fields = msgspec.convert(told["fields"], tuple[Field, ...])
            actions, length = tuple(told["actions"]), int(told["history"])
            items_NS = tensors["items"]
        except (KeyError, msgspec.ValidationError) as error:
            raise ValueError(f"the ranker of fields is damaged ({error}): train again") from None
        return cls(graph, Schema(fields), items_NS, actions=actions, length=length)

    @property
    def num_rows(self) -> int:
        """Return how many rows it knows, padding included."""
        return len(self._items_NS)

    def over(self, states: Stored) -> Self:
        """Return itself: it reads no states."""
        return self

    def begin(self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]) -> None:
        """Return None: there is no compiled code for it."""

    def logits(
        self, asking: Sequence[Asking], candidates_BK: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Return the logits (B, K, A) of candidate rows, and for whom there are any: everybody."""
        now_B = np.array([who.now_ms for who in asking], np.int64)
        events_BS = event_ids(self._schema, now_B).astype(np.int64)
        users_BS = np.repeat(self._no_user_S, len(asking), axis=0)
        history_BL, length_B = self._newest([who.history for who in asking])
        logits_BKA = self._graph(
            requests_BS=np.concatenate([users_BS, events_BS], axis=1),
            history_BL=history_BL,
            length_B=length_B,
            candidates_BK=candidates_BK,
            items_NS=self._items_NS,
        )
        return logits_BKA, [True] * len(asking)

    def _newest(self, histories: Sequence[History]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the newest known events (B, L) of histories, oldest first, and how many."""
        rows_BL = np.zeros((len(histories), max(1, self._length)), np.int64)
        length_B = np.zeros(len(histories), np.int64)
        for line, history in enumerate(histories if self._length else ()):
            known = history.rows[history.rows < self.num_rows][-self._length :]
            rows_BL[line, : len(known)] = known
            length_B[line] = len(known)
        return rows_BL, length_B
