"""VMIS-kNN against a slow version written from the paper with dictionaries and loops."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from ouzel.events.interactions import History, from_histories
from ouzel.retrieval.types import Query
from ouzel.retrieval.vmis import VMISConfig, VMISkNN


def slow_scores(sessions, query, config):
    """`sessions`: (end time, set of items), in order of time; `query`: items, oldest first."""
    known = set().union(*(items for _, items in sessions)) if sessions else set()
    recent = []
    for item in reversed([item for item in query if item > 0]):
        if item not in recent and len(recent) < config.last:
            recent.append(item)
    weights = {item: len(recent) - at for at, item in enumerate(recent)}
    met = set()
    for item in recent:
        holding = [at for at, (_, items) in enumerate(sessions) if item in items]
        met.update((at, item) for at in holding[-config.recent :])
    newest = sorted({at for at, _ in met})[-config.recent :]
    overlap = defaultdict(float)
    first = {}
    for at, item in met:
        if at in newest:
            overlap[at] += weights[item] / len(recent)
            steps = len(recent) + 1 - weights[item]
            first[at] = min(first.get(at, 99), steps)
    chosen = sorted(newest, key=lambda at: (round(overlap[at], 9), at))[-config.neighbours :]
    scores = defaultdict(float)
    for at in chosen:
        match = 1 - 0.1 * first[at] if first[at] < 10 else 0
        for item in sessions[at][1]:
            scores[item] += match * overlap[at]
    counts = {item: sum(item in items for _, items in sessions) for item in known}
    return {item: s * math.log(len(sessions) / counts[item]) for item, s in scores.items()}


def history(rows, start=0):
    return History(np.array(rows, np.int32), np.arange(start, start + len(rows), dtype=np.int64))


visits = st.lists(
    st.lists(st.integers(1, 12), min_size=2, max_size=8, unique=True), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(
    visits=visits,
    query=st.lists(st.integers(0, 14), max_size=14),
    recent=st.integers(1, 12),
    neighbours=st.integers(1, 12),
    last=st.integers(1, 9),
)
def test_equals_the_slow_version(visits, query, recent, neighbours, last):
    config = VMISConfig(recent, neighbours, last)
    x = from_histories([history(v, 100 * at) for at, v in enumerate(visits)], num_rows=13)
    rows, scores = VMISkNN.fit(x, config).scores(np.array(query, np.int32))
    known = [item for item in query if item < 13]
    wanted = slow_scores([(at, set(v)) for at, v in enumerate(visits)], known, config)
    assert rows.tolist() == sorted(wanted)
    np.testing.assert_allclose(scores, [wanted[row] for row in rows.tolist()], rtol=1e-5, atol=1e-6)


@pytest.fixture
def model():
    rng = np.random.default_rng(3)
    visits = [history(rng.integers(1, 40, 6), 10 * at) for at in range(200)]
    return VMISkNN.fit(from_histories(visits, num_rows=40), VMISConfig(50, 20, 5))


def test_round_trip_through_safetensors(model):
    again = VMISkNN.from_tensors(load(save(model.to_tensors())))
    for row in range(1, 40):
        for one, other in zip(
            model.scores(np.array([row], np.int32)),
            again.scores(np.array([row], np.int32)),
            strict=True,
        ):
            assert (one == other).all()


def test_a_planted_wrong_weight_is_seen(model):
    tensors = {name: array.copy() for name, array in model.to_tensors().items()}
    tensors["config"][1] = 1
    query = np.array([1, 2, 3], np.int32)
    assert len(VMISkNN.from_tensors(tensors).scores(query)[0]) < len(model.scores(query)[0])


def test_damaged_tensors_are_refused(model):
    tensors = model.to_tensors()
    with pytest.raises(ValueError, match="config"):
        VMISkNN.from_tensors({**tensors, "config": np.zeros(2, np.int64)})
    with pytest.raises(ValueError, match="damaged"):
        VMISkNN.from_tensors({**tensors, "rows": np.zeros(3, np.int32)})


def test_source_is_sorted_and_skips_what_is_forbidden(model):
    seen = np.array([4, 9], np.int32)
    query = Query(k=5, now_ms=0, history=history([4, 9]), forbidden=seen)
    found = model.candidates(query, 5)
    assert len(found) == 5 and found.names == ("vmis",)
    assert not set(found.rows_K.tolist()) & {0, 4, 9}
    assert (np.diff(found.scores_K) <= 0).all()


@pytest.mark.parametrize("rows", [[], [0], [999]])
def test_nothing_known_gives_nothing(model, rows):
    assert len(model.candidates(Query(k=5, now_ms=0, history=history(rows)), 5)) == 0


def test_no_sessions_gives_nothing():
    assert len(VMISkNN.fit(from_histories([], num_rows=4)).scores(np.array([1], np.int32))[0]) == 0


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 10)])
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="give"):
        VMISConfig(*numbers)
