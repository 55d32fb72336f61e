"""Exports a sequence model as the graphs that serve it (ONNX).

The signatures are those of the design, in the shapes that were measured to be fast: each layer's
cache is an input of its own, keys are stored transposed, users are gathered inside the graph from
the whole pool, and only the new row comes out. The item tables are inputs too, so that all graphs
share one copy of them. States in int8 have two arrays more for each layer, the scales of keys and
of values (S, H, W), and `encode` and `append` give such rows. States of other kinds have other
arrays (`ouzel.features.states`): rings of `rows` or `times` (S, W), which the pool fills itself, or
a carried `state` (S, R).

Shape legend: B = batch, L = length, D = dim, H = heads, E = D / H, W = window, S = state slots,
N = catalogue rows, K = candidates.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from ouzel.bundle.manifest import GraphSignature
from ouzel.features.states import Precision, StateShape
from ouzel.models.ctr.base import CTRModel
from ouzel.models.protocols import Ranker, SequenceConfig, SequenceEncoder

OPSET = 20

Arrays = dict[str, NDArray[Any]]


class _Graph(nn.Module):
    """A method of a model as a module of its own, which is what the exporter takes."""

    def __init__(self, model: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, *inputs: Tensor) -> Any:
        return self.method(*inputs)


def export_graphs(model: SequenceEncoder, precision: Precision = "fp32") -> dict[str, bytes]:
    """Return the graphs `encode`, `append`, `query`, `score`, `item` of `model` as ONNX files.

    Their states keep keys and values in `precision`, and `model` rounds so from now on.

    encode(rows_BL, times_BL, length_B, start_B, table_ND)
        -> key_i, value_i (B, L, H, E) ..., last (B, D)
    append(row_B, time_B, length_B, slot_B, table_ND, keys_i (S, H, E, W), values_i (S, H, W, E)...)
        -> key_i, value_i (B, H, E) ..., last (B, D)
    query(now_B, length_B, slot_B, last_SD, last_time_S, keys, values of the last layer)
        -> vector (B, D)
    score(query_BD, length_B, slot_B, candidates_BK, vectors_ND, keys, values of the last layer)
        -> logits (B, K, 1); this model reads the query and the item vectors only
    item(rows_M, table_ND) -> vectors (M, D)

    >>> from unittest.mock import patch
    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> model = ESASRec(ESASRecConfig(dim=8, num_layers=1, window=4), num_rows=3)
    >>> outputs_of = lambda model, method, inputs, outputs: outputs  # tracing takes seconds
    >>> with patch("ouzel.compression.export._export", outputs_of):
    ...     export_graphs(model)["append"]
    ['key_0', 'value_0', 'last']
    """
    model.eval()
    model.precision = precision
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    return {
        "encode": _export_encode(model),
        "append": _export_append(model),
        "query": _export_query(model),
        "score": _export_score(model),
        "item": _export_item(model),
    }


def export_ranker(
    ranker: Ranker, states: SequenceConfig, precision: Precision = "fp32"
) -> dict[str, bytes]:
    """Return the graph `rank` of `ranker`, for states in `precision` of a model of config `states`.

    rank(query_BD, now_B, length_B, slot_B, candidates_BK, vectors_ND, items_NF, last layer's
        cache) -> logits (B, K, A); `items` holds `Ranker.item_lines` of all rows

    >>> from unittest.mock import patch
    >>> from ouzel.models.ranking import TargetAttention
    >>> from ouzel.models.sequence.esasrec import ESASRecConfig
    >>> states = ESASRecConfig(dim=8, num_layers=1, window=4)
    >>> ranker = TargetAttention.build(states, ("interact",), num_rows=3)
    >>> names_of = lambda model, method, inputs, outputs: list(inputs)  # tracing takes seconds
    >>> with patch("ouzel.compression.export._export", names_of):
    ...     export_ranker(ranker, states)["rank"][4:]
    ['candidates', 'vectors', 'items', 'keys', 'values']
    """
    ranker.eval()
    batch, slots, rows, candidates = Dim("B"), Dim("S"), Dim("N"), Dim("K")
    each, row_M = torch.ones(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    width = ranker.item_lines(row_M, torch.zeros(1, states.dim)).shape[1]
    inputs = {
        "query": (torch.zeros(2, states.dim), {0: batch}),
        "now": (each, {0: batch}),
        "length": (each, {0: batch}),
        "slot": (each, {0: batch}),
        "candidates": (torch.ones(2, 3, dtype=torch.int64), {0: batch, 1: candidates}),
        "vectors": (torch.zeros(4, states.dim), {0: rows}),
        "items": (torch.zeros(4, width), {0: rows}),
        **_last_layer(states, precision, slots),
    }
    return {"rank": _export(ranker, ranker.rank, inputs, ["logits"])}


def export_ctr(model: CTRModel) -> dict[str, bytes]:
    """Return the graph `ctr` of a model of fields.

    ctr(requests_BS, history_BL, length_B, candidates_BK, items_NS) -> logits (B, K, A); ids are
        those of the schema that the model was made for, and the history is a row of zeros where the
        model does not read it

    >>> from unittest.mock import patch
    >>> from ouzel.models.ctr import MLP
    >>> from ouzel.models.ctr.base import DeepConfig, Layout
    >>> model = MLP(DeepConfig(), Layout(num_ids=4, request=(1,), item=(1,)), ("like",))
    >>> names_of = lambda model, method, inputs, outputs: list(inputs)  # tracing takes seconds
    >>> with patch("ouzel.compression.export._export", names_of):
    ...     export_ctr(model)["ctr"]
    ['requests', 'history', 'length', 'candidates', 'items']
    """
    model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch, rows, candidates = Dim("B"), Dim("N"), Dim("K")
    layout = model.layout
    shapes = {
        "requests": ((2, sum(layout.request)), {0: batch}),
        "history": ((2, max(1, layout.history)), {0: batch}),
        "length": ((2,), {0: batch}),
        "candidates": ((2, 3), {0: batch, 1: candidates}),
        "items": ((4, sum(layout.item)), {0: rows}),
    }
    inputs = {
        name: (torch.ones(shape, dtype=torch.int64), free) for name, (shape, free) in shapes.items()
    }
    return {"ctr": _export(model, model.forward, inputs, ["logits"])}


def compiled_parts(model: SequenceEncoder) -> tuple[Arrays, Arrays]:
    """Return the weights of `model` and its `step_constants`, which compiled code reads; where it
    has none of these, there is no such code for it.

    >>> from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
    >>> weights, constants = compiled_parts(ESASRec(ESASRecConfig(timed=False), num_rows=3))
    >>> weights["items.weight"].shape, constants
    ((3, 64), {})
    """
    weights, constants = model.state_dict(), model.step_constants()
    return _arrays(weights), _arrays(constants)


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def cache_names(num_layers: int, precision: Precision = "fp32") -> list[str]:
    """Return the names of the cache inputs of `append`, in order.

    >>> cache_names(2)
    ['keys_0', 'values_0', 'keys_1', 'values_1']
    """
    kinds = _kinds(precision, "keys", "key_scales", "values", "value_scales")
    return [f"{kind}_{layer}" for layer in range(num_layers) for kind in kinds]


def _cache_inputs(
    state: StateShape, precision: Precision, slots: Any, *, only_last: bool
) -> dict[str, tuple[Tensor, dict[int, Any]]]:
    """Return the arrays of all slots that `append` reads, or of its layers the last one's."""
    inputs: dict[str, tuple[Tensor, dict[int, Any]]] = {}
    if state.num_layers and only_last:
        inputs |= _last_layer(state, precision, slots)
    elif state.num_layers:
        tensors = state.num_layers * _cache(state, precision, slots=5)
        for name, tensor in zip(cache_names(state.num_layers, precision), tensors, strict=True):
            inputs[name] = (tensor, {0: slots})
    for column in state.columns:
        inputs[column] = (torch.ones(5, state.window, dtype=torch.int64), {0: slots})
    if state.size:
        inputs["state"] = (torch.zeros(5, state.size), {0: slots})
    return inputs


