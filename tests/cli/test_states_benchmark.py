"""The benchmark of user states: every variant is measured, and says how far its vectors are off."""

from __future__ import annotations

import numpy as np
import pytest

from ouzel.cli import main
from ouzel.cli.benchmarking import states
from ouzel.cli.benchmarking.states import VARIANTS, Variant, measure, state_rows
from ouzel.compression.onnxruntime import with_int8_weights
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, slot_bytes
from tests.tiny import NUM_ROWS, tiny_files, tiny_graphs


def tiny_variants(*_) -> list[Variant]:
    made = []
    for weights, precision in VARIANTS:
        files = tiny_files(precision=precision)
        if weights == "int8":
            files = {name: with_int8_weights(graph) for name, graph in files.items()}
        graphs = Graphs(files, tiny_graphs().table)
        pool = StatePool(graphs.shape, max_bytes=states.NUM_USERS * slot_bytes(graphs.shape))
        made.append(Variant(weights, precision, graphs, pool))
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "NUM_ROWS", NUM_ROWS)
    monkeypatch.setattr(states, "variants", tiny_variants)


def test_every_variant_has_a_row() -> None:
    rows = list(state_rows(None, case="append-s", quick=True, seed=0, told=lambda words: None))
    assert [(row["weights"], row["states"]) for row in rows] == list(VARIANTS)
    assert [row["events"] for row in rows] == 4 * [states.QUICK_ROUNDS]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["encode_p50_ms"] > 0 for row in rows)
    cosines = [row["vector_cosine"] for row in rows]
    assert cosines[0] == pytest.approx(1) and 0.9 < min(cosines[1:]) <= max(cosines[1:]) < 1 + 1e-6


def test_what_is_measured_is_a_state_that_goes_on() -> None:
    """The planted fault would be to append to a copy: lengths tell."""
    made = tiny_variants()[:1]
    vectors = measure(made, 2 * states.NUM_USERS, seed=0)
    window = made[0].pool.shape.window
    assert made[0].pool.length_S.tolist() == states.NUM_USERS * [window + 2]
    assert vectors[0].shape == (states.NUM_USERS, 16) and np.isfinite(vectors[0]).all()


@pytest.mark.parametrize(
    "words",
    [
        ["states", "--case", "10k"],
        ["serving", "--case", "append-xl"],
        ["states", "--case", "append-l", "--peer"],
    ],
)
def test_what_does_not_go_together_is_refused(words, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *words])
    assert ended.value.code == 2
