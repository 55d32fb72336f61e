"""The ten conditions under which a state is append-exact, each as a property that can fail.

The oracle is the torch model in float64 on the whole history.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from ouzel.events.interactions import History
from ouzel.features.batches import pad_histories
from ouzel.features.states import Precision, StateShape
from ouzel.inference.audit import AUDIT_TOLERANCE
from ouzel.inference.encoding import HistoryEncoder
from ouzel.inference.gated_steps import GatedSteps
from ouzel.inference.onnxruntime import Graphs
from ouzel.inference.pool import StatePool, history_hash, rings, slot_bytes
from ouzel.inference.states import UserStates
from tests.tiny import (
    NUM_ROWS,
    START_MS,
    WINDOW,
    oracle,
    random_history,
    tiny_files,
    tiny_graphs,
    tiny_model,
)

BOUND = 1e-4
"""The promise, on the entries of a user vector whose length is 1 / temperature = 20."""

BOUNDS = {"fp32": BOUND, "fp16": 5e-3, "int8": 5e-2}
"""A last bit of a float32 may round an entry of a state to the next step, in one of the two."""

HOUR = 3_600_000
precisions = pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
timed_or_not = pytest.mark.parametrize("timed", [True, False], ids=["timed", "untimed"])


@pytest.fixture(scope="module", autouse=True, params=["graphs", "kernel"])
def kind_of_steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """Append and ask by the graphs, then by the kernel in their place."""
    if request.param == "kernel" and not GatedSteps.work():
        pytest.skip("no kernel of steps on this machine")
    compiled = partial(tiny_graphs, compiled=request.param == "kernel")
    with patch("tests.inference.test_exactness.tiny_graphs", compiled):
        yield


def states_of(
    histories: dict[int, History],
    *,
    timed: bool = True,
    slots: int = 4,
    precision: Precision = "fp32",
) -> UserStates:
    graphs = tiny_graphs(timed=timed, precision=precision)
    return UserStates(
        graphs,
        max_bytes=slots * slot_bytes(graphs.shape),
        load_history=histories.__getitem__,
        version="test",
        tolerance=max(AUDIT_TOLERANCE, BOUNDS[precision]),
    )


def append(histories: dict[int, History], user: int, row: int, time_ms: int) -> None:
    old = histories[user]
    place = int(np.searchsorted(old.times_ms, time_ms, side="right"))
    histories[user] = History(
        np.insert(old.rows, place, row).astype(np.int32), np.insert(old.times_ms, place, time_ms)
    )


def vector(states: UserStates, user: int, now_ms: int) -> np.ndarray:
    vectors, known = states.query([user], now_ms)
    assert known == [True]
    return vectors[0]


@timed_or_not
@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 60])
def test_a_chain_of_appends_is_the_whole_history(timed: bool, length: int) -> None:
    """Conditions 1, 2 and 4: causal, relative, constant normaliser, far past the ring's wrap."""
    whole = random_history(np.random.default_rng(length), length)
    histories = {0: whole.last(length)}
    histories[0] = History(whole.rows[:1], whole.times_ms[:1])
    states = states_of(histories, timed=timed)
    model = tiny_model(timed=timed)
    vector(states, 0, START_MS)
    for n in range(1, length + 1):
        if n > 1:
            append(histories, 0, int(whole.rows[n - 1]), int(whole.times_ms[n - 1]))
            states.observe(0, int(whole.rows[n - 1]), int(whole.times_ms[n - 1]))
        now_ms = int(whole.times_ms[n - 1]) + HOUR
        expected = oracle(model, histories[0], now_ms)
        assert np.abs(vector(states, 0, now_ms) - expected).max() < BOUND
    assert states.stats.appends == length - 1
    assert states.stats.rebuilds == 1


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rounded_states_are_append_exact(precision: Precision) -> None:
    """Condition 6: the oracle rounds as the states do, and then nothing is left but rounding."""
    whole = random_history(np.random.default_rng(2), 40)
    histories = {0: History(whole.rows[:1], whole.times_ms[:1])}
    states = states_of(histories, precision=precision)
    model, off, audits = tiny_model(), [], []
    vector(states, 0, START_MS)
    for row, time_ms in zip(whole.rows[1:].tolist(), whole.times_ms[1:].tolist(), strict=True):
        append(histories, 0, row, time_ms)
        states.observe(0, row, time_ms)
        expected = oracle(model, histories[0], time_ms + HOUR, precision)
        off.append(np.abs(vector(states, 0, time_ms + HOUR) - expected).max())
        audits.append(states.audit(0))
    assert np.median(off) < BOUND and max(off) < BOUNDS[precision]
    assert np.median(audits) < BOUND and max(audits) < BOUNDS[precision]
    assert states.stats.appends == 39 and states.stats.audit_failures == 0
    unrounded = oracle(model, histories[0], time_ms + HOUR)
    assert np.abs(unrounded - expected).max() > 1e-3 * (precision == "int8")


