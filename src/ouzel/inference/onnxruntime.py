"""The exported graphs of a Bundle, run by ONNX Runtime.

Shape legend: B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots,
N = catalogue rows with the padding row 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ouzel.bundle.bundle import Bundle
from ouzel.bundle.manifest import GraphSignature
from ouzel.features.batches import PaddedHistories
from ouzel.features.states import MOST_WAITING, Column, Precision, StateShape
from ouzel.inference.gated_steps import GatedSteps
from ouzel.inference.input_table import InputTable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = NDArray[Any]

_PRECISIONS: dict[str, Precision] = {
    "tensor(float)": "fp32",
    "tensor(float16)": "fp16",
    "tensor(int8)": "int8",
}
RANK = "rank"
"""The graph of a ranker, which not every Bundle has."""

CTR = "ctr"
"""The graph of a model of fields, which is no step of a user's state."""

GRAPHS = ("encode", "append", "query", "score", "item", RANK)

COLUMNS: tuple[Column, ...] = get_args(Column)

STEPS_FILE = "steps.safetensors"
"""What a Bundle holds for the kernel of `ouzel.inference.gated_steps`, beside the weights."""

Compiled = tuple[Mapping[str, Array], Mapping[str, Array]]
"""The weights of a model and its `step_constants`."""


