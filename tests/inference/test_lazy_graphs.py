"""Graphs are loaded when they run: never, where a kernel serves."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from ouzel.compression.export import compiled_parts, export_graphs, graph_signatures
from ouzel.inference import onnxruntime
from ouzel.inference.gated_steps import GatedSteps
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import slot_bytes
from ouzel.inference.states import UserStates
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig
from ouzel.serving.home import open_home
from ouzel.serving.timing import Timing
from ouzel.serving.wire import RecommendRequest
from tests.serving.real_home import write_home
from tests.tiny import NUM_ROWS, START_MS, random_history, tiny_files, tiny_graphs

needs_kernel = pytest.mark.skipif(not GatedSteps.work(), reason="no kernel of steps here")


@pytest.fixture
def loaded(monkeypatch):
    """Return the count of sessions made, by the name of the graph's file."""
    made, session = Counter(), onnxruntime._session

    def noted(graph, threads):
        made[graph if isinstance(graph, str | bytes) else graph.stem] += 1
        return session(graph, threads)

    monkeypatch.setattr(onnxruntime, "_session", noted)
    return made


@needs_kernel
def test_where_the_kernel_serves_no_session_is_made(loaded) -> None:
    model = ESASRec(ESASRecConfig(dim=32, num_layers=1, num_heads=2, window=8), NUM_ROWS).eval()
    files = export_graphs(model, "int8")
    graphs = Graphs(
        files,
        model.items.weight.detach().numpy().copy(),
        compiled=compiled_parts(model),
        signatures=graph_signatures(files),
    )
    history = random_history(np.random.default_rng(1), 12)
    states = UserStates(
        graphs,
        max_bytes=4 * slot_bytes(graphs.shape),
        load_history=lambda user: history,
        version="test",
    )
    states.query([0, 1], START_MS + 10**11)
    states.observe(1, 3, int(history.times_ms[-1]) + 1)
    states.query([1], START_MS + 10**11)
    assert states.stats.appends == 1 and not loaded
    graphs.without_kernel().item(np.arange(3))
    assert len(loaded) == 1


@needs_kernel
@pytest.mark.parametrize("compiled", [True, False])
def test_a_server_loads_what_it_runs_and_each_once(tmp_path, loaded, compiled) -> None:
    write_home(tmp_path, precision="int8", compiled=compiled)
    loaded.clear()
    engine = open_home(tmp_path, state_bytes=1 << 20)

    async def answered() -> None:
        await engine.start()
        answer = await engine.answers.answer(RecommendRequest(user_id="u1"), Timing())
        await engine.close()
        assert len(answer.found) == 10 and answer.degraded is None

    asyncio.run(answered())
    # The kernel has no `encode` for heads as small as those of the tiny model.
    assert loaded == dict.fromkeys(["encode"] if compiled else ["encode", "query"], 1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_shape_from_signatures_is_that_of_the_sessions(loaded, precision) -> None:
    files = tiny_files(precision=precision)
    told = Graphs(files, tiny_graphs().table, signatures=graph_signatures(files))
    assert bool(loaded) == (precision != "int8")  # what is not told is asked of the graph
    asked = Graphs(files, tiny_graphs().table)
    assert told.shape == asked.shape and told.counts_from_start == asked.counts_from_start
    np.testing.assert_array_equal(told.item(np.arange(3)), asked.item(np.arange(3)))