def test_positions_are_relative() -> None:
    """Condition 2: a state that counted from another start gives the same answers."""
    history = random_history(np.random.default_rng(3), 50)
    graphs = tiny_graphs()
    field = graphs.shape.receptive_field
    now = np.array([int(history.times_ms[-1]) + HOUR])
    pool = HistoryEncoder(graphs)
    whole, _ = pool([history], now)
    shifted, _ = pool([history.last(field)], now)
    # To the last bits of entries of up to 20, the length of a vector.
    np.testing.assert_allclose(whole, shifted, rtol=5e-7, atol=1e-6)


def test_graphs_of_the_first_format_serve_as_before() -> None:
    """They count positions from what is encoded, which in float32 makes no difference."""
    encode = onnx.load_model_from_string(tiny_files()["encode"])
    (start,) = (node for node in encode.graph.input if node.name == "start")
    encode.graph.input.remove(start)
    encode.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "start"))
    files = {**tiny_files(), "encode": encode.SerializeToString()}
    older = Graphs(files, tiny_graphs().table)
    histories = {0: random_history(np.random.default_rng(3), 50)}
    states = UserStates(
        older,
        max_bytes=4 * slot_bytes(older.shape),
        load_history=histories.__getitem__,
        version="test",
    )
    newest = int(histories[0].times_ms[-1])
    vector(states, 0, newest)
    assert states.pool.length_S[states.pool.slot(0)] == older.shape.receptive_field
    for step in range(1, 2 * WINDOW):
        append(histories, 0, step, newest + step)
        states.observe(0, step, newest + step)
        vector(states, 0, newest + step)
    assert states.audit(0) < BOUND and states.stats.rebuilds == 1
    now_ms = newest + HOUR
    expected = oracle(tiny_model(), histories[0], now_ms)
    assert np.abs(vector(states, 0, now_ms) - expected).max() < BOUND