class Graphs:
    """The graph sessions and the frozen input side of the item table that they read.

    A session is made when its graph first runs, and ONNX Runtime loaded for the first of them:
    never, where a kernel serves and the Bundle says what the graphs take.
    """

    def __init__(
        self,
        graphs: Mapping[str, Path | bytes],
        table: InputTable | NDArray[np.float32],
        *,
        threads: int = 1,
        compiled: Compiled | None = None,
        signatures: Mapping[str, GraphSignature] | None = None,
    ) -> None:
        self._graphs = graphs
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._signatures = signatures or {}
        self.table = table if isinstance(table, InputTable) else InputTable(table)
        self.shape = self._state_shape()
        if "rows" in self.shape.columns:
            # Its graphs read the rows of events that a state holds, not only those they are given.
            self.table = InputTable(self.table.whole())
        self.counts_from_start = "start" in self._inputs("encode")
        """Whether positions count from the first event; in older Bundles, from what is encoded."""
        self.steps = None if compiled is None else GatedSteps.of(self.shape, *compiled)
        """The kernel in place of the graphs `append` and `query`, None: they serve."""

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1) -> Graphs:
        """Return the graphs of `bundle`; `threads` is the number of cores one call may use."""
        names = [name for name in GRAPHS if name in bundle.manifest.graphs or name != RANK]
        compiled = None
        if STEPS_FILE in bundle.manifest.files:
            compiled = bundle.tensors("weights"), bundle.tensors("steps")
        graphs = {name: bundle.graph(name) for name in names}
        return cls(
            graphs,
            InputTable.of(bundle),
            threads=threads,
            compiled=compiled,
            signatures=bundle.manifest.graphs,
        )

    def without_kernel(self) -> Graphs:
        """Return the same graphs, all of which serve themselves.

        >>> from types import SimpleNamespace
        >>> Graphs.without_kernel(SimpleNamespace(steps="kernel")).steps is None
        True
        """
        plain = copy(self)
        plain.steps = None
        return plain

    @property
    def num_rows(self) -> int:
        """Return N: rows at or above it are items this Bundle does not know."""
        return len(self.table)

    def encode(self, histories: PaddedHistories, start_B: NDArray[np.int64]) -> list[Array]:
        """Return per layer keys and values (B, L, H, E) of each event, then `last` (B, D).

        `start_B` events came before those given. In int8 each of keys and values is followed by its
        scales (B, L, H).
        """
        table, rows_BL = self.table.read(histories.rows_BL)
        if self.steps is not None and self.steps.encodes and len(histories.length_B):
            return self.steps.encode(
                rows_BL=rows_BL,
                times_BL=histories.times_BL,
                length_B=histories.length_B,
                start_B=start_B,
                table_ND=table,
            )
        feeds: dict[str, Array] = {
            "rows": rows_BL,
            "times": histories.times_BL,
            "length": histories.length_B,
            "table": table,
        }
        if self.counts_from_start:
            feeds["start"] = start_B
        return self._run("encode", feeds)

    def append(
        self, *, row_B: Array, time_B: Array, length_B: Array, slot_B: Array, cache: Sequence[Array]
    ) -> list[Array]:
        """Return per layer the new key and value (B, H, E), then `last` (B, D).

        `length_B` counts the events before; `cache` holds each layer's rings for all slots. In
        int8 each of both is followed by its scales (B, H).
        """
        table, row_B = self.table.read(row_B)
        if self.steps is not None:
            return self.steps.append(
                row_B=row_B,
                time_B=time_B,
                length_B=length_B,
                slot_B=slot_B,
                table_ND=table,
                cache=cache,
            )
        feeds: dict[str, Array] = {
            "row": row_B,
            "time": time_B,
            "length": length_B,
            "slot": slot_B,
            "table": table,
        }
        feeds.update(zip(self._cache_names, cache, strict=True))
        return self._run("append", feeds)

    def query(
        self,
        *,
        now_B: Array,
        length_B: Array,
        slot_B: Array,
        last_SD: Array,
        last_time_S: Array,
        cache: Sequence[Array],
    ) -> NDArray[np.float32]:
        """Return the user vectors (B, D) at request times `now_B` in ms.

        Of `cache`, each layer's rings for all slots, the last layer's are read, and what comes
        after them.
        """
        if self.steps is not None:
            return self.steps.query(
                now_B=now_B,
                length_B=length_B,
                slot_B=slot_B,
                last_SD=last_SD,
                last_time_S=last_time_S,
                cache=cache,
            )
        feeds: dict[str, Array] = {
            "now": now_B,
            "length": length_B,
            "slot": slot_B,
            "last": last_SD,
            "last_time": last_time_S,
        }
        feeds.update(self._last_layer(cache))
        return np.asarray(self._run("query", feeds)[0], np.float32)

    def score(
        self,
        *,
        query_BD: Array,
        length_B: Array,
        slot_B: Array,
        candidates_BK: Array,
        vectors_ND: Array,
        cache: Sequence[Array],
    ) -> NDArray[np.float32]:
        """Return logits (B, K, actions) of candidate rows; `cache` is read, never written."""
        feeds: dict[str, Array] = {
            "query": query_BD,
            "length": length_B,
            "slot": slot_B,
            "candidates": candidates_BK,
            "vectors": vectors_ND,
        }
        feeds.update(self._last_layer(cache))
        return np.asarray(self._run("score", feeds)[0], np.float32)

    def rank(
        self,
        *,
        query_BD: Array,
        now_B: Array,
        candidates_BK: Array,
        tables: tuple[Array, Array],
        length_B: Array,
        slot_B: Array,
        cache: Sequence[Array],
    ) -> NDArray[np.float32]:
        """Return the ranker's logits (B, K, actions) of candidate rows; `cache` is only read.

        `tables` are the output-side item vectors (N, D) and the ranker's own lines (N, F).
        """
        feeds: dict[str, Array] = {
            "query": query_BD,
            "now": now_B,
            "length": length_B,
            "slot": slot_B,
            "candidates": candidates_BK,
            "vectors": tables[0],
            "items": tables[1],
        }
        feeds.update(self._last_layer(cache))
        return np.asarray(self._run(RANK, feeds)[0], np.float32)

    def item(self, rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the output-side vectors (M, D) that the model gives catalogue rows."""
        table, rows_M = self.table.read(rows_M)
        return np.asarray(self._run("item", {"rows": rows_M, "table": table})[0])

    def _run(self, name: str, feeds: dict[str, Array]) -> list[Array]:
        outputs: list[Array] = self._session(name).run(None, feeds)
        return outputs

    def _session(self, name: str) -> InferenceSession:
        if name not in self._sessions:
            self._sessions[name] = _session(self._graphs[name], self._threads)
        return self._sessions[name]

    @cached_property
    def _cache_names(self) -> tuple[str, ...]:
        return self._names("append", 5)

    @cached_property
    def _last_layer_names(self) -> tuple[str, ...]:
        return self._names("query", 5)

    def _last_layer(self, cache: Sequence[Array]) -> Iterable[tuple[str, Array]]:
        names = self._last_layer_names
        return zip(names, cache[-len(names) :], strict=True)

    def _names(self, graph: str, first: int) -> tuple[str, ...]:
        """Return the names of a graph's inputs from the place `first` on: those of the cache."""
        return tuple(node.name for node in self._session(graph).get_inputs()[first:])

    def _inputs(self, graph: str) -> Mapping[str, Sequence[Any]]:
        """Return the dimensions of a graph's inputs by name: numbers, and names where they vary."""
        if graph in self._signatures:
            return self._signatures[graph].inputs
        return {node.name: node.shape for node in self._session(graph).get_inputs()}

    def _state_shape(self) -> StateShape:
        inputs = self._inputs("append")
        columns = tuple(name for name in COLUMNS if name in inputs)
        size = inputs["state"][1] if "state" in inputs else 0
        num_layers = sum(name.startswith("keys_") for name in inputs)
        if not num_layers:
            window = inputs[columns[0]][1] if columns else MOST_WAITING
            return StateShape(0, 1, self.table.dim, window, columns=columns, size=size)
        _, heads, head_size, window = inputs["keys_0"]
        precision: Precision = "int8" if "key_scales_0" in inputs else self._told_precision()
        return StateShape(num_layers, heads, head_size, window, precision, columns, size)

    def _told_precision(self) -> Precision:
        types = {node.name: node.type for node in self._session("append").get_inputs()}
        return _PRECISIONS[types["keys_0"]]


class FieldsGraph:
    """The session of a model of fields (`ouzel.inference.fields`)."""

    def __init__(self, graph: Path | bytes, *, threads: int = 1) -> None:
        self._session = _session(graph, threads)

    def __call__(
        self,
        *,
        requests_BS: Array,
        history_BL: Array,
        length_B: Array,
        candidates_BK: Array,
        items_NS: Array,
    ) -> NDArray[np.float32]:
        """Return the logits (B, K, actions) of candidate rows."""
        feeds: dict[str, Array] = {
            "requests": requests_BS,
            "history": history_BL,
            "length": length_B,
            "candidates": candidates_BK,
            "items": items_NS,
        }
        return np.asarray(self._session.run(None, feeds)[0], np.float32)


def _session(graph: Path | bytes, threads: int) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )
