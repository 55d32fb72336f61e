"""Exported graphs against torch, and what happens when they differ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ouzel.compression.export import graph_signatures
from ouzel.compression.parity import PARITY_BOUND, measure_parity
from ouzel.features.states import Precision
from ouzel.inference.onnxruntime import Graphs
from tests.tiny import NUM_ROWS, random_history, tiny_files, tiny_graphs, tiny_model

HISTORIES = [random_history(np.random.default_rng(n), n) for n in (1, 2, 7, 8, 9, 16, 40, 70)]


@pytest.mark.parametrize("timed", [True, False])
def test_graphs_are_within_the_bound_of_the_model(timed: bool) -> None:
    bounds = measure_parity(tiny_model(timed=timed), tiny_graphs(timed=timed), HISTORIES)
    assert set(bounds) == {"export", "append", "score"}
    assert 0 < max(bounds.values()) < PARITY_BOUND


def test_the_item_graph_gives_the_models_item_vectors() -> None:
    expected = tiny_model().item_vectors().detach().numpy()
    np.testing.assert_allclose(tiny_graphs().item(np.arange(NUM_ROWS)), expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_round_as_the_model_does(precision: Precision) -> None:
    model = tiny_model()
    model.precision = precision
    bounds = measure_parity(model, tiny_graphs(precision=precision), HISTORIES)
    assert max(bounds.values()) < {"fp16": 5e-3, "int8": 5e-2}[precision]
    assert model.precision == precision


def test_graphs_that_round_are_not_those_of_a_model_that_does_not() -> None:
    with pytest.raises(ValueError, match="off by"):
        measure_parity(tiny_model(), tiny_graphs(precision="int8"), HISTORIES)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("graph", ["encode", "append", "query"])
def test_a_graph_with_one_changed_weight_is_refused(graph: str, precision: Precision) -> None:
    """The planted fault: one tensor of one graph a little off."""
    files = tiny_files(precision=precision)
    model = onnx.load_model_from_string(files[graph])
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name)
    )
    files[graph] = model.SerializeToString()
    broken = Graphs(files, tiny_graphs().table)
    whole = tiny_model()
    whole.precision = precision
    with pytest.raises(ValueError, match="off by"):
        measure_parity(whole, broken, HISTORIES)


def test_signatures_are_those_of_the_design() -> None:
    signatures = graph_signatures(tiny_files())
    assert set(signatures) == {"encode", "append", "query", "score", "item"}
    assert signatures["encode"].inputs == {
        "rows": ["B", "L"],
        "times": ["B", "L"],
        "length": ["B"],
        "start": ["B"],
        "table": ["N", 16],
    }
    cache = {"keys": ["S", 2, 8, 8], "values": ["S", 2, 8, 8]}
    assert list(signatures["append"].inputs) == [
        "row", "time", "length", "slot", "table", "keys_0", "values_0", "keys_1", "values_1",
    ]  # fmt: skip
    assert list(signatures["append"].outputs) == ["key_0", "value_0", "key_1", "value_1", "last"]
    assert signatures["query"].inputs | cache == signatures["query"].inputs
    assert list(signatures["query"].outputs) == ["vector"]
    assert list(signatures["score"].outputs) == ["logits"]


def test_the_graphs_share_no_copy_of_the_item_table() -> None:
    for name, graph in tiny_files().items():
        weights = onnx.load_model_from_string(graph).graph.initializer
        assert not any(NUM_ROWS in tensor.dims for tensor in weights), name