def test_request_time_is_in_the_answer_and_never_in_the_state() -> None:
    """Condition 3: another request time, another answer, the same state to the last bit."""
    histories = {0: random_history(np.random.default_rng(1), 12)}
    states = states_of(histories)
    newest = int(histories[0].times_ms[-1])
    soon = vector(states, 0, newest + 1000)
    before = [array.copy() for array in (*states.pool.cache, states.pool.last_SD)]
    late = vector(states, 0, newest + 1000 * HOUR)
    assert np.abs(soon - late).max() > 1e-2
    for one, two in zip(before, (*states.pool.cache, states.pool.last_SD), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(vector(states, 0, newest + 1000), soon)


def test_without_time_the_query_is_the_identity() -> None:
    histories = {0: random_history(np.random.default_rng(1), 12)}
    states = states_of(histories, timed=False)
    early, late = vector(states, 0, START_MS), vector(states, 0, START_MS + 10**12)
    np.testing.assert_array_equal(early, late)
    np.testing.assert_array_equal(early, states.pool.last_SD[states.pool.slot(0)])


def test_normalisation_does_not_see_the_length_of_the_batch() -> None:
    """Condition 4: the same history beside a far longer one has the same keys and values."""
    rng = np.random.default_rng(5)
    short, long = random_history(rng, 5), random_history(rng, 60)
    graphs = tiny_graphs()
    alone = graphs.encode(pad_histories([short]), np.zeros(1, np.int64))
    beside = graphs.encode(pad_histories([short, long]), np.zeros(2, np.int64))
    for one, two in zip(alone[:-1], beside[:-1], strict=True):
        np.testing.assert_allclose(one[0], two[0, :5], atol=2e-6)


@timed_or_not
def test_exactly_the_receptive_field_matters(timed: bool) -> None:
    """Condition 5: the event before it is without any effect, the oldest one in it is not."""
    model = tiny_model(timed=timed)
    field = model.config.receptive_field
    assert field == 2 * (WINDOW - 1) + 1
    history = random_history(np.random.default_rng(9), field + 1)
    now_ms = int(history.times_ms[-1]) + HOUR
    before = oracle(model, history, now_ms)

    def changed(place: int) -> float:
        rows = history.rows.copy()
        rows[place] = rows[place] % (NUM_ROWS - 1) + 1
        return float(np.abs(oracle(model, History(rows, history.times_ms), now_ms) - before).max())

    assert changed(0) == 0
    assert changed(1) > 1e-9


@precisions
def test_the_pool_stores_what_the_graphs_gave(precision: Precision) -> None:
    """Condition 6: the graphs round, so nothing is rounded at write."""
    history = random_history(np.random.default_rng(2), 6)
    states = states_of({0: history}, precision=precision)
    vector(states, 0, START_MS)
    encoded = states._graphs.encode(pad_histories([history]), np.zeros(1, np.int64))
    slot = states.pool.slot(0)
    layers = 2 * rings(states.pool.shape)
    for array, ring, rows in zip(states.pool.cache, layers, encoded[:-1], strict=True):
        stored = np.moveaxis(array[slot], ring.axis, 0)[:6]
        np.testing.assert_array_equal(stored, rows[0])
        assert array.dtype == rows.dtype
    bits = {"fp32": 32, "fp16": 16, "int8": 8}[precision]
    assert states.pool.cache[0].itemsize * 8 == bits


def test_a_state_in_int8_takes_two_sevenths() -> None:
    sizes = [slot_bytes(StateShape(2, 2, 32, 200, p)) for p in ("fp32", "fp16", "int8")]
    assert sizes == [205_089, 102_689, 57_889]
    pool = StatePool(StateShape(2, 2, 32, 200, "int8"), max_bytes=10 * 57_889)
    held = [*pool.cache, pool.last_SD, pool.last_time_S, pool.length_S, pool.hash_S]
    held += [pool.epoch_S, pool.used_S]
    assert sum(array.nbytes for array in held) == 10 * 57_889


def test_output_vectors_are_no_part_of_a_state() -> None:
    """Condition 7: of all graphs, only `score` takes the output side of the item table."""
    graphs = tiny_graphs()
    takers = {name for name in graphs._graphs if "vectors" in graphs._names(name, 0)}
    assert takers == {"score"}


def test_a_late_event_takes_its_place() -> None:
    """Condition 8: an event in the middle gives what the corrected history gives."""
    histories = {0: random_history(np.random.default_rng(4), 20)}
    states, model = states_of(histories), tiny_model()
    now_ms = int(histories[0].times_ms[-1]) + HOUR
    vector(states, 0, now_ms)
    late_ms = int(histories[0].times_ms[-3]) + 1
    append(histories, 0, 17, late_ms)
    states.observe(0, 17, late_ms)
    assert np.abs(vector(states, 0, now_ms) - oracle(model, histories[0], now_ms)).max() < BOUND
    assert states.stats.invalidations == 1


def test_a_deleted_event_is_gone_after_forget() -> None:
    """Condition 8, deletion."""
    histories = {0: random_history(np.random.default_rng(4), 20)}
    states, model = states_of(histories), tiny_model()
    now_ms = int(histories[0].times_ms[-1]) + HOUR
    before = vector(states, 0, now_ms)
    keep = np.arange(20) != 15
    histories[0] = History(histories[0].rows[keep], histories[0].times_ms[keep])
    states.forget(0)
    after = vector(states, 0, now_ms)
    assert np.abs(after - oracle(model, histories[0], now_ms)).max() < BOUND
    assert np.abs(after - before).max() > 1e-3


def test_candidates_do_not_see_each_other_and_leave_no_trace() -> None:
    """Condition 9: scores in a crowd are scores alone; the pool is untouched."""
    histories = {0: random_history(np.random.default_rng(6), 10)}
    states = states_of(histories)
    query = vector(states, 0, START_MS + 10**10)[None]
    graphs, pool = states._graphs, states.pool
    before = [array.copy() for array in pool.cache]

    def scores(candidates: list[int]) -> np.ndarray:
        return graphs.score(
            query_BD=query,
            length_B=np.array([10]),
            slot_B=np.array([pool.slot(0)]),
            candidates_BK=np.array([candidates]),
            vectors_ND=graphs.item(np.arange(NUM_ROWS)),
            cache=pool.cache,
        )[0, :, 0]

    crowd = scores([3, 9, 27, 9])
    np.testing.assert_allclose(crowd, [scores([row])[0] for row in (3, 9, 27, 9)], atol=1e-5)
    for one, two in zip(before, pool.cache, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_state_is_known_by_the_content_of_its_history() -> None:
    """Condition 10: a state whose log tells another story is found and dropped."""
    histories = {0: random_history(np.random.default_rng(8), 10)}
    states = states_of(histories)
    vector(states, 0, START_MS)
    assert states.audit(0) is not None and states.audit(0) < 1e-5
    rows = histories[0].rows.copy()
    rows[0] = rows[0] % (NUM_ROWS - 1) + 1
    histories[0] = History(rows, histories[0].times_ms)
    assert states.audit(0) == float("inf")
    assert not states.contains(0)
    assert states.stats.audit_failures == 1


def test_an_audit_encodes_once_and_leaves_the_pool_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = {0: random_history(np.random.default_rng(8), 10)}
    states = states_of(histories)
    vector(states, 0, START_MS)
    encode, calls = states._graphs.encode, []
    monkeypatch.setattr(states._graphs, "encode", lambda *p: calls.append(p) or encode(*p))
    audit = states.begin_audit(0)
    assert audit is not None and not calls
    states.forget(0)
    for array in states.pool.cache:
        array[:] = np.nan
    assert audit.error() < 1e-5
    assert len(calls) == 1


@pytest.mark.parametrize("part", ["keys", "values", "last", "length"])
@pytest.mark.parametrize("layer", [0, 1])
@precisions
def test_a_corrupted_state_is_found(part: str, layer: int, precision: Precision) -> None:
    """A planted fault in any array an answer reads is found by the audit, which drops the state."""
    histories = {
        0: random_history(np.random.default_rng(8), 10),
        1: random_history(np.random.default_rng(9), 5),
    }
    states, model = states_of(histories, precision=precision), tiny_model()
    vector(states, 0, START_MS)
    vector(states, 1, START_MS)
    slot = states.pool.slot(0)
    if part == "last":
        states.pool.last_SD[slot] += 0.5
    elif part == "length":
        states.pool.length_S[slot] -= 1
    else:
        arrays = len(states.pool.cache) // 2
        array = states.pool.cache[arrays * layer + (part == "values") * arrays // 2]
        array[slot] = np.roll(array[slot], 1, axis=0)  # the heads change places
    error = states.audit(0)
    if part == "keys" and layer == 0:
        # A first-layer key is read by the next append only, so it shows with the next event.
        newest = int(histories[0].times_ms[-1])
        append(histories, 0, 5, newest + 1)
        states.observe(0, 5, newest + 1)
        error = states.audit(0)
    assert error is not None and error > BOUNDS[precision]
    assert not states.contains(0) and states.contains(1)
    assert states.stats.audit_failures == 1
    now_ms = START_MS + 10**10
    expected = oracle(model, histories[0], now_ms, precision)
    assert np.abs(vector(states, 0, now_ms) - expected).max() < BOUNDS[precision]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), precision=st.sampled_from(["fp32", "int8"]))
def test_any_course_of_events_gives_the_oracle(data: st.DataObject, precision: Precision) -> None:
    """Appends, late events, evictions, forgetting and asking, in any order, in a pool of two."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    histories = {user: random_history(rng, int(rng.integers(0, 30))) for user in range(4)}
    states, model = states_of(histories, slots=2, precision=precision), tiny_model()
    for _ in range(data.draw(st.integers(1, 25))):
        user = data.draw(st.integers(0, 3))
        action = data.draw(st.sampled_from(["event", "event", "late", "ask", "forget", "audit"]))
        newest = int(histories[user].times_ms[-1]) if len(histories[user]) else START_MS
        if action in ("event", "late"):
            row = data.draw(st.integers(1, NUM_ROWS - 1))
            back = 10**8 if action == "late" else 0
            time_ms = newest + data.draw(st.integers(0, 10**8)) - back
            append(histories, user, row, time_ms)
            states.observe(user, row, time_ms)
        elif action == "forget":
            states.forget(user)
        elif action == "audit":
            error = states.audit(user)
            assert error is None or error < BOUNDS[precision]
        else:
            states.query([user, 0], newest)
    now_ms = max(int(h.times_ms[-1]) if len(h) else START_MS for h in histories.values()) + HOUR
    vectors, known = states.query([0, 1, 2, 3], now_ms)
    for user, history in histories.items():
        assert known[user] == (len(history) > 0)
        if known[user]:
            expected = oracle(model, history, now_ms, precision)
            assert np.abs(vectors[user] - expected).max() < BOUNDS[precision]
    assert states.stats.audit_failures == 0


def test_who_comes_in_does_not_give_way_to_who_comes_in_as_well() -> None:
    """Found by the courses above: a state used lately stayed, and the newest of all went."""
    rng = np.random.default_rng(3)
    histories = {user: random_history(rng, 5 * (user == 2)) for user in range(3)}
    states = states_of(histories, slots=2)
    for _ in range(2):
        states.query([2, 0], START_MS)
    for user in (0, 1):
        append(histories, user, 1 + user, START_MS)
    assert states.query([0, 1], START_MS + HOUR)[1] == [True, True]


def test_items_the_bundle_does_not_know_leave_no_trace() -> None:
    history = random_history(np.random.default_rng(1), 9)
    rows = history.rows.copy()
    rows[4] = NUM_ROWS + 3
    histories = {0: History(rows, history.times_ms)}
    states = states_of(histories)
    keep = np.arange(9) != 4
    known = History(history.rows[keep], history.times_ms[keep])
    newest = int(history.times_ms[-1])
    expected = oracle(tiny_model(), known, newest)
    assert np.abs(vector(states, 0, newest) - expected).max() < BOUND
    states.observe(0, NUM_ROWS + 3, newest + 5)
    assert np.abs(vector(states, 0, newest) - expected).max() < BOUND


def test_sessions_are_answered_and_not_stored() -> None:
    history = random_history(np.random.default_rng(1), 9)
    states = states_of({})
    now_ms = int(history.times_ms[-1]) + HOUR
    found = states.query_session(history, now_ms)
    assert found is not None
    assert np.abs(found - oracle(tiny_model(), history, now_ms)).max() < BOUND
    assert len(states.pool) == 0
    assert states.query_session(History(np.empty(0, np.int32), np.empty(0, np.int64)), 1) is None


def test_hashing_a_history_at_once_and_by_extension_agree() -> None:
    from ouzel.inference.pool import extend_hash

    history = random_history(np.random.default_rng(1), 300)
    digest = 0
    for row, time_ms in zip(history.rows.tolist(), history.times_ms.tolist(), strict=True):
        digest = extend_hash(digest, row, time_ms)
    assert digest == history_hash(history)
    swapped = History(history.rows[::-1].copy(), history.times_ms)
    assert history_hash(swapped) != digest


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="give it at least"):
        StatePool(tiny_graphs().shape, max_bytes=100)


def test_long_counting_keeps_its_precision() -> None:
    """Positions turn periodically, so the thousandth event is as exact as the first."""
    model = tiny_model()
    positions = torch.tensor([5, 5 + 2048, 5 + 2048 * 10**6])
    cos, _ = model.rotary(positions, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(cos[0], cos[1], rtol=0, atol=0)
    torch.testing.assert_close(cos[0], cos[2], rtol=0, atol=0)


def test_an_encode_that_fails_leaves_nobody_in_the_slot_of_another(monkeypatch) -> None:
    histories = {user: random_history(np.random.default_rng(user), 5) for user in range(2)}
    states = states_of(histories, slots=1)
    now = int(max(history.times_ms[-1] for history in histories.values())) + HOUR
    vector(states, 0, now)
    with monkeypatch.context() as patched:
        patched.setattr(Graphs, "encode", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            states.query([1], now)
    assert not states.contains(1)
    found = vector(states, 1, now)
    np.testing.assert_allclose(found, oracle(tiny_model(), histories[1], now), atol=BOUND)


def test_an_append_that_fails_leaves_no_state_behind_the_log(monkeypatch) -> None:
    histories = {0: random_history(np.random.default_rng(9), 6)}
    states = states_of(histories)
    now_ms = int(histories[0].times_ms[-1]) + 2 * HOUR
    vector(states, 0, now_ms)
    append(histories, 0, 4, now_ms - HOUR)
    states.observe(0, 4, now_ms - HOUR)

    def failing(**_):
        raise RuntimeError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(states._graphs, "append", failing)
        with pytest.raises(RuntimeError, match="planted"):
            states.drain(8)
    assert not states.contains(0)
    expected = oracle(tiny_model(), histories[0], now_ms)
    assert np.abs(vector(states, 0, now_ms) - expected).max() < BOUND
