"""Every sequence model through its exported graphs: parity, and what a click does, over HTTP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ouzel.compression.export import export_graphs
from ouzel.compression.parity import PARITY_BOUND, measure_parity
from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.inference.audit import Audit
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import history_hash, slot_bytes
from ouzel.inference.states import UserStates
from tests.models.every import KINDS, NAMES, graphs_of, tiny
from tests.tiny import WINDOW, random_history

HOUR_MS = 3_600_000
HISTORIES = [random_history(np.random.default_rng(n), n) for n in (1, 2, 5, WINDOW, 3 * WINDOW)]


def exact(name: str, history: History, now_ms: int) -> np.ndarray:
    """Return the user vector of the whole history in float64, from scratch."""
    padded = pad_histories([history])
    arrays = (padded.rows_BL, padded.times_BL, padded.length_B, np.array([now_ms]))
    with torch.no_grad():
        return tiny(name).double().user_vectors(*map(torch.from_numpy, arrays))[0].numpy()


def part(history: History, events: int) -> History:
    return History(history.rows[:events], history.times_ms[:events])


@pytest.mark.parametrize("name", NAMES)
class TestServing:
    def test_graphs_are_within_the_bound_of_the_model(self, name: str) -> None:
        bounds = measure_parity(tiny(name), graphs_of(name), HISTORIES)
        assert 0 <= max(bounds.values()) < PARITY_BOUND

    def test_graphs_tell_the_state_that_the_model_declares(self, name: str) -> None:
        assert graphs_of(name).shape == tiny(name).state
        assert graphs_of(name).shape.kind == KINDS[name]

    def test_every_event_is_in_the_very_next_vector(self, name: str) -> None:
        whole = random_history(np.random.default_rng(9), 3 * WINDOW)
        held = {4: HISTORIES[-1], 0: part(whole, 1)}
        states = UserStates(
            graphs_of(name), max_bytes=1 << 20, load_history=held.__getitem__, version="v"
        )
        other = states.query([4], 0)[0][0]  # has the first slot
        before = states.query([0], int(whole.times_ms[0]))[0][0]
        for events in range(2, len(whole) + 1):
            now_ms = int(whole.times_ms[events - 1]) + HOUR_MS
            held[0] = part(whole, events)
            states.observe(0, int(whole.rows[events - 1]), int(whole.times_ms[events - 1]))
            found = states.query([0], now_ms)[0][0]
            np.testing.assert_allclose(found, exact(name, held[0], now_ms), atol=PARITY_BOUND)
            assert np.abs(found - before).max() > 1e-3
            before = found
        np.testing.assert_allclose(states.query([4], 0)[0][0], other, atol=PARITY_BOUND)
        assert states.stats.rebuilds == 2 and states.stats.appends == len(whole) - 1
        assert max(states.audit(0), states.audit(4)) < PARITY_BOUND

    def test_an_audit_sees_a_state_that_is_off(self, name: str) -> None:
        """The planted fault: every number of the state, one array after another.

        Keys are left out by the audit: older Bundles turned them by places from another start.
        """
        history = HISTORIES[-1]
        states = UserStates(
            graphs_of(name), max_bytes=1 << 20, load_history=lambda user: history, version="v"
        )
        states.query([0], 0)
        layers = 2 * states.pool.shape.num_layers
        for index in [*range(1, layers, 2), *range(layers, len(states.pool.cache))]:
            audit = states.begin_audit(0)
            assert audit.error() < PARITY_BOUND
            changed = audit.stored.cache[index]
            changed += np.ones((), changed.dtype)
            wrong = Audit(audit.graphs, audit.stored, history_hash(history), history)
            assert wrong.error() > 1e-3, f"array {index}"


def test_states_take_the_bytes_that_their_kind_says() -> None:
    small = {name: slot_bytes(tiny(name).state) for name in NAMES}
    assert small["gru4rec"] == small["linear_recurrent"] == 2 * 16 * 4 + 16 * 4 + 33
    assert small["sasrec"] == WINDOW * 8 + 16 * 4 + 33
    assert small["hstu"] == small["esasrec"] + WINDOW * 8


@pytest.mark.parametrize("kind", ["recurrent", "re-encoded"])
def test_a_precision_is_refused_where_there_is_nothing_to_round(kind: str) -> None:
    from ouzel.compression.state_precision import choose_precision

    name = next(name for name in NAMES if KINDS[name] == kind)
    assert choose_precision(tiny(name), HISTORIES).chosen == "fp32"
    with pytest.raises(ValueError, match=f"{name} hold no keys and values"):
        choose_precision(tiny(name), HISTORIES, asked="int8")
    assert replace(tiny(name).state, precision="fp32") == tiny(name).state


def test_hstu_rounds_in_its_graphs_as_in_the_model() -> None:
    """It keeps times beside keys, values and their scales."""
    model = tiny("hstu")
    files = export_graphs(model, "int8")
    graphs = Graphs(files, model.items.weight.detach().numpy().copy())
    assert graphs.shape == replace(model.state, precision="int8")
    assert max(measure_parity(model, graphs, HISTORIES).values()) < 5e-2