def row_names(num_layers: int, precision: Precision = "fp32") -> list[str]:
    """Return the names of the outputs of `encode` and `append`, in order.

    >>> row_names(1), row_names(1, "int8")
    (['key_0', 'value_0', 'last'], ['key_0', 'key_scale_0', 'value_0', 'value_scale_0', 'last'])
    """
    kinds = _kinds(precision, "key", "key_scale", "value", "value_scale")
    return [*(f"{kind}_{layer}" for layer in range(num_layers) for kind in kinds), "last"]


def _kinds(precision: Precision, *names: str) -> tuple[str, ...]:
    """Return those of (keys, their scales, values, their scales) that a cache has."""
    return names if precision == "int8" else names[::2]


def _cache(config: SequenceConfig | StateShape, precision: Precision, slots: int) -> list[Tensor]:
    """Return the arrays of one layer's cache."""
    heads, size = config.num_heads, config.dim // config.num_heads
    shapes = {"keys": (slots, heads, size, config.window), "scales": (slots, heads, config.window)}
    shapes["values"] = (slots, heads, config.window, size)
    types = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
    scales = torch.zeros(shapes["scales"])
    arrays = []
    for kind in ("keys", "values"):
        arrays.append(torch.zeros(shapes[kind], dtype=types[precision]))
        if precision == "int8":
            arrays.append(scales)
    return arrays


