"""The ranker's graph against the ranker, and what happens when they differ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ouzel.compression.export import graph_signatures
from ouzel.compression.parity import PARITY_BOUND, measure_ranker_parity
from ouzel.inference.onnxruntime import Graphs
from tests.tiny import (
    NUM_ROWS,
    random_history,
    tiny_files,
    tiny_graphs,
    tiny_ranked_graphs,
    tiny_ranker,
    tiny_ranker_files,
    tiny_tables,
)

HISTORIES = [random_history(np.random.default_rng(n), n) for n in (1, 2, 7, 8, 9, 16, 40)]


def test_the_graph_is_within_the_bound_of_the_ranker() -> None:
    bounds = measure_ranker_parity(tiny_ranker(), tiny_ranked_graphs(), tiny_tables(), HISTORIES)
    assert set(bounds) == {"rank"} and 0 < bounds["rank"] < PARITY_BOUND


def test_a_graph_with_one_changed_weight_is_refused() -> None:
    model = onnx.load_model_from_string(tiny_ranker_files()["rank"])
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name)
    )
    broken = Graphs({**tiny_files(), "rank": model.SerializeToString()}, tiny_graphs().table)
    with pytest.raises(ValueError, match="off by"):
        measure_ranker_parity(tiny_ranker(), broken, tiny_tables(), HISTORIES)


def test_the_graph_has_free_sizes_and_no_copy_of_a_table() -> None:
    graph = tiny_ranker_files()
    signature = graph_signatures(graph)["rank"]
    assert signature.inputs["candidates"] == ["B", "K"]
    assert signature.inputs["keys"] == ["S", 2, 8, 8]
    assert signature.inputs["values"] == ["S", 2, 8, 8]
    assert list(signature.outputs) == ["logits"]
    weights = onnx.load_model_from_string(graph["rank"]).graph.initializer
    assert not any(NUM_ROWS in tensor.dims for tensor in weights)