def _last_layer(
    config: SequenceConfig | StateShape, precision: Precision, slots: Any
) -> dict[str, tuple[Tensor, dict[int, Any]]]:
    """Return the inputs of a graph that reads the last layer's cache."""
    names = _kinds(precision, "keys", "key_scales", "values", "value_scales")
    tensors = _cache(config, precision, slots=5)
    return {name: (tensor, {0: slots}) for name, tensor in zip(names, tensors, strict=True)}


def _export_encode(model: SequenceEncoder) -> bytes:
    batch, length, rows = Dim("B"), Dim("L"), Dim("N")
    sample = torch.ones(2, 3, dtype=torch.int64)
    inputs = {
        "rows": (sample, {0: batch, 1: length}),
        "times": (sample, {0: batch, 1: length}),
        "length": (torch.tensor([3, 2]), {0: batch}),
        "start": (torch.tensor([0, 1]), {0: batch}),
        "table": (torch.zeros(4, model.config.dim), {0: rows}),
    }
    return _export(model, model.encode, inputs, _rows(model))


def _rows(model: SequenceEncoder) -> list[str]:
    names = row_names(model.state.num_layers, model.precision)
    return [*(["carried"] if model.state.size else []), *names]


def _export_append(model: SequenceEncoder) -> bytes:
    batch, slots, rows = Dim("B"), Dim("S"), Dim("N")
    each = torch.ones(2, dtype=torch.int64)
    inputs = {name: (each, {0: batch}) for name in ("row", "time", "length", "slot")}
    inputs["table"] = (torch.zeros(4, model.config.dim), {0: rows})
    inputs |= _cache_inputs(model.state, model.precision, slots, only_last=False)
    return _export(model, model.append, inputs, _rows(model))


def _export_query(model: SequenceEncoder) -> bytes:
    batch, slots = Dim("B"), Dim("S")
    each = torch.ones(2, dtype=torch.int64)
    inputs = {name: (each, {0: batch}) for name in ("now", "length", "slot")}
    inputs["last"] = (torch.zeros(5, model.config.dim), {0: slots})
    inputs["last_time"] = (torch.zeros(5, dtype=torch.int64), {0: slots})
    inputs |= _cache_inputs(model.state, model.precision, slots, only_last=True)
    return _export(model, model.query, inputs, ["vector"])


def _export_score(model: SequenceEncoder) -> bytes:
    batch, slots, rows, candidates = Dim("B"), Dim("S"), Dim("N"), Dim("K")
    each = torch.ones(2, dtype=torch.int64)
    inputs = {
        "query": (torch.zeros(2, model.config.dim), {0: batch}),
        "length": (each, {0: batch}),
        "slot": (each, {0: batch}),
        "candidates": (torch.ones(2, 3, dtype=torch.int64), {0: batch, 1: candidates}),
        "vectors": (torch.zeros(4, model.config.dim), {0: rows}),
        **_cache_inputs(model.state, model.precision, slots, only_last=True),
    }
    return _export(model, model.score, inputs, ["logits"])


def _export_item(model: SequenceEncoder) -> bytes:
    items, rows = Dim("M"), Dim("N")
    inputs = {
        "rows": (torch.ones(2, dtype=torch.int64), {0: items}),
        "table": (torch.zeros(4, model.config.dim), {0: rows}),
    }
    return _export(model, model.item, inputs, ["vectors"])


def _export(
    model: nn.Module,
    method: Callable[..., Any],
    inputs: dict[str, tuple[Tensor, dict[int, Any]]],
    outputs: list[str],
) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            _Graph(model, method),
            # one tensor object used for two inputs would be exported as a single input
            tuple(tensor.clone() for tensor, _ in inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=(tuple(shape for _, shape in inputs.values()),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    exported: bytes = program.model_proto.SerializeToString()
    return exported


def graph_signatures(graphs: dict[str, bytes]) -> dict[str, GraphSignature]:
    """Return the inputs and outputs of exported graphs with their shapes, letters where free.

    >>> from onnx import TensorProto, helper
    >>> rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["M", 2])
    >>> graph = helper.make_model(helper.make_graph([], "same", [rows], [rows]))
    >>> graph_signatures({"same": graph.SerializeToString()})["same"].inputs
    {'rows': ['M', 2]}
    """
    return {name: _signature(onnx.load_model_from_string(graph)) for name, graph in graphs.items()}


def _signature(model: onnx.ModelProto) -> GraphSignature:
    return GraphSignature(
        {node.name: _shape(node) for node in model.graph.input},
        {node.name: _shape(node) for node in model.graph.output},
    )


def _shape(node: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in node.type.tensor_type.shape.dim]
